# SPDX-License-Identifier: Apache-2.0
"""Structured initialisation: the attention circuits that copying from a scene log needs.

From random weights the model takes tens of millions of tokens to find these circuits; from here it
needs a few hundred thousand to use them. The residual stream is divided into slots. The first
layer's heads fill the slots of every token with its surroundings: the last object name before or
at it (its *tag*), the last sector name, the token before, the token one record before. Later layers
retrieve: a head finds the token with the same tag whose kind comes next in a record, and copies its
identity. Training is free to change all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from timebill_ros.embedded.architecture import rotary_frequencies
from timebill_ros.embedded.tokenizer import SPACE, SPECIAL_TOKENS
from timebill_ros.workload.scene import RECORD_WORDS

# Slots of the residual stream (hidden size 192).
IDENTITY = slice(0, 64)
KIND = slice(64, 76)
TAG = slice(76, 108)
SECTOR = slice(108, 128)
PREVIOUS = slice(128, 160)
RECORD_BEFORE = slice(160, 192)

# Kinds of tokens by the first letter of numbered words, then single words.
OBJECT, SECTOR_NAME, CLASS, DISTANCE, SPEED, HEADING, LANE, NUMBER, END, COLON, SPECIAL, WORD = (
    range(12)
)
_KIND_OF_PREFIX = {
    "o": OBJECT,
    "s": SECTOR_NAME,
    "d": DISTANCE,
    "v": SPEED,
    "h": HEADING,
    "l": LANE,
    "n": NUMBER,
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
NEXT_NAME = {END: OBJECT, SPECIAL: OBJECT}
NEXT_IN_HEADER = {WORD: NUMBER, NUMBER: COLON, COLON: OBJECT}

# Strengths are attention logits (nats): how much a match adds over no match.
_MATCH, _KIND_MATCH, _OFFSET, _IS_KIND = 25.0, 10.0, 14.0, 80.0
# Logits of the rotary pairs that make a head prefer the nearest of several names. Chosen so that
# the own record's name wins by 10 nats over every other name up to 12,000 tokens away, and of an
# instruction's names, one token apart, the nearest by 2.5.
_NEAREST = (3.0, 6.0, 9.0, 11.0, 21.0, 20.0, 17.0, 18.0, 12.0, 9.0, 9.0, 12.0)
# Rotary pairs from here on hardly turn within the context: they match content. Those before tell
# distances.
_FIRST_SLOW_PAIR = 12


def token_kinds(tokenizer: PreTrainedTokenizerFast, kind_words: tuple[str, ...]) -> Tensor:
    """Return the kind of every token, ``[vocabulary]``; ``kind_words`` are the object classes."""
    kinds = torch.full((len(tokenizer),), WORD)
    for token, index in tokenizer.get_vocab().items():
        word = token.removeprefix(SPACE)
        if token in SPECIAL_TOKENS:
            kinds[index] = SPECIAL
        elif word in kind_words:
            kinds[index] = CLASS
        elif word in (";", ":"):
            kinds[index] = END if word == ";" else COLON
        elif word[:1] in _KIND_OF_PREFIX and word[1:].isdigit():
            kinds[index] = _KIND_OF_PREFIX[word[0]]
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
    surroundings.copy(2, _orthogonal(20, 64, random), SECTOR, 0.8)
    surroundings.copy(3, name_code, RECORD_BEFORE, 0.8)

    for depth in range(1, len(model.model.layers)):
        retrieval = _Writer(model, depth, scale=7.3)
        named_before = PREVIOUS if depth == 1 else RECORD_BEFORE
        for head, (wanted, offered, follows) in enumerate(
            (
                (TAG, TAG, NEXT_IN_RECORD),
                (TAG, TAG, NEXT_IN_RECORD),
                (TAG, named_before, NEXT_NAME),
                (SECTOR, SECTOR, NEXT_IN_HEADER),
            )
        ):
            retrieval.match(head, wanted, offered, follows, random)
            slot, gain = (KIND, 1.5) if head == 1 else (IDENTITY, 3.0)
            size = slot.stop - slot.start
            retrieval.copy(head, torch.eye(size), slot, gain / depth, source=slot)


class _Writer:
    """Writes circuits into one layer's attention.

    ``scale`` is the size of a unit of the residual stream after the layer's norm.
    """

    def __init__(self, model: Qwen2ForCausalLM, depth: int, scale: float) -> None:
        self.attention = model.model.layers[depth].self_attn
        self.size: int = model.config.head_dim
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
        wanted: slice,
        offered: slice,
        follows: dict[int, int],
        random: torch.Generator,
    ) -> None:
        """Attend where the ``offered`` slot equals the own ``wanted`` slot and the kind follows."""
        slow = torch.arange(_FIRST_SLOW_PAIR, self.half)
        rows = head * self.size + torch.cat([slow, slow + self.half])
        content, kinds = rows[:-12], rows[-12:]
        width = wanted.stop - wanted.start
        code = _orthogonal(min(width, len(content)), width, random)
        strength = _MATCH * self.size**0.5 / (0.8 * self.scale) ** 2 * width / len(code)
        query, key = self.attention.q_proj.weight, self.attention.k_proj.weight
        query[content[: len(code)], wanted] = code * strength**0.5
        key[content[: len(code)], offered] = code * strength**0.5
        strength = _KIND_MATCH * self.size**0.5 / (0.5 * self.scale) ** 2
        for this, following in follows.items():
            query[kinds[following], KIND.start + this] = strength**0.5
            key[kinds[following], KIND.start + following] = strength**0.5

    def copy(
        self, head: int, code: Tensor, target: slice, gain: float, source: slice = IDENTITY
    ) -> None:
        """Write ``code`` times the attended token's ``source`` slot, of size ``gain``."""
        rows = slice(head * self.size, head * self.size + len(code))
        self.attention.v_proj.weight[rows, source] = code
        unit = self.scale * (0.5 if source == KIND else 0.75**0.5)
        kept = (len(code) / code.shape[1]) ** 0.5
        self.attention.o_proj.weight[target, rows] = torch.eye(len(code)) * gain / (unit * kept)

    def _biases(self, head: int) -> tuple[Tensor, Tensor]:
        rows = slice(head * self.size, (head + 1) * self.size)
        return self.attention.q_proj.bias[rows], self.attention.k_proj.bias[rows]


def _orthogonal(rows: int, columns: int, random: torch.Generator) -> Tensor:
    """Random ``[rows, columns]`` with orthonormal rows (rows <= columns)."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=random))[0].T
