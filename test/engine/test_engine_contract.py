# SPDX-License-Identifier: Apache-2.0
"""What every engine promises, whichever it is: another one joins by a line in ``ENGINES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import Engine, FinishReason
from timebill_ros.engine.request import Conversation, PreparedRequest, SamplingOverride
from timebill_ros.engine.served.connect import ServedSettings, connect
from timebill_ros.runtime.simulation import SimulatedEngine, SimulatedRequest, VirtualClock

from .conftest import MAX_CONTEXT
from .scripted_server import answer, scripted

PROMPT = "where is the blue box, and who put it there on the third shelf"
SCHEMA = '{"enum": ["left", "right"]}'
MOST = 12


@contextmanager
def local(make_engine: Callable[..., Engine]) -> Iterator[Engine]:
    with closing(make_engine(window=8, chunk=32)) as engine:
        yield engine


@contextmanager
def simulated(_: Callable[..., Engine]) -> Iterator[Engine]:
    times = TimeModel(a=0.0, b=1e-5, c=0.0, p=0.0, q=1e-3)
    requests = {PROMPT: SimulatedRequest(62, 400, 400)}
    clock = VirtualClock()
    yield SimulatedEngine(clock, times, requests, window=8, max_context=MAX_CONTEXT, chunk=32)


@contextmanager
def served(_: Callable[..., Engine]) -> Iterator[Engine]:
    words = [f" word{number}" for number in range(MAX_CONTEXT)]
    with (
        scripted(answer(words)) as server,
        closing(connect(ServedSettings(server.url, window=8, max_context=MAX_CONTEXT))) as engine,
    ):
        yield engine


ENGINES = [local, simulated, served]


@pytest.fixture(params=ENGINES, ids=lambda make: make.__name__)
def engine(request: pytest.FixtureRequest, make_engine: Callable[..., Engine]) -> Iterator[Engine]:
    with request.param(make_engine) as made:
        yield made


def prefill(engine: Engine, request: PreparedRequest, max_tokens: int = MOST) -> None:
    """Begin a request and prefill it."""
    engine.begin(request, max_tokens, ignore_eos=True)
    while not engine.prefill_chunk():
        pass


def decode(engine: Engine) -> None:
    while engine.finish_reason is None:
        engine.step()


def test_it_says_what_it_is(engine: Engine) -> None:
    assert 0 < engine.window < engine.max_context <= engine.max_prompt_chars
    assert engine.device
    assert all(isinstance(value, bool) for value in vars(engine.capabilities).values())


def test_preparing_tells_the_prompt_s_length_and_text(engine: Engine) -> None:
    request = engine.prepare(Conversation("", PROMPT))
    assert request.prompt_tokens == len(request.prompt_ids) > engine.window
    assert PROMPT in request.text
    assert request.constraint is None


def test_a_response_grows_by_a_token_a_step_up_to_its_bound(engine: Engine) -> None:
    request = engine.prepare(Conversation("", PROMPT))
    prefill(engine, request)
    seen = [engine.response_tokens]
    while engine.finish_reason is None:
        engine.step()
        seen.append(engine.response_tokens)
    # A step that waits for another process may come back without a token.
    assert sorted(set(seen)) == list(range(1, MOST + 1))
    assert engine.finish_reason is FinishReason.LENGTH


def test_a_prompt_is_prefilled_in_chunks(engine: Engine) -> None:
    if not engine.capabilities.evicts:
        pytest.skip("another process prefills")
    request = engine.prepare(Conversation("", PROMPT))
    engine.begin(request, MOST)
    pieces = [engine.prefill_chunk() for _ in range(-(-request.prompt_tokens // 32))]
    assert pieces == [False] * (len(pieces) - 1) + [True]


def test_a_response_of_one_token_is_the_prefill_s(engine: Engine) -> None:
    prefill(engine, engine.prepare(Conversation("", PROMPT)), max_tokens=1)
    assert engine.response_tokens == 1
    assert engine.finish_reason is FinishReason.LENGTH


def test_text_only_grows_and_its_complete_part_is_a_part_of_it(engine: Engine) -> None:
    prefill(engine, engine.prepare(Conversation("", PROMPT)))
    before = engine.text()
    while engine.finish_reason is None:
        engine.step()
        assert engine.text().startswith(before)
        before = engine.text()
        assert engine.complete_prefix().strip() in before


def test_evictions_are_nested_and_the_response_goes_on(engine: Engine) -> None:
    if not engine.capabilities.evicts:
        pytest.skip("it cannot evict")
    request = engine.prepare(Conversation("", PROMPT))
    prefill(engine, request)
    engine.evict(request.prompt_tokens // 2)
    engine.step()
    engine.evict(engine.window)
    decode(engine)
    assert engine.response_tokens == MOST


def test_a_request_may_be_begun_again_and_again(engine: Engine) -> None:
    schema = SCHEMA if engine.capabilities.structured else ""
    request = engine.prepare(Conversation("", PROMPT), schema)
    texts = []
    for _ in range(3):
        prefill(engine, request, max_tokens=4)
        decode(engine)
        texts.append(engine.text())
    assert len(set(texts)) == 1


def test_a_request_s_sampling_is_accepted_and_repeats(engine: Engine) -> None:
    own = SamplingOverride(temperature=0.8, top_p=0.9, seed=3, stop=("END",))
    request = engine.prepare(Conversation("", PROMPT), "", own)
    texts = []
    for _ in range(2):
        prefill(engine, request)
        decode(engine)
        texts.append(engine.text())
    assert texts[0] == texts[1]
    assert engine.response_tokens == MOST


def test_another_may_be_prepared_while_one_runs(engine: Engine) -> None:
    request = engine.prepare(Conversation("", PROMPT))
    prefill(engine, request)
    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(engine.prepare, Conversation("", PROMPT)) for _ in range(8)]
        decode(engine)
        assert {tuple(other.result().prompt_ids) for other in others} == {tuple(request.prompt_ids)}
    assert engine.response_tokens == MOST


@pytest.mark.parametrize("steps", [None, 0, 3], ids=["before", "prefilled", "decoding"])
def test_an_aborted_request_leaves_nothing_behind(engine: Engine, steps: int | None) -> None:
    request = engine.prepare(Conversation("", PROMPT))
    prefill(engine, request)
    decode(engine)
    expected = engine.text()
    if steps is None:
        engine.begin(request, MOST)
        engine.prefill_chunk()
    else:
        prefill(engine, request)
        for _ in range(steps):
            engine.step()
    engine.abort()
    assert (engine.response_tokens, engine.text()) == (0, "")
    engine.abort()  # harmless without a request
    prefill(engine, request)
    decode(engine)
    assert engine.text() == expected
