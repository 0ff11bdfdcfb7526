# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import pytest
import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.sampling import Sampler, Sampling

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(sampling, count=2000):
    sampler = Sampler(sampling)
    sampler.begin()
    return [sampler.pick(LOGITS) for _ in range(count)]


def test_temperature_zero_takes_the_most_likely():
    assert set(draws(Sampling(), 3)) == {0}


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


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1)],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(SettingError, match=name):
        Sampling(**{name: value})
