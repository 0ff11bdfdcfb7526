# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.time_model import Quadratic, TimeModel

MODEL = TimeModel(a=1e-8, b=1e-5, c=2e-3, p=1e-7, q=3e-4, evict_rate=1e-6, evict_base=1e-4)


@given(kept=st.integers(0, 8192), response=st.integers(0, 600))
def test_decode_is_the_sum_over_steps_of_equation_7(kept: int, response: int) -> None:
    by_step = sum(MODEL.p * (kept + i - 1) + MODEL.q for i in range(1, response))
    assert MODEL.decode(kept, response) == pytest.approx(by_step, rel=1e-9, abs=1e-15)


@given(prompt=st.integers(1, 8192), share=st.floats(0.0, 1.0))
def test_prefill_after_a_prefix_is_the_sum_over_positions(prompt: int, share: float) -> None:
    reused = int(share * prompt)
    by_position = sum(MODEL.a * (2 * s + 1) + MODEL.b for s in range(reused, prompt))
    assert MODEL.prefill(prompt, reused) == pytest.approx(MODEL.c + by_position)
    assert MODEL.prefill(prompt) == MODEL.prefill(prompt, 0)


def test_one_token_answer_needs_no_decoding() -> None:
    assert MODEL.decode(4096, 1) == 0.0
    assert MODEL.decode(4096, 0) == 0.0


@given(a=st.floats(0, 1e-6), b=st.floats(1e-9, 1e-3), c=st.floats(0, 1e-2), limit=st.floats(0, 5.0))
def test_largest_within_is_the_last_that_fits(a: float, b: float, c: float, limit: float) -> None:
    time = Quadratic(a, b, c)
    n = time.largest_within(limit)
    assert time(n) <= limit or n == 0
    assert time(n + 1) > limit


def test_largest_within_refuses_a_time_that_does_not_grow() -> None:
    with pytest.raises(ValueError, match="does not grow"):
        Quadratic(0.0, 0.0, 1.0).largest_within(2.0)
    assert Quadratic(0.0, 0.0, 3.0).largest_within(2.0) == 0


def test_predictor_reads_everything_while_it_is_faster_than_prefill() -> None:
    model = TimeModel(1e-8, 1e-5, 2e-3, 1e-7, 3e-4, predictor=Quadratic(0.0, 1e-6, 1e-4))
    assert model.longest_predictor_input(4096) == 4096
    assert model.predictor_excess(4096, 4096) == 0.0


def test_slow_predictor_is_shortened_to_the_prefill_time() -> None:
    model = TimeModel(0.0, 1e-5, 0.0, 1e-7, 3e-4, predictor=Quadratic(0.0, 4e-5, 0.0))
    assert model.longest_predictor_input(1000) == 250
    assert model.predictor_excess(1000, 250) == pytest.approx(0.0, abs=1e-12)
    assert model.predictor_excess(1000, 1000) == pytest.approx(0.03)


def test_no_shortening_for_a_cost_that_no_shortening_saves() -> None:
    # Even an empty input takes longer than the prefill: only the part that grows is held to it.
    model = TimeModel(0.0, 1e-5, 0.0, 1e-7, 3e-4, predictor=Quadratic(0.0, 4e-5, 1.0))
    assert model.longest_predictor_input(1000) == 250
    cheap = TimeModel(0.0, 1e-5, 0.0, 1e-7, 3e-4, predictor=Quadratic(0.0, 1e-7, 1.0))
    assert cheap.longest_predictor_input(15) == 15
    assert cheap.predictor_excess(15, 15) == pytest.approx(1.0 + 15e-7 - 15e-5)


def test_a_predictor_always_reads_one_token() -> None:
    model = TimeModel(0.0, 1e-6, 0.0, 1e-7, 3e-4, predictor=Quadratic(0.0, 1e-2, 0.0))
    assert model.longest_predictor_input(100) == 1


def test_without_a_predictor_there_is_no_excess() -> None:
    assert MODEL.predictor_excess(1000, 1000) == 0.0
    assert MODEL.longest_predictor_input(1000) == 1000


@given(prompt=st.integers(1, 8192), response=st.integers(1, 600), q=st.floats(0.0, 1e-2))
def test_a_schema_costs_the_same_for_every_response_token(
    prompt: int, response: int, q: float
) -> None:
    free = replace(MODEL, q_structured=q)
    held = free.structured()
    whole = [m.prefill(prompt) + m.decode(prompt, response) for m in (free, held)]
    assert whole[1] - whole[0] == pytest.approx(response * q, abs=1e-9)
    assert held.evict(prompt) == free.evict(prompt)


def test_a_slower_machine_slows_prefill_and_decoding_apart() -> None:
    model = TimeModel(a=1e-8, b=2e-5, c=3e-3, p=1e-7, q=3e-4, evict_rate=1e-6, evict_base=1e-4)
    slow = model.slowed(2.0, 3.0)
    assert slow.prefill(1000) == pytest.approx(2.0 * model.prefill(1000))
    assert slow.evict_and_decode(1000, 500, 40) == pytest.approx(
        3.0 * model.evict_and_decode(1000, 500, 40)
    )


def test_a_drawn_token_takes_longer_and_prefill_draws_the_first() -> None:
    model = TimeModel(a=0.0, b=0.0, c=1e-3, p=0.0, q=2e-3, q_drawn=1e-4)
    assert model.drawn().prefill(10) == pytest.approx(1.1e-3)
    assert model.drawn().decode(10, 11) == pytest.approx(10 * 2.1e-3)
    assert model.drawn().drawn() == model.drawn()
