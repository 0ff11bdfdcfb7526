# SPDX-License-Identifier: Apache-2.0
"""Recordings and traces of instructions, replayed against a live node or in virtual time."""
