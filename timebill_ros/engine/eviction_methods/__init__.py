# SPDX-License-Identifier: Apache-2.0
"""Eviction methods: which tokens of a prompt stay in the cache when only so many may."""
