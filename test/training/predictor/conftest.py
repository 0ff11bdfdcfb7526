# SPDX-License-Identifier: Apache-2.0
"""The untrained predictors of the predictor's own tests."""

from test.predictor import conftest

embedded = conftest.embedded
