# SPDX-License-Identifier: Apache-2.0
"""The engine: load a causal language model, prefill, score, evict, decode, measure."""
