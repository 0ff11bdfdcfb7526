# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.pace import AS_PROFILED, Pace, lateness, pace_for


@given(st.floats(0.0, 5.0), st.floats(1e-4, 100.0))
def test_worst_and_profiled_within_are_each_other_s_inverse(margin: float, work: float) -> None:
    pace = Pace(margin)
    assert pace.profiled_within(pace.worst(work)) == pytest.approx(work)


@given(st.floats(1e-4, 10.0), st.floats(1e-4, 10.0))
def test_work_as_late_as_the_pace_takes_just_its_worst(measured: float, profiled: float) -> None:
    assert Pace(lateness(measured, profiled)).worst(profiled) == pytest.approx(measured)


def test_no_work_takes_no_time() -> None:
    assert Pace(2.0).worst(0.0) == 0.0


def test_a_short_time_may_be_late_by_more_than_its_share() -> None:
    pace = Pace(0.5)
    assert pace.worst(1.0) == pytest.approx(1.5, abs=0.01)
    assert pace.worst(0.001) > 0.003


@pytest.mark.parametrize(
    ("risk", "margin"),
    [(0.05, 0.19), (0.1, 0.18), (0.5, 0.1), (0.04, 0.19), (0.001, 0.19)],
)
def test_a_rank_decides(risk: float, margin: float) -> None:
    seen = [n / 100 for n in range(19, 0, -1)]
    assert pace_for(risk, seen).margin == margin


def test_nothing_seen_and_no_risk_are_as_profiled() -> None:
    assert pace_for(0.05, []) == AS_PROFILED
    assert pace_for(0.0, [1.0] * 100) == AS_PROFILED


def test_a_fast_machine_promises_no_more_than_was_profiled() -> None:
    assert pace_for(0.05, [-0.5] * 100) == AS_PROFILED


@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_at_most_the_share_risk_of_new_requests_is_later(risk: float) -> None:
    rng = np.random.default_rng(0)
    late = rng.gamma(2.0, 0.1, (2000, 100))
    missed = [pace_for(risk, seen).margin < new for *seen, new in late.tolist()]
    assert risk - 0.02 < np.mean(missed) < risk + 0.015
