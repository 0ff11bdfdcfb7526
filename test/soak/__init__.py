# SPDX-License-Identifier: Apache-2.0
"""Long runs that look for a broken promise: ``make soak``."""
