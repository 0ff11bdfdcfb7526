# SPDX-License-Identifier: Apache-2.0
"""What selection costs on real text: ``python -m timebill_ros.bench.selection_agreement``.

The model answers each whole prompt greedily. Then it is given that answer after a selected prompt,
token by token: the share of the tokens that are still its first choice. Far less noisy than
comparing two texts, and it needs no references.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from timebill_ros.engine.prompt import PromptEncoder
from timebill_ros.engine.request import Conversation
from timebill_ros.selection.methods import SELECTION_METHODS, make_selection_method
from timebill_ros.selection.selector import Selector

_RESAMPLES = 2000


def main() -> None:
    """Print the agreement of every method at every share, and their differences to ``recent``."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    encoder = PromptEncoder(tokenizer, model.config.max_position_embeddings)
    prompts = _prompts(options, tokenizer)
    shape = (len(SELECTION_METHODS), len(options.shares), len(prompts))
    agreement = np.zeros(shape)
    for place, prompt in enumerate(prompts):
        talk = Conversation("", prompt)
        _, whole = encoder.encode(talk)
        answer = _answer(model, whole, options.answer_tokens)
        for row, name in enumerate(SELECTION_METHODS):
            selector = Selector(make_selection_method(name), options.window, options.head)
            ranked = selector.rank(talk.texts, len(whole))
            for column, share in enumerate(options.shares):
                _, ids = encoder.encode(Conversation("", ranked.select(share)[0]))
                agreement[row, column, place] = _agreement(model, ids, answer)
        done = agreement[:, :, : place + 1].mean(axis=2).round(3).tolist()
        print(f"[{place + 1}/{len(prompts)}] {len(whole)} tokens, so far {done}", flush=True)
    print("\n".join(_table(agreement, options.shares)))


@torch.inference_mode()
def _answer(model: torch.nn.Module, prompt_ids: Sequence[int], most: int) -> list[int]:
    """The model's greedy answer."""
    ids = torch.tensor([prompt_ids])
    made = model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False
    )
    return [int(token) for token in made[0, len(prompt_ids) :]]


@torch.inference_mode()
def _agreement(model: torch.nn.Module, prompt_ids: Sequence[int], answer: Sequence[int]) -> float:
    """The share of the answer's tokens that are the first choice after this prompt."""
    logits = model(torch.tensor([[*prompt_ids, *answer[:-1]]])).logits[0]
    first = logits[-len(answer) :].argmax(-1)
    return float((first == torch.tensor(answer)).float().mean())


def _prompts(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Prompts of enough tokens, drawn evenly from the file."""
    lines = options.prompts.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines]
    long = [
        text
        for text in texts
        if options.tokens[0] <= len(tokenizer.encode(text)) <= options.tokens[1]
    ]
    chosen = np.linspace(0, len(long) - 1, min(options.count, len(long))).round().astype(int)
    return [long[index] for index in chosen]


def _table(agreement: NDArray[np.float64], shares: Sequence[float]) -> list[str]:
    """Markdown: means, and the paired difference to the end alone with its interval of 95 %."""
    names = list(SELECTION_METHODS)
    recent = agreement[names.index("recent")]
    drawn = np.random.default_rng(0).integers(recent.shape[1], size=(_RESAMPLES, recent.shape[1]))
    lines = ["| method | " + " | ".join(f"{share:g} kept" for share in shares) + " |"]
    lines.append("|---" * (len(shares) + 1) + "|")
    for name, rows in zip(names, agreement, strict=True):
        cells = []
        for each, end in zip(rows, recent, strict=True):
            low, high = np.percentile((each - end)[drawn].mean(axis=1), (2.5, 97.5))
            cells.append(f"{each.mean():.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint directory or hub id")
    parser.add_argument("prompts", type=Path, help="JSON lines with prompt")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs=2, default=[600, 1600], help="of a prompt")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--answer-tokens", type=int, default=48)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--head", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
