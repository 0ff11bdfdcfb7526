# SPDX-License-Identifier: Apache-2.0
"""Commands for people: , over the rooms below."""
