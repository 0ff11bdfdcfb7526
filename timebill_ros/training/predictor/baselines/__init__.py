# SPDX-License-Identifier: Apache-2.0
"""The length predictors that the paper compares its own with, for measuring only."""
