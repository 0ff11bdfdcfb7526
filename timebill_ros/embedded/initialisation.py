# SPDX-License-Identifier: Apache-2.0
"""Structured initialisation: the attention circuits that copying from a scene log needs.

From random weights the model takes tens of millions of tokens to find these circuits; from here it
needs a few hundred thousand to use them. The residual stream is divided into slots. The first
layer's heads fill the slots of every token with its surroundings: the last object name before or
at it (its *tag*), the last sector name, the token before, the token one record before. The second
layer's heads retrieve: one finds the token with the same tag whose kind comes next in a record, and
copies its identity; others find the next name of a list or a report, or the next token of a header.
The third layer is left to training, which is free to change all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from timebill_ros.embedded.architecture import rotary_frequencies
from timebill_ros.embedded.tokenizer import BOS, SPACE, SPECIAL_TOKENS
from timebill_ros.workload.scene import RECORD_WORDS
from timebill_ros.workload.vocabulary import (
    COUNT_PHRASES,
    FIELD_WORDS,
    LIST_PHRASES,
    OBJECT_KINDS,
    REPORT_PHRASES,
)

# Slots of the residual stream (hidden size 208).
IDENTITY = slice(0, 64)
KIND = slice(64, 79)
TAG = slice(79, 111)
SECTOR = slice(111, 144)
PREVIOUS = slice(144, 176)
RECORD_BEFORE = slice(176, 208)

# Kinds of tokens.
OBJECT, SECTOR_NAME, CLASS, DISTANCE, SPEED, HEADING, LANE, NUMBER = range(8)
END, COLON, SPECIAL, FIELD_WORD, PHRASE_WORD, WORD, START = range(8, 15)
_KIND_OF_PREFIX = {
    "o": OBJECT,
    "s": SECTOR_NAME,
    "d": DISTANCE,
    "v": SPEED,
    "h": HEADING,
    "l": LANE,
    "n": NUMBER,
}
_PHRASES = (*REPORT_PHRASES, *LIST_PHRASES, *COUNT_PHRASES)
_KIND_OF_WORD = {
    **dict.fromkeys(SPECIAL_TOKENS, SPECIAL),
    BOS: START,
    **dict.fromkeys(OBJECT_KINDS, CLASS),
    **dict.fromkeys(FIELD_WORDS, FIELD_WORD),
    **dict.fromkeys((word for text in _PHRASES for word in text.split()), PHRASE_WORD),
    ";": END,
    ":": COLON,
}
NEXT_IN_RECORD = {
    OBJECT: SECTOR_NAME,
    SECTOR_NAME: CLASS,
    CLASS: DISTANCE,
    DISTANCE: SPEED,
    SPEED: HEADING,
    HEADING: LANE,
    LANE: END,
}
NEXT_NAME = {END: OBJECT, SPECIAL: OBJECT, FIELD_WORD: OBJECT}

# Strengths are attention logits (nats): how much a match adds over no match.
_MATCH, _KIND_MATCH, _OFFSET, _IS_KIND = 25.0, 16.0, 14.0, 80.0
# Logits of the rotary pairs that make a head prefer the nearest of several names. Chosen so that
# the own record's name wins by 10 nats over every other name up to 12,000 tokens away, and of an
# instruction's names, one token apart, the nearest by 2.5.
_NEAREST = (3.0, 6.0, 9.0, 11.0, 21.0, 20.0, 17.0, 18.0, 12.0, 9.0, 9.0, 12.0)
# Rotary pairs from here on hardly turn within the context: they match content. Those before tell
# distances.
_FIRST_SLOW_PAIR = 12
# Of a head's slow dimensions, those that match kinds (the followers, ``OBJECT`` to ``END``) and the
# one that attends to the start.
_RESERVED = END + 2


def token_kinds(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return the kind of every token, ``[vocabulary]``."""
    kinds = torch.full((len(tokenizer),), WORD)
    for token, index in tokenizer.get_vocab().items():
        word = token.removeprefix(SPACE)
        if word[:1] in _KIND_OF_PREFIX and word[1:].isdigit():
            kinds[index] = _KIND_OF_PREFIX[word[0]]
        elif word in _KIND_OF_WORD:
            kinds[index] = _KIND_OF_WORD[word]
    return kinds


@torch.no_grad()
def initialise(model: Qwen2ForCausalLM, kinds: Tensor, seed: int) -> None:
    """Write the circuits into ``model`` in place; same seed, same weights."""
    random = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            # What heads write must not drown in noise: a slot takes one of some 10 vectors.
            spread = 0.002 if "o_proj" in name else 0.02
            weight.copy_(torch.randn(weight.shape, generator=random) * spread)
        elif name.endswith("bias"):
            weight.zero_()
    embeddings = model.model.embed_tokens.weight
    identity = torch.randn(len(kinds), 64, generator=random)
    embeddings[:, IDENTITY] = identity / identity.norm(dim=1, keepdim=True) * 0.75**0.5
    # The first token says nothing: heads that find nothing attend to it.
    embeddings[kinds == START] = 0.0
    embeddings[torch.arange(len(kinds)), KIND.start + kinds] += 0.5

    # Names are coded alike in all slots, so that one slot can be matched with another.
    name_code = _orthogonal(32, 64, random)
    surroundings = _Writer(model, 0, scale=model.config.hidden_size**0.5)
    surroundings.attend_to_nearest(0, OBJECT)
    surroundings.attend_to_offset(1, 1)
    surroundings.attend_to_nearest(2, SECTOR_NAME)
    surroundings.attend_to_offset(3, RECORD_WORDS)
    surroundings.copy(0, name_code, TAG, 0.8)
    surroundings.copy(1, name_code, PREVIOUS, 0.8)
    surroundings.copy(2, _orthogonal(33, 64, random), SECTOR, 0.8)
    surroundings.copy(3, name_code, RECORD_BEFORE, 0.8)

    # What the first layer wrote makes a slot a smaller part of the normed residual. Where both next
    # names are found, that of the instruction (a report) wins over that of the scene (a list).
    retrieval = _Writer(model, 1, scale=7.3)
    header = (_Term(SECTOR, SECTOR, rows=20), _Term(IDENTITY, PREVIOUS, rows=10, code=name_code))
    retrieval.match(0, (_Term(TAG, TAG),), NEXT_IN_RECORD, random)
    retrieval.match(1, (_Term(TAG, RECORD_BEFORE),), NEXT_NAME, random)
    retrieval.match(2, (_Term(TAG, PREVIOUS),), NEXT_NAME, random)
    retrieval.match(3, header, {}, random)
    for head, gain in enumerate((3.0, 1.5, 2.5, 1.5)):
        retrieval.copy(head, torch.eye(64), IDENTITY, gain)


