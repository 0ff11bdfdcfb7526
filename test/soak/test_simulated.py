# SPDX-License-Identifier: Apache-2.0
"""A bounded part of the soak, and whether it would notice a broken promise."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from timebill_ros.runtime.outcome import Outcome, Overrun, Reason

from .simulated import Round, rounds


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without the log of failures, which are drawn by the thousand."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_round_can_be_repeated_exactly() -> None:
    first, again, other = Round(7), Round(7), Round(8)
    for each in (first, again, other):
        each.run()
    assert first.counts == again.counts
    assert first.counts != other.counts


def test_some_rounds_end_every_instruction_once_and_in_every_way() -> None:
    ended: set[str] = set()
    for done in rounds(0, 20_000):
        assert done.violations == []
        ended |= done.counts.keys()
    assert ended == {"response", *(reason.value for reason in Reason if reason is not Reason.LATE)}


@pytest.mark.slow
def test_many_rounds_end_every_instruction_once() -> None:
    for done in rounds(1000, 150_000):
        assert done.violations == []


class Forgetful(Round):
    """Stands for a server that forgets an outcome."""

    def hear(self, outcome: Outcome) -> None:
        if outcome.job.id != "id 5":
            super().hear(outcome)


class Stammering(Round):
    """Stands for a server that tells an outcome twice."""

    def hear(self, outcome: Outcome) -> None:
        super().hear(outcome)
        if outcome.job.id == "id 5" and not (isinstance(outcome, Overrun) and not outcome.terminal):
            super().hear(outcome)


@pytest.mark.parametrize(
    ("broken", "what"), [(Forgetful, "0 terminal"), (Stammering, "2 terminal")]
)
def test_a_broken_promise_is_told_with_its_seed(broken: type[Round], what: str) -> None:
    each = broken(seed=0)
    each.run()
    assert each.violations
    assert any(violation.startswith(f"seed 0: 'id 5': {what}") for violation in each.violations)
