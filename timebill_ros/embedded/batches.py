# SPDX-License-Identifier: Apache-2.0
"""Training sequences: one scene, then questions with answers until the sequence is full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from timebill_ros.embedded.architecture import AttentionTargets
from timebill_ros.embedded.tokenizer import ANSWER, ASK
from timebill_ros.workload.scene import RECORD_WORDS, Scene, sample_scene
from timebill_ros.workload.tasks import Family, pose, sample_family

# Tokens per sequence whose attention is trained; more cost time, and add little. Those of the scene
# are to stay within their record: the end of a scene falls into the observation window of a short
# instruction, and must not outvote it.
INSTRUCTION_ROWS = 32
SCENE_ROWS = 8
# Share of names that the scene does not hold. Eviction can lose a record, too: "unknown" is
# then a better answer than to run on.
ABSENT_SHARE = 0.08


@dataclass(frozen=True)
class Batch:
    """Sequences [batch, length]; only tokens with ``answer`` set are to be predicted."""

    tokens: Tensor
    answer: Tensor
    positions: Tensor
    targets: AttentionTargets


@dataclass
class _Sequence:
    tokens: list[int]
    answer: list[bool]
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
        drawn = [self._sequence(length, scene_share) for _ in range(sequences)]
        rows = torch.zeros(sequences, SCENE_ROWS + INSTRUCTION_ROWS, dtype=torch.long)
        weights = torch.zeros(sequences, SCENE_ROWS + INSTRUCTION_ROWS, length)
        for i, sequence in enumerate(drawn):
            for j, (row, span) in enumerate(self._rows(sequence)):
                rows[i, j] = row
                weights[i, j, span.start : span.stop] = 1.0 / len(span)
        positions = [self._positions(sequence, length, reach) for sequence in drawn]
        return Batch(
            tokens=torch.tensor([sequence.tokens for sequence in drawn]),
            answer=torch.tensor([sequence.answer for sequence in drawn]),
            positions=torch.from_numpy(np.stack(positions)),
            targets=AttentionTargets(rows, weights),
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _sequence(self, length: int, scene_share: float) -> _Sequence:
        share = np.clip(scene_share * self._rng.uniform(0.6, 1.2), 0.0, 0.9)
        scene = sample_scene(self._rng, max(16, int(share * length)))
        tokens = [self._tokenizer.bos_token_id, *self._encode(scene.text)]
        records = (scene.spans[item.name] for item in scene.objects)
        rows = [(span.start + int(self._rng.integers(len(span))), span) for span in records]
        rows = [(row + 1, range(span.start + 1, row + 2)) for row, span in rows]
        sequence = _Sequence(tokens, [False] * len(tokens), len(tokens), rows, [])
        while len(tokens) < length:
            self._append_question(sequence, scene, room=length - len(tokens))
        del tokens[length:], sequence.answer[length:]
        return sequence

    def _rows(self, sequence: _Sequence) -> list[tuple[int, range]]:
        in_scene, in_instructions = sequence.scene_rows, sequence.instruction_rows
        self._rng.shuffle(in_scene)
        self._rng.shuffle(in_instructions)
        return in_scene[:SCENE_ROWS] + in_instructions[:INSTRUCTION_ROWS]

    def _append_question(self, sequence: _Sequence, scene: Scene, room: int) -> None:
        family = sample_family(self._rng)
        names = None
        if family in (Family.REPORT, Family.FIELD):
            # Longest that fits: a name costs a word of the instruction and a record of the answer.
            most = min(len(scene.objects), max(1, room // (RECORD_WORDS + 2)), 48)
            names = int(np.exp(self._rng.uniform(0, np.log(most + 1))))
            names = min(names, 12) if family is Family.FIELD else names
        instruction, reference = pose(self._rng, family, scene, names, ABSENT_SHARE)
        question, answer = self._encode(instruction), self._encode(reference)
        start = len(sequence.tokens) + 1
        if family is not Family.UNCLEAR:  # elsewhere one word is one token
            for i, word in enumerate(instruction.split()):
                span = scene.spans.get(word)
                if span is not None and i < room - 1:
                    sequence.instruction_rows.append(
                        (start + i, range(span.start + 1, span.stop + 1))
                    )
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
