# SPDX-License-Identifier: Apache-2.0
"""What happens to a job that reaches its deadline unfinished."""

from __future__ import annotations

from enum import Enum


class OverrunPolicy(Enum):
    """Kill stops the late job; Skip-Next lets it end and skips the jobs behind it."""

    KILL = "kill"
    SKIP_NEXT = "skip_next"