@dataclass(frozen=True)
class _Term:
    """The own ``wanted`` slot, through ``code`` if given, equals the other's ``offered`` slot."""

    wanted: slice
    offered: slice
    rows: int = 30
    code: Tensor | None = None


class _Writer:
    """Writes circuits into one layer's attention.

    ``scale`` is the size of a unit of the residual stream after the layer's norm.
    """

    def __init__(self, model: Qwen2ForCausalLM, depth: int, scale: float) -> None:
        self.attention = model.model.layers[depth].self_attn
        self.size: int = model.config.head_dim
        self.hidden: int = model.config.hidden_size
        self.half = self.size // 2
        self.frequencies = rotary_frequencies(model.config)
        self.scale = scale

    def attend_to_offset(self, head: int, offset: int) -> None:
        """Attend to the token ``offset`` before, by biases alone (they turn with the position)."""
        pairs = torch.arange(0, _FIRST_SLOW_PAIR)
        amplitude = (_OFFSET * self.size**0.5) ** 0.5
        angle = offset * self.frequencies[pairs]
        query, key = self._biases(head)
        key[pairs] = amplitude
        query[pairs] = amplitude * angle.cos()
        query[pairs + self.half] = -amplitude * angle.sin()

    def attend_to_nearest(self, head: int, kind: int) -> None:
        """Attend to the nearest token of a kind, the token itself included."""
        amplitudes = (torch.tensor(_NEAREST) * self.size**0.5) ** 0.5
        query, key = self._biases(head)
        key[: len(amplitudes)] = amplitudes
        query[: len(amplitudes)] = amplitudes
        slowest, bias = self.half - 1, 12.0
        query[slowest] = bias
        rows = self.attention.k_proj.weight[head * self.size : (head + 1) * self.size]
        rows[slowest, KIND.start + kind] = _IS_KIND * self.size**0.5 / (bias * 0.5 * self.scale)

    def match(
        self,
        head: int,
        terms: tuple[_Term, ...],
        follows: dict[int, int],
        random: torch.Generator,
    ) -> None:
        """Attend where all terms hold and the other's kind follows the own, else to the start."""
        slow = torch.arange(_FIRST_SLOW_PAIR, self.half)
        rows = head * self.size + torch.cat([slow, slow + self.half])
        query, key = self.attention.q_proj.weight, self.attention.k_proj.weight
        for this, following in follows.items():
            strength = (_KIND_MATCH * self.size**0.5) ** 0.5 / (0.5 * self.scale)
            query[rows[-1 - following], KIND.start + this] = strength
            key[rows[-1 - following], KIND.start + following] = strength
        for term, part in zip(
            terms, rows.split([*(t.rows for t in terms), _RESERVED]), strict=False
        ):
            width = term.offered.stop - term.offered.start
            code = _orthogonal(min(width, len(part)), width, random)
            strength = (_MATCH * self.size**0.5 * width / len(code)) ** 0.5 / (0.8 * self.scale)
            asked = code if term.code is None else code @ term.code
            query[part[: len(code)], term.wanted] = asked * strength
            key[part[: len(code)], term.offered] = code * strength
        # All conditions but one must not be enough.
        conditions = len(terms) * _MATCH + (_KIND_MATCH if follows else 0.0)
        threshold = conditions - 10.0
        self.attention.q_proj.bias[rows[-_RESERVED]] = 1.0
        key[rows[-_RESERVED], KIND.start + START] = threshold * (self.size / self.hidden) ** 0.5

    def copy(self, head: int, code: Tensor, target: slice, gain: float) -> None:
        """Write ``code`` times the attended token's identity, of size ``gain``."""
        rows = slice(head * self.size, head * self.size + len(code))
        self.attention.v_proj.weight[rows, IDENTITY] = code
        unit = self.scale * 0.75**0.5
        kept = (len(code) / code.shape[1]) ** 0.5
        self.attention.o_proj.weight[target, rows] = torch.eye(len(code)) * gain / (unit * kept)

    def _biases(self, head: int) -> tuple[Tensor, Tensor]:
        rows = slice(head * self.size, (head + 1) * self.size)
        return self.attention.q_proj.bias[rows], self.attention.k_proj.bias[rows]


def _orthogonal(rows: int, columns: int, random: torch.Generator) -> Tensor:
    """Random ``[rows, columns]`` with orthonormal rows (rows <= columns)."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=random))[0].T
