# SPDX-License-Identifier: Apache-2.0
"""Decoding speed of the engine beside transformers' ``generate``: same model, prompt and threads.

The two take turns within one run, so that a change of the machine's speed meets both. Only decoding
is timed, from the first response token to the last.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import heading
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    StoppingCriteria,
)

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings


class TokenClock(StoppingCriteria):
    """Notes when each token of ``generate`` is there; stops nothing."""

    def __init__(self) -> None:
        self.instants: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: Any) -> torch.Tensor:
        """See ``StoppingCriteria``."""
        self.instants.append(time.perf_counter_ns())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def engine_rate(engine: TransformerEngine, prompt: list[int], tokens: int) -> float:
    """Tokens per second of the engine's decoding."""
    engine.begin(PreparedRequest(prompt), tokens, ignore_eos=True)
    while not engine.prefill_chunk():
        pass
    start = time.perf_counter_ns()
    while engine.finish_reason is None:
        engine.step()
    return (tokens - 1) * 1e9 / (time.perf_counter_ns() - start)


def generate_rate(model: PreTrainedModel, prompt: list[int], tokens: int) -> float:
    """Tokens per second of ``generate``'s decoding."""
    clock = TokenClock()
    ids = torch.tensor([prompt], device=model.device)
    # A configuration of its own: no end-of-sequence token, no penalties.
    greedy = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=greedy,
        stopping_criteria=[clock],
    )
    return (tokens - 1) * 1e9 / (clock.instants[-1] - clock.instants[0])


def save_random(folder: Path) -> Path:
    """A random checkpoint of the embedded model's shape."""
    config = Qwen2Config(
        vocab_size=1800,
        hidden_size=192,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


EMBEDDED = model_folder(Settings())


def main() -> None:
    """Print tokens per second of both, and their ratio, for each prompt length."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, default=EMBEDDED, help="checkpoint directory")
    source.add_argument("--random", action="store_true", help="random model, embedded shape")
    parser.add_argument("--prompt", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_random(Path(scratch)) if arguments.random else arguments.model
        checkpoint = load_checkpoint(folder, device=arguments.device)
        stock = AutoModelForCausalLM.from_pretrained(folder, dtype=checkpoint.dtype)
    stock = stock.to(checkpoint.device).eval()
    settings = EngineSettings(
        max_context=max(arguments.prompt) + arguments.tokens, threads=arguments.threads
    )
    engine = TransformerEngine(checkpoint, settings)
    print(heading("Decoding speed"))
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{checkpoint.device}, {checkpoint.dtype}, {arguments.threads} threads, "
        f"{type(engine.decoder).__name__}; {arguments.tokens} tokens, "
        f"median of {arguments.turns} turns"
    )
    print("prompt   engine tok/s   generate tok/s   ratio   (goal: >= 1.5)")
    for length in arguments.prompt:
        generator = torch.Generator().manual_seed(length)
        vocabulary = stock.config.vocab_size
        prompt = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        ours, theirs = [], []
        for turn in range(arguments.turns + 1):
            rates = (
                engine_rate(engine, prompt, arguments.tokens),
                generate_rate(stock, prompt, arguments.tokens),
            )
            if turn > 0:  # the first warms up
                ours.append(rates[0])
                theirs.append(rates[1])
        mine, other = statistics.median(ours), statistics.median(theirs)
        print(f"{length:6d}   {mine:12.0f}   {other:14.0f}   {mine / other:5.2f}")


if __name__ == "__main__":
    main()
