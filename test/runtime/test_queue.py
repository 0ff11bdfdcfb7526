# SPDX-License-Identifier: Apache-2.0
"""The queue against a sorted list, and at its edges."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.engine.request import Conversation, PreparedRequest
from timebill_ros.runtime.admission import PreparedJob
from timebill_ros.runtime.job import CANNED_NS, Job
from timebill_ros.runtime.queue import DeadlineQueue

deadlines = st.lists(st.integers(0, 5), max_size=12)


def job(deadline_ns: int, release_ns: int = 0, name: str = "a", text: str = "") -> Job:
    return Job(name, Conversation("", "stop"), release_ns, deadline_ns, fallback_text=text)


def filled(jobs: list[Job]) -> DeadlineQueue:
    queue = DeadlineQueue(len(jobs))
    for each in jobs:
        queue.push(each)
    return queue


def prepare_all(queue: DeadlineQueue) -> None:
    while (waiting := queue.take_unprepared()) is not None:
        queue.keep_prepared(PreparedJob(waiting, PreparedRequest([]), 1))


def pop(queue: DeadlineQueue) -> Job | None:
    """The most urgent job, once it is prepared."""
    prepare_all(queue)
    prepared = queue.pop_prepared()
    return None if prepared is None else prepared.job


def emptied(queue: DeadlineQueue) -> list[Job]:
    """What is popped, one after another."""
    return list(iter(lambda: pop(queue), None))


def by_urgency(jobs: list[Job]) -> list[Job]:
    return sorted(jobs, key=lambda each: each.deadline_ns)  # stable: arrival decides


def assert_same(found: list[Job], expected: list[Job]) -> None:
    """The very same jobs: equal ones have the same deadline, so identity tells their order."""
    assert [id(each) for each in found] == [id(each) for each in expected]


@given(deadlines)
def test_the_most_urgent_comes_first_and_of_equals_the_earliest(times: list[int]) -> None:
    jobs = [job(time) for time in times]
    assert_same(emptied(filled(jobs)), by_urgency(jobs))
    assert_same(filled(jobs).pop_all(), by_urgency(jobs))


def test_order_of_arrival_outlasts_what_left_in_between() -> None:
    waiting = [job(7) for _ in range(4)]
    queue = filled([job(1), job(2), waiting[0]])
    pop(queue)
    pop(queue)
    for each in waiting[1:]:
        queue.push(each)
    assert queue.remove(waiting[0])
    assert_same(emptied(queue), waiting[1:])


@given(deadlines, st.integers(-1, 6))
def test_what_has_expired_by_an_instant_goes_and_the_rest_stays(
    times: list[int], now_ns: int
) -> None:
    jobs = by_urgency([job(time) for time in times])
    queue = filled(jobs)
    # A deadline that has just been reached leaves no time at all.
    assert_same(queue.pop_expired(now_ns), [j for j in jobs if j.deadline_ns <= now_ns])
    assert_same(emptied(queue), [j for j in jobs if j.deadline_ns > now_ns])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), st.integers(-3, 6))
def test_what_has_a_text_of_its_own_expires_while_that_can_still_be_told(
    kinds: list[tuple[int, bool]], instant: int
) -> None:
    third = CANNED_NS // 3
    jobs = by_urgency([job(time * third, text="stop" if own else "") for time, own in kinds])
    queue = filled(jobs)
    assert queue.next_expiry_ns == min((j.answer_by_ns for j in jobs), default=None)
    now_ns = instant * third
    assert_same(queue.pop_expired(now_ns), [j for j in jobs if j.answer_by_ns <= now_ns])
    assert_same(emptied(queue), [j for j in jobs if j.answer_by_ns > now_ns])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.integers(-1, 6))
def test_what_was_released_after_an_instant_goes_and_the_rest_stays_in_order(
    times: list[tuple[int, int]], instant_ns: int
) -> None:
    jobs = [job(deadline, release) for deadline, release in times]
    queue, urgent = filled(jobs), by_urgency(jobs)
    popped = queue.pop_released_after(instant_ns)
    assert_same(popped, [j for j in urgent if j.release_ns > instant_ns])
    more = job(3, instant_ns)
    queue.push(more)
    rest = [j for j in urgent if j.release_ns <= instant_ns]
    assert_same(emptied(queue), by_urgency([*rest, more]))


@given(deadlines, st.data())
def test_removing_takes_the_very_job_and_keeps_the_order(
    times: list[int], data: st.DataObject
) -> None:
    jobs = [job(time) for time in [2, *times]]
    gone = data.draw(st.sampled_from(jobs))
    queue = filled(jobs)
    assert not queue.remove(job(gone.deadline_ns))  # an equal one that never came
    assert queue.remove(gone)
    assert not queue.remove(gone)
    assert_same(emptied(queue), by_urgency([each for each in jobs if each is not gone]))


def test_it_is_full_at_its_capacity_and_has_room_again() -> None:
    queue = DeadlineQueue(2)
    fullness = [queue.full]
    for _ in range(2):
        queue.push(job(1))
        fullness.append(queue.full)
    pop(queue)
    assert [*fullness, queue.full] == [False, False, True, False]


def test_the_peak_starts_anew_at_what_waits() -> None:
    queue = filled([job(1), job(2), job(3)])
    pop(queue)
    assert (len(queue), queue.take_peak()) == (2, 3)
    assert queue.take_peak() == 2
    queue.pop_all()
    queue.push(job(1))
    assert queue.take_peak() == 2
    assert queue.take_peak() == 1


def test_nothing_comes_of_nothing() -> None:
    queue = DeadlineQueue(0)
    assert queue.full
    assert pop(queue) is None
    assert queue.pop_all() == queue.pop_expired(10) == queue.pop_released_after(0) == []
    assert not queue.remove(job(1))
    assert queue.take_peak() == 0


def test_the_most_urgent_is_prepared_first_and_each_once() -> None:
    jobs = [job(3), job(1), job(2)]
    queue = filled(jobs)
    taken = list(iter(queue.take_unprepared, None))
    assert_same(taken, by_urgency(jobs))
    assert not queue.has_unprepared()
    assert not queue.has_prepared


def test_of_what_is_prepared_the_most_urgent_runs_though_a_more_urgent_one_is_not() -> None:
    urgent, ready, later = job(1), job(2), job(3)
    queue = filled([urgent, ready, later])
    for each in (later, ready):
        queue.keep_prepared(PreparedJob(each, PreparedRequest([]), 1))
    assert queue.has_prepared
    prepared = queue.pop_prepared()
    assert prepared is not None
    assert prepared.job is ready


def test_what_left_while_it_was_prepared_stays_gone() -> None:
    waiting = job(1)
    queue = filled([waiting])
    assert queue.take_unprepared() is waiting
    assert queue.remove(waiting)
    queue.keep_prepared(PreparedJob(waiting, PreparedRequest([]), 1))
    assert queue.pop_prepared() is None


def test_jobs_far_down_are_prepared_when_their_turn_comes_near() -> None:
    jobs = [job(time) for time in range(100)]
    queue = filled(jobs)
    near = list(iter(queue.take_unprepared, None))
    assert 0 < len(near) < 100
    assert_same(near, jobs[: len(near)])
    for each in near:
        queue.keep_prepared(PreparedJob(each, PreparedRequest([]), 1))
    assert_same(emptied(queue), jobs)


@given(deadlines, st.integers(0, 6))
def test_only_a_more_urgent_job_displaces_the_least_urgent(times: list[int], deadline: int) -> None:
    jobs = [job(time) for time in times]
    least = max(enumerate(jobs), key=lambda each: (each[1].deadline_ns, each[0]), default=(0, None))
    queue = filled(jobs)
    displaced = queue.pop_less_urgent_than(job(deadline))
    if jobs and max(times) > deadline:
        assert displaced is least[1]
    else:
        assert displaced is None
    assert len(queue) == len(jobs) - (displaced is not None)


def test_who_prepares_light_jobs_leaves_the_heavy_ones_to_others() -> None:
    schema = replace(job(1), response_schema="{}")
    text = replace(job(2), conversation=Conversation("", "x" * 100_000))
    light = job(3)
    queue = filled([schema, text, light])
    assert queue.take_unprepared(light_only=True) is light
    assert not queue.has_unprepared(light_only=True)
    assert_same(list(iter(queue.take_unprepared, None)), [schema, text])
