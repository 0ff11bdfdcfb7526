# SPDX-License-Identifier: Apache-2.0
"""What holding an answer to a schema costs per token, without a model: llguidance and xgrammar.

xgrammar is not among this package's requirements; it is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from machine import heading
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.response_schema import ResponseSchemas
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings

EOS = "</s>"
STRING = {"type": "string"}
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "choices": (
        {"type": "object", "properties": {"command": {"enum": ["stop", "resume", "yield"]}}},
        {"command": "resume"},
    ),
    "free text": (
        {"type": "object", "properties": {"note": STRING}},
        {"note": "a truck stands on the right lane and blocks the way to the depot"},
    ),
    "bounded text": (
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "maxItems": 9,
        },
        ["match its speed", "hold the gap", "keep the lane", "watch the truck"],
    ),
}
Walk = tuple[float, list[float]]
"""Seconds of compiling, and of each token."""


def large_vocabulary(size: int) -> PreTrainedTokenizerFast:
    """Byte-pair tokens, random but for their alphabet, in the number that today's models have."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([EOS, *alphabet])}
    merges: list[tuple[str, str]] = []
    stems = [*letters, "Ġ", '"', ",", ":", "{", "}", "[", "]"]
    while len(vocabulary) < size:
        first, second = rng.choice(stems), rng.choice(letters)
        if first + second not in vocabulary and len(first) < 11:
            vocabulary[first + second] = len(vocabulary)
            merges.append((first, second))
            stems.append(first + second)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


def llguidance_walk(tokenizer: PreTrainedTokenizerFast) -> Callable[[str, str], Walk]:
    """The engine's own way: masked logits of each token, then the token."""
    schemas = ResponseSchemas(tokenizer, len(tokenizer), {tokenizer.eos_token_id})
    logits = torch.zeros(len(tokenizer))

    def walk(schema: str, answer: str) -> Walk:
        start = time.perf_counter()
        held = schemas.constraint(schema)
        compiled = time.perf_counter() - start
        times = []
        for token in schemas.tokens(answer):
            start = time.perf_counter()
            held.restrict(logits)
            held.accept(token)
            times.append(time.perf_counter() - start)
        return compiled, times

    return walk


def xgrammar_walk(tokenizer: PreTrainedTokenizerFast) -> Callable[[str, str], Walk]:
    """The same with xgrammar and its own kernel for the logits."""
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    schemas = ResponseSchemas(tokenizer, len(tokenizer), {tokenizer.eos_token_id})
    mask = xgrammar.allocate_token_bitmask(1, len(tokenizer))
    logits = torch.zeros(1, len(tokenizer))

    def walk(schema: str, answer: str) -> Walk:
        start = time.perf_counter()
        grammar = compiler.compile_json_schema(
            schema, any_whitespace=False, separators=(", ", ": ")
        )
        compiled = time.perf_counter() - start
        matcher = xgrammar.GrammarMatcher(grammar)
        times = []
        for token in schemas.tokens(answer):
            start = time.perf_counter()
            held = logits.clone()
            matcher.fill_next_token_bitmask(mask)
            xgrammar.apply_token_bitmask_inplace(held, mask)
            matcher.accept_token(token)
            times.append(time.perf_counter() - start)
        return compiled, times

    return walk


def rows(name: str, walk: Callable[[str, str], Walk], repeats: int) -> Iterator[str]:
    """One row of the table per case: the median repetition's means, the worst of all."""
    for case, (schema, answer) in CASES.items():
        closed = json.dumps(schema | {"additionalProperties": False})
        # Another title is another schema: nothing is taken from a cache.
        walks = [
            walk(json.dumps(json.loads(closed) | {"title": str(i)}), json.dumps(answer))
            for i in range(repeats + 1)
        ][1:]
        compiled = statistics.median(compiled for compiled, _ in walks)
        mean = statistics.median(statistics.mean(times) for _, times in walks)
        worst = statistics.median(max(times) for _, times in walks)
        yield (f"{name:32}{case:14}{compiled * 1e3:>12.2f}{mean * 1e6:>12.0f}{worst * 1e6:>12.0f}")


def main() -> None:
    """Print compile time, mean and worst time per token for two vocabularies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(heading("Grammar libraries"))
    print(f"{'':46}{'compile ms':>12}{'mean us':>12}{'worst us':>12}")
    embedded = load_checkpoint(model_folder(Settings())).tokenizer
    libraries = {"llguidance": llguidance_walk}
    if importlib.util.find_spec("xgrammar") is not None:
        libraries["xgrammar"] = xgrammar_walk
    for tokenizer in (embedded, large_vocabulary(150_000)):
        for library, walk in libraries.items():
            name = f"{library}, {len(tokenizer):,} tokens"
            print("\n".join(rows(name, walk(tokenizer), repeats)))


if __name__ == "__main__":
    main()
