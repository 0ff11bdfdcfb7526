# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: parameters, topics, action, diagnostics, and messages of values."""
