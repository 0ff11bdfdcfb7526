# SPDX-License-Identifier: Apache-2.0
"""Which responses are too late, too old or too short to be acted on."""

from __future__ import annotations

import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from timebill_ros.autoware.refusal import Refusal, Refused, check_timely, overrun_refusal
from timebill_ros.msg import Overrun, Response

RELEASE = Header(stamp=Time(sec=100))
GOOD = {"finish_reason": Response.EOS, "late": False, "truncated": False}
NOW = 101 * 10**9


def check(now_ns: int = NOW, **changes: object) -> None:
    check_timely(Response(header=RELEASE, **{**GOOD, **changes}), now_ns=now_ns, max_age=1.5)


def test_a_whole_and_recent_response_passes() -> None:
    check()
    check(finish_reason=Response.STOP)
    check(now_ns=NOW + 500_000_000)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"late": True}, Refusal.LATE),
        ({"truncated": True}, Refusal.TRUNCATED),
        ({"finish_reason": Response.LENGTH}, Refusal.TRUNCATED),
        ({"now_ns": NOW + 500_000_001}, Refusal.STALE),
        ({"now_ns": 100 * 10**9 - 200_000_000}, Refusal.STALE),
    ],
)
def test_others_do_not(changes: dict, refusal: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        check(**changes)
    assert refused.value.refusal is refusal


def test_an_overrun_is_told_by_its_reason() -> None:
    refused = overrun_refusal(Overrun(reason=Overrun.KILLED, detail="deadline: reached"))
    assert (refused.refusal, refused.detail) == (Refusal.OVERRUN, "killed: deadline: reached")
