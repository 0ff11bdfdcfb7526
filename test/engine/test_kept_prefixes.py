# SPDX-License-Identifier: Apache-2.0
"""Prompts that start like an earlier one: the same answers, of which less is prefilled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import timebill_ros.embedded
from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.attention import AttentionShape
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.kv_cache import PREFIX_BLOCK, KeptPrefixes, KVCache
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine

EMBEDDED = Path(timebill_ros.embedded.__file__).parent / "checkpoint"
SHAPE = AttentionShape(layers=2, heads=2, kv_heads=1, head_dim=4)


def chunks_of(engine: TransformerEngine, prompt: list[int], max_tokens: int = 12) -> list[int]:
    """Begin and prefill; how many tokens each chunk added to the cache."""
    request = PreparedRequest(prompt)
    engine.begin(request, max_tokens)
    positions = [engine.reusable(request)]
    while not engine.prefill_chunk():
        positions.append(engine.cache.position)
    positions.append(engine.cache.position)
    return [b - a for a, b in pairwise(positions)]


def answer(engine: TransformerEngine, prompt: list[int], evicted: float = 0.0) -> list[int]:
    chunks_of(engine, prompt)
    if evicted:
        engine.evict(max(engine.window, round((1.0 - evicted) * len(prompt))))
    while engine.finish_reason is None:
        engine.step()
    return list(engine.response_ids)


@pytest.fixture(params=["embedded", "qwen3", "phi3", "granite"])
def make(
    request: pytest.FixtureRequest, make_engine: Callable[..., TransformerEngine]
) -> Callable[..., TransformerEngine]:
    """Builds engines of one model, which keep some prefixes; the last runs on its modules."""

    def build(prefix_tokens: int = 256) -> TransformerEngine:
        if request.param != "embedded":
            return make_engine(request.param, prefix_tokens=prefix_tokens)
        settings = EngineSettings(256, window=8, chunk=32, prefix_tokens=prefix_tokens)
        return TransformerEngine(load_checkpoint(EMBEDDED), settings)

    return build


@pytest.mark.parametrize("evicted", [0.0, 0.5, 0.9])
def test_answers_and_scores_are_those_without_reuse(
    evicted: float,
    make: Callable[..., TransformerEngine],
    prompt_of: Callable[..., list[int]],
) -> None:
    keeps, plain = make(), make(0)
    prefix = prompt_of(150)
    for seed, new in enumerate((40, 10, 70)):
        prompt = prefix + prompt_of(new, seed)
        expected = answer(plain, prompt, evicted)
        assert sum(chunks_of(plain, prompt)) == len(prompt)
        run = chunks_of(keeps, prompt)
        assert sum(run) == (len(prompt) if seed == 0 else len(prompt) - 2 * PREFIX_BLOCK)
        for one, other in zip(keeps.eviction.scores(), plain.eviction.scores(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        rows = [(keeps.cache.rows(i), plain.cache.rows(i)) for i in range(keeps.cache.layers)]
        for one, other in rows:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        assert answer(keeps, prompt, evicted) == expected


def test_another_start_is_prefilled_whole(
    make: Callable[..., TransformerEngine], prompt_of: Callable[..., list[int]]
) -> None:
    keeps, plain = make(), make(0)
    answer(keeps, prompt_of(150))
    other = [prompt_of(150)[0] + 1, *prompt_of(150)[1:]]
    assert keeps.reusable(PreparedRequest(other)) == 0
    assert answer(keeps, other) == answer(plain, other)
    shorter = prompt_of(150)[:70]
    assert keeps.reusable(PreparedRequest(shorter)) == 70 - keeps.window
    assert answer(keeps, shorter) == answer(plain, shorter)


def test_a_prefill_that_was_given_up_leaves_nothing_wrong(
    make: Callable[..., TransformerEngine], prompt_of: Callable[..., list[int]]
) -> None:
    keeps, plain = make(), make(0)
    prompt = prompt_of(200)
    keeps.begin(PreparedRequest(prompt), 12)
    keeps.prefill_chunk()
    keeps.abort()
    assert keeps.reusable(PreparedRequest(prompt)) == 0
    expected = answer(plain, prompt)
    assert answer(keeps, prompt) == expected
    keeps.begin(PreparedRequest(prompt), 12)  # what it reuses is there, the rest is not run
    keeps.prefill_chunk()
    keeps.abort()
    assert answer(keeps, prompt) == expected


def test_measuring_neither_reuses_nor_keeps(
    make_engine: Callable[..., TransformerEngine], prompt_of: Callable[..., list[int]]
) -> None:
    engine = make_engine(prefix_tokens=256)
    engine.warm_up()
    engine.rehearse(200, 168, 4)
    engine.prefill_chunk()
    assert engine.reusable(PreparedRequest([0] * 200)) == 0
    answer(engine, prompt_of(200))
    engine.begin(PreparedRequest(prompt_of(200)), 4, ignore_eos=True)
    engine.prefill_chunk()
    assert engine.cache.position == 200 % engine.chunk


def test_what_cannot_be_kept_is_refused(make_engine: Callable[..., TransformerEngine]) -> None:
    with pytest.raises(SettingError, match="prefix_tokens"):
        make_engine(prefix_tokens=-1)
    with pytest.raises(SettingError, match=r"prefix_tokens.*at most"):
        make_engine(prefix_tokens=10**12)


def filled(tokens: int, seed: int, cache: KVCache) -> None:
    """A prompt's keys and values in the cache."""
    cache.reset()
    cache.buffer[:, :, :, :tokens] = torch.randn(
        cache.buffer[:, :, :, :tokens].shape, generator=torch.Generator().manual_seed(seed)
    )
    cache.advance(tokens)


def test_what_is_common_is_kept_once_and_the_longest_unused_goes_first() -> None:
    cache = KVCache(SHAPE, 1024)
    kept = KeptPrefixes(cache, 4 * PREFIX_BLOCK + 5)
    start, n = list(range(2 * PREFIX_BLOCK)), PREFIX_BLOCK
    first, second, third = (start + [i] * n for i in (7, 8, 9))
    for seed, prompt in enumerate((first, second)):
        filled(len(prompt), seed, cache)
        kept.keep(prompt)
    assert kept.common(first) == kept.common(second) == 3 * n
    filled(len(third), 2, cache)
    kept.keep(third)
    assert [kept.common(p) for p in (first, second, third)] == [2 * n, 3 * n, 3 * n]
    filled(n, 3, cache)
    kept.keep([5] * n)
    assert [kept.common(p) for p in (first, second, third)] == [2 * n, 2 * n, 3 * n]
    filled(10 * n, 4, cache)
    kept.keep(list(range(1000, 1000 + 10 * n)))
    assert kept.common(list(range(1000, 1000 + 10 * n))) == 4 * n, "no more than it may"
    assert kept.common(first) == 0


def test_what_was_kept_comes_back_as_it_was() -> None:
    cache = KVCache(SHAPE, 1024)
    kept = KeptPrefixes(cache, 1024)
    prompt = list(range(300))
    filled(300, 0, cache)
    was = cache.buffer[:, :, :, :300].clone()
    kept.keep(prompt)
    filled(300, 1, cache)
    kept.restore([*prompt[:290], 5, 6], 250)
    assert (cache.length, cache.position) == (250, 250)
    assert torch.equal(cache.buffer[:, :, :, :250], was[:, :, :, :250])
    with pytest.raises(ValueError, match="not kept"):
        kept.restore(prompt, 4 * PREFIX_BLOCK + 1)
