# SPDX-License-Identifier: Apache-2.0
"""The response length predictor (RLP): model, training, loading."""
