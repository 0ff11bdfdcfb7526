# SPDX-License-Identifier: Apache-2.0
"""Structured initialisation: the attention circuits that copying from a scene log needs.

From random weights the model takes tens of millions of tokens to find these circuits; from here it
needs a few hundred thousand to use them. The residual stream is divided into slots. The first
layer's heads fill the slots of every token with its surroundings: the last object name (or argument
of a command) before or at it (its *tag*), the last sector name, the token before, the token one
record before. The second layer's heads retrieve: one finds the token with the same tag whose kind
comes next in a record, and copies its identity; others find the next name of a list or a report, or
the next token of a header. Words that JSON copies have the identity of what they copy. The third
layer is left to training, which is free to change all of it.

The small model has half of the heads, those that records and reports need: it starts without the
circuits that find a sector and list what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from timebill_ros.training.embedded.architecture import rotary_frequencies
from timebill_ros.training.embedded.batches import BOS, SPACE, SPECIAL_TOKENS
from timebill_ros.workload.phrases import COUNT, LIST, REPORT
from timebill_ros.workload.scene import EGO, RECORD_WORDS
from timebill_ros.workload.vocabulary import (
    FIELD_WORDS,
    GOALS,
    MANOEUVRES,
    NUMBERED_WORDS,
    OBJECT_KINDS,
)

# Slots of the residual stream: hidden size 216, in the small model 152, which has no slots for the
# sector and the record before.
IDENTITY = slice(0, 64)
KIND = slice(64, 84)
TAG = slice(84, 116)
SECTOR = slice(116, 152)
PREVIOUS = slice(152, 184)
RECORD_BEFORE = slice(184, 216)
PREVIOUS_IN_SMALL = slice(116, 148)

# Kinds of tokens. An ARGUMENT is a number or a place that an instruction gives to a command, a
# VALUE its copy in JSON, as other words that JSON copies; keys of JSON are followed by values.
OBJECT, SECTOR_NAME, CLASS, DISTANCE, SPEED, HEADING, LANE, ARGUMENT, END = range(9)
NUMBER, COLON, SPECIAL, FIELD_WORD, PHRASE_WORD, WORD, START = range(9, 16)
VALUE, SPEED_KEY, GOAL_KEY, TARGET_KEY = range(16, 20)
_KIND_OF_PREFIX = {
    "o": OBJECT,
    "s": SECTOR_NAME,
    "d": DISTANCE,
    "v": SPEED,
    "h": HEADING,
    "l": LANE,
    "n": NUMBER,
}
_PHRASES = (*REPORT.training, *LIST.training, *COUNT.training)
# Words of JSON that copy another word, by the word.
_COPIES = {
    **{f'"o{i}",': f"o{i}" for i in range(NUMBERED_WORDS["o"])},
    **{f"{i}}}": f"v{i}" for i in range(NUMBERED_WORDS["v"])},
    **{f'"{goal}"}}': goal for goal in GOALS},
    **{f'"{manoeuvre}",': manoeuvre for manoeuvre in MANOEUVRES},
}
_ARGUMENTS = {str(i): f"v{i}" for i in range(NUMBERED_WORDS["v"])}
_KIND_OF_WORD = {
    **dict.fromkeys((word for text in _PHRASES for word in text.split()), PHRASE_WORD),
    **dict.fromkeys(SPECIAL_TOKENS, SPECIAL),
    BOS: START,
    **dict.fromkeys(OBJECT_KINDS, CLASS),
    **dict.fromkeys(FIELD_WORDS, FIELD_WORD),
    **dict.fromkeys([*_ARGUMENTS, *GOALS], ARGUMENT),
    **dict.fromkeys(_COPIES, VALUE),
    EGO: OBJECT,
    '"velocity_mps":': SPEED_KEY,
    '"goal":': GOAL_KEY,
    '"target":': TARGET_KEY,
    ";": END,
    ":": COLON,
}
NEXT_IN_RECORD = {
    OBJECT: (SECTOR_NAME,),
    SECTOR_NAME: (CLASS,),
    CLASS: (DISTANCE,),
    DISTANCE: (SPEED,),
    SPEED: (HEADING,),
    HEADING: (LANE,),
    LANE: (END,),
    SPEED_KEY: (SPEED, ARGUMENT),
    GOAL_KEY: (ARGUMENT,),
    TARGET_KEY: (OBJECT,),
}
NEXT_NAME = {END: (OBJECT,), SPECIAL: (OBJECT,), FIELD_WORD: (OBJECT,)}

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


def _token_kinds(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return the kind of every token, ``[vocabulary]``."""
    kinds = torch.full((len(tokenizer),), WORD)
    for token, index in tokenizer.get_vocab().items():
        word = token.removeprefix(SPACE)
        if word[:1] in _KIND_OF_PREFIX and word[1:].isdigit():
            kinds[index] = _KIND_OF_PREFIX[word[0]]
        elif word in _KIND_OF_WORD:
            kinds[index] = _KIND_OF_WORD[word]
    return kinds


