# SPDX-License-Identifier: Apache-2.0
"""Training sequences: one scene, then questions with answers until the sequence is full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from timebill_ros.training.embedded.architecture import AttentionTargets
from timebill_ros.workload.scene import (
    RECORD_WORDS,
    TRAINING_LAYOUTS,
    Scene,
    sample_scene,
)
from timebill_ros.workload.tasks import Family, pose, sample_family

PAD, BOS, EOS, ASK, ANSWER = "<pad>", "<bos>", "<eos>", "<ask>", "<ans>"
SPECIAL_TOKENS = (PAD, BOS, EOS, ASK, ANSWER)
SPACE = "▁"

# The scene log, the instruction, then the cue to answer. Later turns follow in the same way.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<ask>' + message['content'] }}"
    "{% else %}{{ '<ans>' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<ans>' }}{% endif %}"
)


def build_tokenizer(words: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer: special tokens, 256 bytes, the space mark, then one token per word.

    A word is looked up whole with the space before it (byte-pair encoding without merges); any
    other text falls apart into the space mark and UTF-8 bytes, so that every string has tokens and
    decodes to itself but for one leading space.
    """
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE]
    pieces += [SPACE + word for word in words]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[],
            byte_fallback=True,
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[ASK, ANSWER],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


# Tokens per sequence whose attention is trained; more cost time, and add little. Those of the scene
# are to stay within their record: the end of a scene falls into the observation window of a short
# instruction, and must not outvote it.
INSTRUCTION_ROWS = 32
SCENE_ROWS = 16
# Share of names that the scene does not hold.
ABSENT_SHARE = 0.08
# Share of the batches whose answers do not see all of the scene, and of the names there that they
# do not see, as after an eviction: to say "unknown" or to end is then better than to run on.
HIDING_SHARE = 0.2
HIDDEN_NAMES_SHARE = 0.25
# What is asked in training: more of what is hard to learn.
MIX = {
    Family.REPORT: 0.31,
    Family.LIST: 0.22,
    Family.COUNT: 0.07,
    Family.FIELD: 0.12,
    Family.PLAN: 0.08,
    Family.DRIVE: 0.12,
    Family.COMMAND: 0.05,
    Family.UNCLEAR: 0.03,
}


@dataclass(frozen=True)
class Batch:
    """Sequences [batch, length]; only tokens with ``answer`` set are to be predicted.

    ``hidden`` tokens of the scene are seen by instructions, but not by answers; None where nothing
    is hidden.
    """

    tokens: Tensor
    answer: Tensor
    positions: Tensor
    targets: AttentionTargets
    hidden: Tensor | None

    def visible(self) -> Tensor | None:
        """Which tokens (last axis) each token sees, [batch, 1, length, length].

        None where each sees all before it.
        """
        if self.hidden is None:
            return None
        length = self.tokens.shape[1]
        before = torch.ones(length, length, dtype=torch.bool).tril()
        return (before & ~(self.answer[:, :, None] & self.hidden[:, None, :]))[:, None]


@dataclass(frozen=True)
class _View:
    """What answers see of a scene: positions of its data, what they see, names that they do not."""

    spans: dict[str, range]
    seen: Scene
    lost: tuple[str, ...] = ()


@dataclass
class _Sequence:
    tokens: list[int]
    answer: list[bool]
    hidden: list[range]
    scene_tokens: int
    scene_rows: list[tuple[int, range]]
    instruction_rows: list[tuple[int, range]]


