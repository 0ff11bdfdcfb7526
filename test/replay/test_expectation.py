# SPDX-License-Identifier: Apache-2.0
"""What is expected of a replay's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from test.client.records import ANSWERED, EXPIRED, LATE
from timebill_ros.client.record import Record
from timebill_ros.replay.figures import Expectation, Figures


def answered(total: float) -> Record:
    return replace(ANSWERED, timing=replace(ANSWERED.timing, total=total, slack=1.0 - total))


FIGURES = Figures([*(answered(n / 100) for n in range(1, 97)), LATE, EXPIRED, EXPIRED, EXPIRED])


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("completion>=0.95", True),
        ("completion>=0.96", True),
        ("completion >= 0.97", False),
        ("completion==0.96", True),
        ("completion>0.96", False),
        ("completion<=0.95", False),
        (" expired==3 ", True),
        ("missing==0", True),
        ("completion==0.9", False),
        ("miss_ratio<=0.04", True),
        ("miss_ratio<0.04", False),
        ("latency_p99.9>1", True),
        ("slack_p01>-1e-3", True),
        ("expired>3", False),
    ],
)
def test_expectations(text: str, holds: bool) -> None:
    assert (Expectation.parse(text).failure(FIGURES) is None) is holds


def test_a_failed_expectation_says_what_was_found() -> None:
    failure = Expectation.parse("completion>=0.97").failure(FIGURES)
    assert failure == "expected completion >= 0.97: it is 0.96"
    nothing = Expectation.parse("latency_p99<=1").failure(Figures([EXPIRED]))
    assert nothing == "expected latency_p99 <= 1: nothing has it"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("completion", "is no expectation like completion>=0.95"),
        ("completion=>0.9", "is no expectation"),
        ("completion>=", "is no expectation"),
        ("completion>=most", "'most' is no number"),
        ("completion>=nan", "is not finite"),
        ("speed>=1", "no figure speed: there are instructions"),
        ("latency_p9x<1", "no figure latency_p9x"),
    ],
)
def test_bad_expectations_are_named(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Expectation.parse(text)
