# SPDX-License-Identifier: Apache-2.0
"""Why a response is not acted on."""

from __future__ import annotations

from enum import StrEnum

import timebill_ros.msg as msg
from timebill_ros.node.conversions import REASONS, nanoseconds
from timebill_ros.runtime.clock import seconds

_REASONS = {number: reason.value for reason, number in REASONS.items()}
# How far ahead of this machine's clock the sender's may be, s.
_CLOCK_TOLERANCE = 0.1


class Refusal(StrEnum):
    """What was wrong, as the diagnostics count it."""

    DISABLED = "disabled"
    STALE = "stale"
    LATE = "late"
    TRUNCATED = "truncated"
    OVERRUN = "overrun"
    INVALID = "invalid"
    REPEATED = "repeated"
    SUPERSEDED = "superseded"
    NO_CONTEXT = "no context"
    ABSENT = "nobody there"
    TIMEOUT = "service silent"
    FAILED = "service failed"
    STATE = "route state"


class Refused(Exception):
    """Nothing is done.

    Attributes:
        refusal: the reason, as it is counted.
        detail: the reason in words.
    """

    def __init__(self, refusal: Refusal, detail: str) -> None:
        """Name the reason."""
        super().__init__(f"{refusal}: {detail}")
        self.refusal = refusal
        self.detail = detail


def check_timely(response: msg.Response, *, now_ns: int, max_age: float) -> None:
    """Let a response pass that is whole, in time and recent.

    Args:
        response: as it arrived.
        now_ns: the present instant of ROS time.
        max_age: longest time since the instruction's release, s: the scene that it speaks of is
            that old.

    Raises:
        Refused: LATE, TRUNCATED or STALE.
    """
    if response.late:
        raise Refused(Refusal.LATE, "it came after its deadline")
    if response.truncated or response.finish_reason == msg.Response.LENGTH:
        raise Refused(Refusal.TRUNCATED, "it was cut short")
    age = seconds(now_ns - nanoseconds(response.header.stamp))
    if age > max_age:
        raise Refused(Refusal.STALE, f"its instruction is {age:.3f} s old, {max_age:g} may it be")
    if age < -_CLOCK_TOLERANCE:
        raise Refused(Refusal.STALE, f"its instruction lies {-age:.3f} s in the future")


def overrun_refusal(overrun: msg.Overrun) -> Refused:
    """What an instruction without a response comes to."""
    return Refused(Refusal.OVERRUN, f"{_REASONS.get(overrun.reason, 'unknown')}: {overrun.detail}")
