# SPDX-License-Identifier: Apache-2.0
"""Records of instructions that nobody ran."""

from __future__ import annotations

from dataclasses import replace

from timebill_ros.client.record import Ending, Planned, Record
from timebill_ros.runtime.outcome import Timing

ANSWERED = Record(
    id="t04",
    prompt_tokens=3005,
    released=100.0,
    budget=0.512,
    ending=Ending.IN_TIME,
    response_tokens=97,
    plan=Planned(
        predicted_tokens=96,
        planned_tokens=400,
        alpha=0.42,
        feasible=True,
        predicted_time=0.371,
        wcet=0.512,
    ),
    timing=Timing(
        queued=0.02,
        predict=0.004,
        prefill=0.21,
        evict=0.003,
        decode=0.14,
        total=0.377,
        slack=0.135,
    ),
    text="o1 s2 car ;",
)
EXPIRED = replace(
    ANSWERED,
    id="h17",
    ending=Ending.EXPIRED,
    response_tokens=0,
    plan=None,
    timing=Timing(queued=0.53, total=0.53, slack=-0.018),
    text="",
    detail="deadline: reached while the instruction waited in the queue",
)
KILLED_IN_PREFILL = replace(
    EXPIRED,
    id="h10",
    ending=Ending.KILLED,
    timing=Timing(queued=0.01, predict=0.004, prefill=0.9, total=0.91, slack=-0.398),
)
UNPREDICTED = replace(
    ANSWERED,
    id="c01",
    plan=Planned(
        predicted_tokens=0,
        planned_tokens=400,
        alpha=0.0,
        feasible=True,
        predicted_time=0.4,
        wcet=0.4,
    ),
)
LATE = replace(
    ANSWERED, id="h11", ending=Ending.LATE, timing=replace(ANSWERED.timing, total=2.0, decode=1.7)
)
ALL = [ANSWERED, EXPIRED, KILLED_IN_PREFILL, UNPREDICTED, LATE]
