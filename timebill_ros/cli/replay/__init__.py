# SPDX-License-Identifier: Apache-2.0
"""Replays recorded instructions, into a node or in virtual time, and says what became of them."""
