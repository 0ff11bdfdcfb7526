# SPDX-License-Identifier: Apache-2.0
"""What makes models and predictors: nothing that runs on a robot imports it."""
