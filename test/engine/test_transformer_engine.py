# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.engine.lean_decoder import LeanDecoder


def respond(engine, prompt, max_tokens):
    """Run a request to its end; the response tokens."""
    engine.begin(prompt, max_tokens)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return engine.response_ids


def generate(model, prompt, max_tokens):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
@pytest.mark.parametrize("tokens", [1, 5, 8, 32, 64, 75, 130])
def test_greedy_equals_generate(family, lean, tokens, make_engine, stock_of, prompt_of):
    engine = make_engine(family, lean=lean)
    assert isinstance(engine._decoder, LeanDecoder) is lean
    stock = stock_of(family)
    for seed in range(2):
        prompt = prompt_of(tokens, seed)
        expected = generate(stock, prompt, 40)
        assert len(set(expected)) > 3
        assert respond(engine, prompt, 40) == expected
