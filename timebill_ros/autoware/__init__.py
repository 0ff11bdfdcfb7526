# SPDX-License-Identifier: Apache-2.0
"""Between the node's answers and an Autoware vehicle: an adapter node of its own."""
