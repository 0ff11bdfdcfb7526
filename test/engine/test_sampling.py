# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import pytest
import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation, SamplingOverride
from timebill_ros.engine.sampling import Sampler, Sampling

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(sampling, count=2000, logits=LOGITS):
    sampler = Sampler(sampling)
    sampler.begin()
    return [sampler.pick(logits) for _ in range(count)]


def test_temperature_zero_takes_the_most_likely():
    assert set(draws(Sampling(), 3)) == {0}


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-30, 1e-9])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_tiny_temperature_takes_the_most_likely(temperature, scale):
    assert set(draws(Sampling(temperature=temperature), 3, logits=LOGITS * scale)) == {0}


def test_the_coldest_that_is_divided_by_does_not_overflow():
    logits = torch.tensor([-6e4, 6e4, 5.9e4])
    assert set(draws(Sampling(temperature=1e-6), 3, logits=logits)) == {1}


def test_frequencies_follow_the_probabilities():
    counts = Counter(draws(Sampling(temperature=1.0)))
    for token, share in enumerate([0.5, 0.3, 0.15, 0.05]):
        assert counts[token] / 2000 == pytest.approx(share, abs=0.04)


def test_temperature_sharpens():
    counts = Counter(draws(Sampling(temperature=0.5)))
    assert counts[0] / 2000 == pytest.approx(0.25 / 0.365, abs=0.04)


@pytest.mark.parametrize(
    ("top_p", "tokens"), [(0.01, {0}), (0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2})]
)
def test_top_p_draws_from_the_smallest_sufficient_set(top_p, tokens):
    assert set(draws(Sampling(temperature=1.0, top_p=top_p))) == tokens


@pytest.mark.parametrize(("top_p", "tokens"), [(0.2, {0}), (0.3, {0, 1}), (0.74, {0, 1, 2})])
def test_of_equal_tokens_the_first_come_first(top_p, tokens):
    assert set(draws(Sampling(temperature=1.0, top_p=top_p), logits=torch.zeros(4))) == tokens


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_draws_have_the_distribution_of_the_sorted_nucleus(spread, top_p):
    logits = spread * torch.randn(200, generator=torch.Generator().manual_seed(1))
    probabilities, order = logits.double().softmax(-1).sort(descending=True)
    inside = probabilities.cumsum(-1) - probabilities < top_p
    nucleus = probabilities[inside] / probabilities[inside].sum()
    count = 6000
    counts = Counter(draws(Sampling(temperature=1.0, top_p=top_p), count, logits))
    assert counts.keys() <= set(order[inside].tolist())
    expected = count * nucleus
    seen = torch.tensor([counts[token] for token in order[inside].tolist()])
    # Pearson's statistic has a mean of k - 1 and a variance of 2 (k - 1).
    freedom = max(1, len(nucleus) - 1)
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


def test_tokens_that_a_schema_forbids_are_never_drawn():
    logits = torch.full((50,), -torch.inf)
    logits[[7, 30]] = torch.tensor([0.0, 1.0])
    assert set(draws(Sampling(temperature=2.0), logits=logits)) == {7, 30}
    assert set(draws(Sampling(temperature=2.0, top_p=0.1), logits=logits)) == {30}


def test_equal_seeds_draw_equal_tokens_for_every_request():
    sampler = Sampler(Sampling(temperature=1.0, seed=7))
    runs = []
    for _ in range(2):
        sampler.begin()
        runs.append([sampler.pick(LOGITS) for _ in range(50)])
    assert runs[0] == runs[1] == draws(Sampling(temperature=1.0, seed=7), 50)
    assert runs[0] != draws(Sampling(temperature=1.0, seed=8), 50)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_token(broken, temperature):
    sampler = Sampler(Sampling(temperature=temperature))
    logits = LOGITS.clone()
    logits[2] = broken
    assert sampler.pick(logits) is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_forbid_every_token_give_none(temperature):
    assert Sampler(Sampling(temperature=temperature)).pick(torch.full((4,), -torch.inf)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1)],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(SettingError, match=name):
        Sampling(**{name: value})


def answer(engine, *, ignore_eos=False, **asked):
    """The text that the engine answers with when a request sets this of its sampling."""
    request = engine.prepare(Conversation("", "go left"), "", SamplingOverride(**asked))
    engine.begin(request, 24, ignore_eos=ignore_eos)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return engine.text()


def drawn(engine, **asked):
    """The tokens of such an answer of a fixed length."""
    answer(engine, ignore_eos=True, **asked)
    return list(engine.response_ids)


def test_a_response_repeats_with_its_seed(make_engine):
    engine = make_engine(sampling=Sampling(temperature=1.0, seed=3))
    first = drawn(engine)
    assert drawn(engine) == first
    assert drawn(make_engine(sampling=Sampling(temperature=1.0, seed=4))) != first


def test_a_request_s_own_sampling_wins_and_is_forgotten_with_it(make_engine):
    greedy, drawing = make_engine(), make_engine(sampling=Sampling(temperature=1.0, seed=3))
    plain, chosen = drawn(greedy), drawn(drawing)
    assert plain != chosen
    assert drawn(greedy, temperature=1.0, seed=3) == chosen
    assert drawn(greedy) == plain
    assert drawn(drawing, seed=4) != chosen
    assert drawn(drawing, temperature=0.0) == plain
    assert drawn(drawing, top_p=1e-9) == plain  # the likeliest token alone
    assert drawn(drawing) == chosen


def test_a_request_s_own_stop_strings_stand_in_the_engine_s_place(make_engine):
    whole = answer(make_engine())
    first, other = whole[len(whole) // 4], whole[-1]
    engine = make_engine(stop=(first,))
    assert answer(engine) == whole[: whole.index(first)]
    assert answer(engine, stop=()) == whole
    assert answer(engine, stop=(other,)) == whole[: whole.index(other)]
    assert engine.finish_reason is FinishReason.STOP
    assert answer(engine) == whole[: whole.index(first)]
