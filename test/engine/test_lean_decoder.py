# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from timebill_ros.engine.attention import AttentionShape
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.decoder import ModuleDecoder
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.lean_decoder import LeanDecoder
from timebill_ros.engine.lean_weights import Projection


def logits_of(decoder_type, model, prompt, *projection):
    """Logits of two prompt chunks and one step, [3, V]."""
    cache = KVCache(AttentionShape.of(model), capacity=64)
    decoder = decoder_type(model, cache, *projection)
    with torch.inference_mode():
        first = decoder.prefill(torch.tensor(prompt[:10]), None)
        second = decoder.prefill(torch.tensor(prompt[10:]), None)
        return torch.stack((first, second, decoder.step(7)))


def test_logits_equal_the_modules(family, folder_of, prompt_of):
    model = load_checkpoint(folder_of(family)).model
    expected = logits_of(ModuleDecoder, model, prompt_of(40))
    torch.testing.assert_close(
        logits_of(LeanDecoder, model, prompt_of(40)), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_give_nearly_the_same(family, dtype, folder_of, prompt_of):
    narrow = load_checkpoint(folder_of(family), dtype=dtype).model
    wide = load_checkpoint(folder_of(family)).model
    logits = logits_of(LeanDecoder, narrow, prompt_of(40))
    assert logits.dtype == getattr(torch, dtype)
    alike = F.cosine_similarity(logits.float(), logits_of(ModuleDecoder, wide, prompt_of(40)))
    assert alike.min() > 0.99


def test_every_linear_layer_runs_behind_a_projection(family, folder_of, prompt_of):
    """One that keeps half of its weight in another form gives what the whole weight gives."""
    made = []

    class Halves(Projection):
        def __init__(self, weight, bias):
            made.append(self)
            self.parts, self.bias = weight.chunk(2, dim=-1), bias

        def __call__(self, x):
            low, high = x.chunk(2, dim=-1)
            product = F.linear(low, self.parts[0]) + F.linear(high, self.parts[1])
            return product if self.bias is None else product + self.bias

    model = load_checkpoint(folder_of(family)).model
    expected = logits_of(LeanDecoder, model, prompt_of(40))
    torch.testing.assert_close(
        logits_of(LeanDecoder, model, prompt_of(40), Halves), expected, rtol=1e-4, atol=1e-4
    )
    assert len(made) == 4 * model.config.num_hidden_layers + 1
