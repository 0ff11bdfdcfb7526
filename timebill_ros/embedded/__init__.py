# SPDX-License-Identifier: Apache-2.0
"""The embedded language model and its length predictor: shipped checkpoints, no code."""
