# SPDX-License-Identifier: Apache-2.0
"""A pretrained classifier with fewer blocks, and what all of them but the last make of prompts.

That never changes while the last block learns, so it is computed once and kept in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertForSequenceClassification, LlamaForSequenceClassification

from timebill_ros.predictor.checkpoint import Buckets
from timebill_ros.predictor.errors import BackboneUnusable
from timebill_ros.training.predictor.sequence_training import load_backbone
from timebill_ros.training.progress import track

States = NDArray[np.float16]
"""What the lower blocks made of one prompt's tokens, [tokens, h]."""

Classifier = LlamaForSequenceClassification | BertForSequenceClassification

# More would not stay in a core's cache.
_TOKENS_AT_ONCE = 1024


def shortened(folder: Path, blocks: int | None, outputs: int) -> Classifier:
    """The pretrained classifier of which only the first ``blocks`` are left; None: all.

    Raises:
        BackboneUnusable: it cannot be read, has too few blocks, or another architecture.
    """
    model, _ = load_backbone(folder, Buckets(1, outputs))
    if not isinstance(model, LlamaForSequenceClassification | BertForSequenceClassification):
        raise BackboneUnusable(folder, f"{type(model).__name__} is neither Llama's nor BERT's kind")
    there = model.config.num_hidden_layers
    if blocks is not None and not 2 <= blocks <= there:
        raise BackboneUnusable(folder, f"{blocks} blocks were asked for: it has {there}, least 2")
    inner = model.model if isinstance(model, LlamaForSequenceClassification) else model.bert.encoder
    name = "layers" if isinstance(model, LlamaForSequenceClassification) else "layer"
    setattr(inner, name, getattr(inner, name)[:blocks])
    model.config.num_hidden_layers = len(getattr(inner, name))
    model.eval()
    return model


@torch.inference_mode()
def states_below(
    model: Classifier, prompts: Sequence[Sequence[int]], dtype: torch.dtype = torch.bfloat16
) -> Iterator[tuple[int, States]]:
    """What all blocks but the last make of each prompt's tokens; yields its number with it.

    The shortest prompts come first: those of a batch are of similar length. The model's own last
    block is not touched, but all of it is in ``dtype`` afterwards.
    """
    if isinstance(model, LlamaForSequenceClassification):
        lower, last = model.model, model.model.layers[-1]
    else:
        lower, last = model.bert, model.bert.encoder.layer[-1]
    kept: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    lower.to(dtype)
    try:
        for rows in _batches(prompts):
            longest = len(prompts[rows[-1]])
            tokens = torch.zeros(len(rows), longest, dtype=torch.long)
            valid = torch.zeros(len(rows), longest, dtype=torch.long)
            for place, row in enumerate(rows):
                tokens[place, : len(prompts[row])] = torch.tensor(prompts[row])
                valid[place, : len(prompts[row])] = 1
            lower(tokens, attention_mask=valid)
            states = kept.pop().to(torch.float16).numpy()
            for place, row in enumerate(rows):
                yield row, states[place, : len(prompts[row])].copy()
    finally:
        hook.remove()


def _batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of prompts of similar length, rising, few enough to be computed at once."""
    rows: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda row: len(prompts[row])):
        if rows and (len(rows) + 1) * len(prompts[row]) > _TOKENS_AT_ONCE:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


class KeptStates:
    """States of prompts in a file, so that they are computed once.

    Args:
        path: of the file, there or not; its name should tell the model, its blocks and how prompts
            are shortened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, States] = {}
        if path.exists():
            with np.load(path, allow_pickle=False) as arrays:
                parts = np.split(arrays["states"], arrays["ends"][:-1])
                self._known = dict(zip(arrays["digests"].tolist(), parts, strict=True))

    def of(self, model: Classifier, prompts: Mapping[str, Sequence[int]]) -> dict[str, States]:
        """The states of ``prompts``, tokens by digest; those that are not kept are computed.

        What was computed until an interruption is kept too.
        """
        missing = [digest for digest in prompts if digest not in self._known]
        states = states_below(model, [prompts[digest] for digest in missing])
        try:
            for row, made in track(states, "states of the lower blocks, prompts", len(missing)):
                self._known[missing[row]] = made
        finally:
            if missing and self._known:
                self._save()
        return {digest: self._known[digest] for digest in prompts}

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part.npz")
        np.savez(
            part,
            states=np.concatenate(list(self._known.values())),
            ends=np.cumsum([len(states) for states in self._known.values()]),
            digests=np.array(list(self._known)),
        )
        part.replace(self._path)
