# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.decoder import LeanDecoder
from timebill_ros.engine.errors import (
    ContextExceeded,
    EngineMisuse,
    NonFiniteLogits,
    PromptEmpty,
    PromptTooLong,
    RequestError,
    UnsupportedModel,
)
from timebill_ros.engine.module_decoder import ModuleDecoder
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation, PreparedRequest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine


def prefill(engine, prompt, max_tokens, **options):
    """Take a request up to its first response token; the number of chunks."""
    engine.begin(PreparedRequest(prompt), max_tokens, **options)
    chunks = 1
    while not engine.prefill_chunk():
        chunks += 1
    return chunks


def respond(engine, prompt, max_tokens, **options):
    """Run a request to its end; the response's tokens."""
    prefill(engine, prompt, max_tokens, **options)
    while engine.finish_reason is None:
        engine.step()
    return engine.response_ids


def generate(model, prompt, max_tokens):
    """Response tokens of transformers' own greedy decoding."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
@pytest.mark.parametrize("tokens", [1, 5, 8, 32, 64, 75, 130])
def test_greedy_equals_generate(family, lean, tokens, make_engine, stock_of, prompt_of):
    engine = make_engine(family, lean=lean)
    prompt = prompt_of(tokens)
    expected = generate(stock_of(family), prompt, 24)
    assert len(set(expected)) > 3, "a constant response would prove little"
    assert respond(engine, prompt, 24) == expected


def test_the_lean_path_is_taken_where_it_can_be(family, make_engine):
    assert isinstance(make_engine(family).decoder, LeanDecoder)
    assert isinstance(make_engine(family, lean=False).decoder, ModuleDecoder)


@pytest.mark.parametrize("name", ["granite", "olmo2"])
@pytest.mark.parametrize("tokens", [5, 75])
def test_other_rotary_models_run_on_their_modules(name, tokens, make_engine, stock_of, prompt_of):
    engine = make_engine(name)
    assert isinstance(engine.decoder, ModuleDecoder)
    assert respond(engine, prompt_of(tokens), 24) == generate(stock_of(name), prompt_of(tokens), 24)


@pytest.mark.parametrize(
    ("tokens", "chunks"), [(1, 1), (31, 1), (32, 1), (33, 2), (64, 2), (65, 3)]
)
def test_the_remainder_is_prefilled_first(tokens, chunks, make_engine, prompt_of):
    engine = make_engine()
    assert prefill(engine, prompt_of(tokens), 2) == chunks
    engine.begin(PreparedRequest(prompt_of(tokens)), 2)
    engine.prefill_chunk()
    assert engine.cache.length == (tokens - 1) % engine.chunk + 1


def test_first_token_exists_after_prefill(make_engine, prompt_of):
    engine = make_engine()
    prefill(engine, prompt_of(40), 1)
    assert engine.response_tokens == 1
    assert engine.finish_reason is FinishReason.LENGTH


def test_length_ends_the_response(make_engine, prompt_of):
    engine = make_engine()
    assert len(respond(engine, prompt_of(40), 7, ignore_eos=True)) == 7
    assert engine.finish_reason is FinishReason.LENGTH


def test_any_of_several_eos_tokens_ends_the_response(make_engine, prompt_of):
    prompt = prompt_of(40)
    response = respond(make_engine(), prompt, 12)
    last = next(token for token in response if response.index(token) >= 3)
    engine = make_engine(eos_tokens={0, last})
    assert respond(engine, prompt, 12) == response[: response.index(last) + 1]
    assert engine.finish_reason is FinishReason.EOS
    assert engine.response_tokens == response.index(last) + 1


def test_eos_and_stop_strings_can_be_ignored_for_measuring(make_engine, prompt_of):
    prompt = prompt_of(40)
    first = respond(make_engine(), prompt, 1)[0]
    engine = make_engine(stop=[chr(code) for code in range(128)], eos_tokens={first})
    assert len(respond(engine, prompt, 12)) == 1
    assert len(respond(engine, prompt, 12, ignore_eos=True)) == 12


def test_eos_leaves_no_text(make_engine, prompt_of, tokenizer):
    prompt = prompt_of(40)
    engine = make_engine(eos_tokens=respond(make_engine(), prompt, 1))
    prefill(engine, prompt, 5)
    assert (engine.finish_reason, engine.text()) == (FinishReason.EOS, "")


def test_a_stop_string_ends_the_response(make_engine, prompt_of):
    prompt = prompt_of(40)
    plain = make_engine()
    respond(plain, prompt, 24)
    whole = plain.text()
    stop = next(c for c in whole[3:] if c != "\ufffd")
    engine = make_engine(stop=[stop])
    respond(engine, prompt, 24)
    assert engine.finish_reason is FinishReason.STOP
    assert engine.text() == whole[: whole.index(stop)]
    assert engine.response_tokens < plain.response_tokens


def test_requests_do_not_see_each_other(make_engine, prompt_of):
    engine, prompt = make_engine(), prompt_of(75)
    alone = respond(engine, prompt, 12)
    respond(engine, prompt_of(130), 12)
    engine.begin(PreparedRequest(prompt_of(130)), 12)
    engine.prefill_chunk()  # given up in the middle of its prefill
    assert respond(engine, prompt, 12) == alone


def test_the_largest_request_fits_and_one_token_more_does_not(make_engine, prompt_of):
    engine = make_engine()
    prompt = prompt_of(engine.max_context - 10)
    assert len(respond(engine, prompt, 10, ignore_eos=True)) == 10
    with pytest.raises(ContextExceeded, match=r"246 tokens .* 11 = 257 .* 256"):
        engine.begin(PreparedRequest(prompt), 11)


def test_requests_that_cannot_run_are_refused(make_engine):
    engine = make_engine()
    with pytest.raises(PromptEmpty):
        engine.begin(PreparedRequest([]), 5)
    with pytest.raises(RequestError, match="max_tokens"):
        engine.begin(PreparedRequest([5]), 0)
    for token in (-1, 10_000):
        with pytest.raises(RequestError, match="prompt tokens"):
            engine.begin(PreparedRequest([5, token]), 5)


def test_a_refused_request_leaves_nothing_to_run(make_engine, prompt_of):
    engine = make_engine()
    respond(engine, prompt_of(40), 2)
    with pytest.raises(ContextExceeded):
        engine.begin(PreparedRequest(prompt_of(40)), 1000)
    assert (engine.response_tokens, engine.text(), engine.finish_reason) == (0, "", None)
    with pytest.raises(EngineMisuse):
        engine.prefill_chunk()


def test_methods_out_of_turn_are_refused(make_engine, prompt_of):
    engine = make_engine()
    with pytest.raises(EngineMisuse, match="prefill_chunk"):
        engine.prefill_chunk()
    engine.begin(PreparedRequest(prompt_of(40)), 2)
    for method in (engine.step, lambda: engine.evict(8)):
        with pytest.raises(EngineMisuse):
            method()
    respond(engine, prompt_of(40), 2, ignore_eos=True)
    for method in (engine.step, engine.prefill_chunk):
        with pytest.raises(EngineMisuse):
            method()


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
def test_logits_that_are_not_finite_are_an_error(lean, make_engine, prompt_of):
    engine = make_engine(lean=lean)
    prefill(engine, prompt_of(40), 5, ignore_eos=True)
    with torch.inference_mode():
        engine.cache.buffer[1, 1, 0, 3, 0] = float("nan")
    with pytest.raises(NonFiniteLogits, match="after 1 response tokens"):
        engine.step()
    assert len(respond(engine, prompt_of(40), 5, ignore_eos=True)) == 5, "the engine stays usable"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_context", 1),
        ("max_context", 513),
        ("chunk", 0),
        ("window", 0),
        ("window", 33),
        ("kernel", 4),
        ("kernel", -1),
        ("eviction_method", "h2o"),
        ("threads", 0),
        ("stop", ["a", ""]),
    ],
)
def test_settings_out_of_range_are_named(setting, value, make_engine):
    with pytest.raises(SettingError, match=setting):
        make_engine(**{setting: value})


def test_a_sliding_window_must_reach_over_the_context(make_engine, prompt_of, stock_of):
    with pytest.raises(UnsupportedModel, match=r"sliding window of 200 .* max_context 256"):
        make_engine("mistral_sliding")
    engine = make_engine("mistral_sliding", max_context=200)
    expected = generate(stock_of("mistral_sliding"), prompt_of(150), 24)
    assert respond(engine, prompt_of(150), 24) == expected


def test_threads_are_set_where_requests_begin(make_engine, prompt_of):
    engine = make_engine(threads=3)
    seen = []

    def serve():
        torch.set_num_threads(2)
        engine.begin(PreparedRequest(prompt_of(5)), 2)
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert seen == [3]
    assert torch.get_num_threads() == before


def test_close_gives_the_cache_back(make_engine):
    engine = make_engine()
    buffer = weakref.ref(engine.cache.buffer)
    engine.close()
    gc.collect()
    assert buffer() is None


def test_preparing_renders_and_tokenises(make_engine, tokenizer):
    engine = make_engine()
    request = engine.prepare(Conversation("be brief", "go"))
    assert request.text == tokenizer.decode(request.prompt_ids) == "be brief\ngo"
    with pytest.raises(PromptEmpty):
        engine.prepare(Conversation("be brief", " "))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
def test_cuda_equals_cpu(family, lean, folder_of, make_engine, prompt_of):
    from timebill_ros.engine.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(folder_of(family), device="cuda", dtype="float32")
    on_gpu = TransformerEngine(
        checkpoint, EngineSettings(max_context=256, chunk=32, window=8, lean=lean)
    )
    on_cpu = make_engine(family, lean=lean)
    for engine in (on_gpu, on_cpu):
        prefill(engine, prompt_of(75), 20, ignore_eos=True)
        engine.evict(30)
        for _ in range(10):
            engine.step()
    assert on_gpu.response_ids == on_cpu.response_ids


def test_a_prompt_can_be_refused_by_its_characters(make_engine):
    engine = make_engine(max_context=100)
    assert engine.max_prompt_chars == 100 * len("<pad>")
    with pytest.raises(PromptTooLong, match="501 characters exceed the 500"):
        engine.prepare(Conversation("", "a" * (engine.max_prompt_chars + 1)))
    # None that fits the context is refused by it.
    with pytest.raises(ContextExceeded):
        engine.begin(engine.prepare(Conversation("", "a" * 100)), 1)


def test_a_rehearsed_request_stands_where_its_prefill_would(make_engine, prompt_of):
    engine, prompt = make_engine(), prompt_of(100)
    engine.rehearse(100, 68, 8)
    assert engine.cache.length == engine.cache.position == 68
    assert engine.prefill_chunk()
    engine.evict(50)
    for _ in range(3):
        engine.step()
    assert (engine.cache.length, engine.response_tokens) == (53, 4)
    # And leaves nothing behind.
    engine.begin(PreparedRequest(prompt), 8)
    while not engine.prefill_chunk():
        pass
    first = engine.response_ids[0]
    fresh = make_engine()
    fresh.begin(PreparedRequest(prompt), 8)
    while not fresh.prefill_chunk():
        pass
    assert fresh.response_ids[0] == first


def test_a_context_that_no_memory_holds_is_named(checkpoint_of):
    checkpoint = replace(checkpoint_of("qwen2"), max_positions=10**12)
    with pytest.raises(SettingError, match=r"max_context must be at most \d+: a token"):
        TransformerEngine(checkpoint, EngineSettings(max_context=10**12))
