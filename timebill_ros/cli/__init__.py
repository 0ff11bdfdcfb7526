# SPDX-License-Identifier: Apache-2.0
"""Commands for people: thin, over the rooms below."""
