# SPDX-License-Identifier: Apache-2.0
"""From prompts to the lengths of a target's answers: what a length predictor learns from."""
