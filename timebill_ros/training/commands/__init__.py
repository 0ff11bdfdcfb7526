# SPDX-License-Identifier: Apache-2.0
"""Commands that collect answers and train and evaluate length predictors."""
