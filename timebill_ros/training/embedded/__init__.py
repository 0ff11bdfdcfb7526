# SPDX-License-Identifier: Apache-2.0
"""The recipe of the embedded language model and of its length predictor."""
