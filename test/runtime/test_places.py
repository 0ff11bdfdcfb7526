# SPDX-License-Identifier: Apache-2.0
"""Who has a place in the queue, and when an id and a place are free again, in virtual time."""

from __future__ import annotations

from timebill_ros.runtime.outcome import Outcome, Overrun, Reason
from timebill_ros.runtime.policy import OverrunPolicy

from .simulated import Scene


def test_a_full_queue_rejects_with_its_capacity() -> None:
    scene = Scene(queue_capacity=2)
    for i, name in enumerate(["runs", "w1", "w2", "full"]):
        scene.job(name, release_ms=i)
    assert scene.story()[0] == ("full", "rejected", 3.0)
    assert scene.overrun("full").detail == "queue: full with 2 instructions"


def test_a_full_queue_gives_up_its_least_urgent_job_for_a_more_urgent_one() -> None:
    scene = Scene(queue_capacity=2)
    scene.job("runs")
    scene.job("patient", release_ms=1, budget_ms=60_000)
    scene.job("later", release_ms=2, budget_ms=5_000)
    scene.job("urgent", release_ms=3, budget_ms=500)
    scene.job("as patient as any", release_ms=4, budget_ms=60_000)
    assert scene.story() == [
        ("patient", "rejected", 3.0),
        ("as patient as any", "rejected", 4.0),
        ("runs", "response", 20.0),
        ("urgent", "response", 40.0),
        ("later", "response", 60.0),
    ]
    displaced = "queue: full with 2 instructions, displaced by the more urgent 'urgent'"
    assert scene.overrun("patient").detail == displaced


def test_of_equal_deadlines_the_one_that_came_first_keeps_its_place() -> None:
    scene = Scene(queue_capacity=1)
    scene.job("runs")
    for name in ("first", "second"):
        scene.job(name, release_ms=1, budget_ms=500)
    assert scene.story()[0] == ("second", "rejected", 1.0)


def test_places_of_expired_jobs_are_free_before_anything_is_displaced() -> None:
    scene = Scene(queue_capacity=2, chunk=1000)
    scene.job("runs")  # until 10.0 in one piece
    scene.job("expires", release_ms=1, budget_ms=5)
    scene.job("patient", release_ms=1, budget_ms=60_000)
    scene.job("urgent", release_ms=7, budget_ms=500)
    assert [s[:2] for s in scene.story()] == [
        ("expires", "expired"),
        ("runs", "response"),
        ("urgent", "response"),
        ("patient", "response"),
    ]


def test_the_names_of_expired_jobs_are_free_at_their_deadline() -> None:
    scene = Scene(chunk=1000)
    scene.job("runs")  # until 10.0 in one piece
    scene.job("a", release_ms=1, budget_ms=5)
    scene.job("a", release_ms=7, budget_ms=500)
    assert scene.story() == [
        ("a", "expired", 7.0),
        ("runs", "response", 20.0),
        ("a", "response", 40.0),
    ]


def test_a_reply_to_an_outcome_may_have_its_id_and_is_behind_nothing() -> None:
    replied: list[str] = []

    def reply(outcome: Outcome) -> None:
        if len(replied) < 2 and not (isinstance(outcome, Overrun) and not outcome.terminal):
            replied.append(outcome.job.id)
            assert scene.server.queue_depth == 0
            scene.server.submit(scene.job("late", release_ms=40, response_tokens=11))

    scene = Scene(policy=OverrunPolicy.SKIP_NEXT, hear=reply)
    scene.server.submit(scene.job("late", budget_ms=15, response_tokens=31))
    scene.run_submitted()
    assert [(o.job.id, getattr(o, "reason", None)) for o in scene.outcomes] == [
        ("late", Reason.LATE),
        ("late", None),
        ("late", None),
        ("late", None),
    ]


def test_the_server_is_idle_only_once_the_last_outcome_is_out() -> None:
    idle: list[bool] = []
    scene = Scene(hear=lambda _: idle.append(scene.server.wait_until_idle(0.0)))
    scene.job("a")
    scene.run()
    assert idle == [False]
    assert scene.server.wait_until_idle(0.0)


def test_an_id_is_rejected_while_it_is_in_flight_and_free_afterwards() -> None:
    scene = Scene()
    scene.job("a", release_ms=0)
    scene.job("a", release_ms=5)
    scene.job("a", release_ms=50)
    assert scene.story() == [
        ("a", "rejected", 5.0),
        ("a", "response", 20.0),
        ("a", "response", 70.0),
    ]


def test_the_queue_remembers_how_deep_it_was_until_asked() -> None:
    scene = Scene()
    for name in "abc":
        scene.job(name, budget_ms=500)
    scene.run()
    assert scene.server.queue_depth == 0
    assert scene.server.take_queue_peak() == 3
    assert scene.server.take_queue_peak() == 0
