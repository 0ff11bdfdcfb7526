# SPDX-License-Identifier: Apache-2.0
"""Seeded driving-scene tasks as text: a scene log, an instruction, and the reference answer."""