def _copied(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """For every token the one whose identity it has, mostly its own, ``[vocabulary]``."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    copied = torch.arange(len(tokenizer))
    for word, original in (_COPIES | _ARGUMENTS).items():
        if SPACE + word in vocabulary:
            copied[vocabulary[SPACE + word]] = vocabulary[SPACE + original]
    return copied


@torch.no_grad()
def initialise(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Write the circuits into ``model`` in place; same seed, same weights."""
    kinds = _token_kinds(tokenizer)
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
    identity = identity[_copied(tokenizer)]
    embeddings[:, IDENTITY] = identity / identity.norm(dim=1, keepdim=True) * 0.75**0.5
    # The first token says nothing: heads that find nothing attend to it.
    embeddings[kinds == START] = 0.0
    embeddings[torch.arange(len(kinds)), KIND.start + kinds] += 0.5

    # Names are coded alike in all slots, so that one slot can be matched with another.
    name_code = _orthogonal(32, 64, random)
    surroundings = _Writer(model, 0, scale=model.config.hidden_size**0.5)
    # What the first layer wrote makes a slot a smaller part of the normed residual.
    retrieval = _Writer(model, 1, scale=7.3)
    surroundings.attend_to_nearest(0, OBJECT, ARGUMENT)
    surroundings.attend_to_offset(1, 1)
    surroundings.copy(0, name_code, TAG, 0.8)
    if model.config.num_attention_heads == 2:
        surroundings.copy(1, name_code, PREVIOUS_IN_SMALL, 0.8)
        retrieval.match(0, (_Term(TAG, TAG),), NEXT_IN_RECORD, random)
        retrieval.match(1, (_Term(TAG, PREVIOUS_IN_SMALL),), NEXT_NAME, random)
        gains: tuple[float, ...] = (3.0, 2.5)
    else:
        surroundings.copy(1, name_code, PREVIOUS, 0.8)
        surroundings.attend_to_nearest(2, SECTOR_NAME)
        surroundings.attend_to_offset(3, RECORD_WORDS)
        surroundings.copy(2, _orthogonal(36, 64, random), SECTOR, 0.8)
        surroundings.copy(3, name_code, RECORD_BEFORE, 0.8)
        header = (
            _Term(SECTOR, SECTOR, rows=20),
            _Term(IDENTITY, PREVIOUS, rows=10, code=name_code),
        )
        retrieval.match(0, (_Term(TAG, TAG),), NEXT_IN_RECORD, random)
        retrieval.match(1, (_Term(TAG, RECORD_BEFORE),), NEXT_NAME, random)
        retrieval.match(2, (_Term(TAG, PREVIOUS),), NEXT_NAME, random)
        retrieval.match(3, header, {}, random)
        # Where both next names are found, that of the instruction (a report) wins over that of the
        # scene (a list).
        gains = (3.0, 1.5, 2.5, 1.5)
    for head, gain in enumerate(gains):
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

    def attend_to_nearest(self, head: int, *kinds: int) -> None:
        """Attend to the nearest token of some kinds, the token itself included."""
        amplitudes = (torch.tensor(_NEAREST) * self.size**0.5) ** 0.5
        query, key = self._biases(head)
        key[: len(amplitudes)] = amplitudes
        query[: len(amplitudes)] = amplitudes
        slowest, bias = self.half - 1, 12.0
        query[slowest] = bias
        rows = self.attention.k_proj.weight[head * self.size : (head + 1) * self.size]
        for kind in kinds:
            rows[slowest, KIND.start + kind] = _IS_KIND * self.size**0.5 / (bias * 0.5 * self.scale)

    def match(
        self,
        head: int,
        terms: tuple[_Term, ...],
        follows: Mapping[int, tuple[int, ...]],
        random: torch.Generator,
    ) -> None:
        """Attend where all terms hold and the other's kind follows the own, else to the start.

        ``follows`` gives the kinds that may follow each kind.
        """
        slow = torch.arange(_FIRST_SLOW_PAIR, self.half)
        rows = head * self.size + torch.cat([slow, slow + self.half])
        query, key = self.attention.q_proj.weight, self.attention.k_proj.weight
        strength = (_KIND_MATCH * self.size**0.5) ** 0.5 / (0.5 * self.scale)
        for this, followers in follows.items():
            for following in followers:
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
    columnwise: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=random))[0]
    return columnwise.T