class BatchSampler:
    """Draws batches; a seed fixes all of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = np.random.default_rng(seed)
        self._ask = self._encode(ASK)[0]
        self._answer = self._encode(ANSWER)[0]
        self._ends = [self._encode(word)[0] for word in (";", ":")]

    def sample(self, sequences: int, length: int, scene_share: float, reach: int) -> Batch:
        """Draw ``sequences`` sequences of ``length`` tokens.

        About ``scene_share`` of each is the scene. Positions run up to ``reach``: gaps between
        records stand for records that were not there, so that short sequences teach long distances.
        """
        hiding = self._rng.random() < HIDING_SHARE
        drawn = [self._sequence(length, scene_share, hiding) for _ in range(sequences)]
        rows = torch.zeros(sequences, SCENE_ROWS + INSTRUCTION_ROWS, dtype=torch.long)
        weights = torch.zeros(sequences, SCENE_ROWS + INSTRUCTION_ROWS, length)
        for i, sequence in enumerate(drawn):
            for j, (row, span) in enumerate(self._rows(sequence)):
                rows[i, j] = row
                weights[i, j, span.start : span.stop] = 1.0 / len(span)
        hidden = torch.zeros(sequences, length, dtype=torch.bool)
        for i, sequence in enumerate(drawn):
            for span in sequence.hidden:
                hidden[i, span.start : span.stop] = True
        positions = [self._positions(sequence, length, reach) for sequence in drawn]
        return Batch(
            tokens=torch.tensor([sequence.tokens for sequence in drawn]),
            answer=torch.tensor([sequence.answer for sequence in drawn]),
            positions=torch.from_numpy(np.stack(positions)),
            targets=AttentionTargets(rows, weights),
            hidden=hidden if hiding else None,
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _sequence(self, length: int, scene_share: float, hiding: bool) -> _Sequence:
        share = np.clip(scene_share * self._rng.uniform(0.6, 1.2), 0.0, 0.9)
        layout = TRAINING_LAYOUTS[self._rng.integers(len(TRAINING_LAYOUTS))]
        scene = sample_scene(self._rng, max(24, int(share * length)), layout)
        view = self._hide(scene) if hiding else _View(scene.spans, scene)
        tokens = [self._tokenizer.bos_token_id, *self._encode(scene.text)]
        records = (scene.spans[item.name] for item in scene.objects)
        rows = [(span.start + int(self._rng.integers(len(span))), span) for span in records]
        rows = [(row + 1, range(span.start + 1, row + 2)) for row, span in rows]
        hidden = [range(s.start + 1, s.stop + 1) for s in (scene.spans[n] for n in view.lost)]
        sequence = _Sequence(tokens, [False] * len(tokens), hidden, len(tokens), rows, [])
        while len(tokens) < length:
            self._append_question(sequence, view, room=length - len(tokens))
        del tokens[length:], sequence.answer[length:]
        return sequence

    def _hide(self, scene: Scene) -> _View:
        """Hide whole sections, and of others the last records: a list then ends before them."""
        sections, lost = [], []
        hidden = self._rng.uniform(0.1, 0.5)
        for section in scene.sections:
            kept = len(section.objects)
            if self._rng.random() < hidden:
                kept = int(self._rng.integers(kept))
            lost += [item.name for item in section.objects[kept:]]
            if kept == 0:
                lost.append(section.sector)
            else:
                sections.append(replace(section, objects=section.objects[:kept]))
        seen = replace(scene, sections=tuple(sections))
        return _View(scene.spans, seen, tuple(lost)) if seen.objects else _View(scene.spans, scene)

    def _rows(self, sequence: _Sequence) -> list[tuple[int, range]]:
        in_scene, in_instructions = sequence.scene_rows, sequence.instruction_rows
        self._rng.shuffle(in_scene)
        self._rng.shuffle(in_instructions)
        return in_scene[:SCENE_ROWS] + in_instructions[:INSTRUCTION_ROWS]

    def _append_question(self, sequence: _Sequence, view: _View, room: int) -> None:
        family = sample_family(self._rng, MIX)
        names = None
        if family in (Family.REPORT, Family.FIELD):
            # Longest that fits: a name costs a word of the instruction and a record of the answer.
            most = min(len(view.seen.objects), max(1, room // (RECORD_WORDS + 2)), 48)
            names = int(np.exp(self._rng.uniform(0, np.log(most + 1))))
            names = min(names, 12) if family is Family.FIELD else names
        absent = HIDDEN_NAMES_SHARE if view.lost else ABSENT_SHARE
        instruction, reference = pose(
            self._rng, family, view.seen, names, absent=absent, lost=view.lost
        )
        question, answer = self._encode(instruction), self._encode(reference)
        start = len(sequence.tokens) + 1
        if family is not Family.UNCLEAR:  # elsewhere one word is one token
            rows = _instruction_rows(instruction.split(), view)
            sequence.instruction_rows += [(start + i, s) for i, s in rows if i < room - 1]
        asked = [self._ask, *question, self._answer]
        sequence.tokens += [*asked, *answer, self._tokenizer.eos_token_id]
        sequence.answer += [False] * len(asked) + [True] * (len(answer) + 1)

    def _positions(self, sequence: _Sequence, length: int, reach: int) -> np.ndarray:
        positions = np.arange(length)
        spare = reach - length
        if spare <= 0 or self._rng.random() < 0.3:
            return positions
        ends = np.flatnonzero(np.isin(sequence.tokens[: sequence.scene_tokens], self._ends)) + 1
        cuts = np.append(self._rng.choice(ends, size=self._rng.integers(1, 6)), 0)
        gaps = self._rng.dirichlet(np.ones(len(cuts))) * self._rng.integers(0, spare)
        for cut, gap in zip(cuts, gaps.astype(int), strict=True):
            positions[cut:] += gap
        return positions


def _instruction_rows(words: Sequence[str], view: _View) -> list[tuple[int, range]]:
    """Which words of an instruction, by number, are to attend to which tokens of the sequence.

    A name attends to its data. The cue to answer, which follows the words, attends to a section as
    its sector's name does: one voice among an observation window is not heard for that much text.
    """
    rows = []
    for i, word in enumerate(words):
        if word in view.seen.spans:
            span = view.spans[word]
            tokens = range(span.start + 1, span.stop + 1)  # the sequence starts with a token more
            rows.append((i, tokens))
            if word.startswith("s") and i + 1 == len(words):
                rows.append((i + 1, tokens))
    return rows
