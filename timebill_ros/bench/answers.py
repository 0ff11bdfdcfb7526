# SPDX-License-Identifier: Apache-2.0
"""What the model really answers to each case after each lever, generated once and kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timebill_ros.bench.errors import OtherRun
from timebill_ros.budget.length import LengthDistribution


@dataclass(frozen=True)
class Answer:
    """One answer, after selection of ``share`` of the prompt and eviction to ``kept_tokens``.

    Attributes:
        share: share of the prompt that selection was to keep; 1 for all.
        prompt_tokens, kept_tokens: of the prompt that was prefilled; of it, in the cache.
        response_tokens: N, the end token included.
        ended: whether it ended by itself.
        score: 0 to 100.
        prefill, evict, decode: s, as measured.
        text: the answer.
    """

    share: float
    prompt_tokens: int
    kept_tokens: int
    response_tokens: int
    ended: bool
    score: float
    prefill: float
    evict: float
    decode: float
    text: str


@dataclass(frozen=True)
class AnsweredCase:
    """All answers to one case, and the length that was predicted for it.

    Attributes:
        case: the case's id.
        select: s that ranking the prompt's passages took.
        probabilities: of the predicted length's buckets; empty without a predictor.
        bucket_size: B, tokens.
        answers: at least the one to the whole prompt and cache.
    """

    case: str
    select: float
    probabilities: tuple[float, ...]
    bucket_size: int
    answers: tuple[Answer, ...]

    @property
    def whole(self) -> Answer:
        """The answer to the whole prompt, with its whole cache."""
        return next(a for a in self.of_share(1.0) if a.kept_tokens == a.prompt_tokens)

    @property
    def lengths(self) -> LengthDistribution | None:
        """The predicted length."""
        if not self.probabilities:
            return None
        return LengthDistribution(np.array(self.probabilities), self.bucket_size)

    def of_share(self, share: float) -> tuple[Answer, ...]:
        """The answers to the prompt that a selection of ``share`` left."""
        return tuple(answer for answer in self.answers if answer.share == share)

    def after(self, share: float, kept_tokens: int) -> Answer:
        """The answer after these levers; of the next smaller cache where none was made of this."""
        made = sorted(self.of_share(share), key=lambda answer: answer.kept_tokens)
        smaller = [answer for answer in made if answer.kept_tokens <= kept_tokens]
        return smaller[-1] if smaller else made[0]


class AnswerFile:
    """JSON lines: what the run is of, then one line per case.

    A folder that was left half-way is gone on with; one of another model, workload or version is
    refused, and says what differs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, header: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[AnsweredCase]]:
        """The header that counts and the cases answered so far; starts the file if there is none.

        What the header says of time (``time_model`` and the like, under ``measured``) is that of
        the first run, for all cases are to be judged by one.

        Raises:
            OtherRun: the file is of another run, or damaged.
        """
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._append(header)
            return header, []
        try:
            first, *rest = self._path.read_text(encoding="utf-8").splitlines()
            found = json.loads(first)
            # The last line may be cut off: its case is answered again.
            whole = [line for line in rest if line.endswith("}")]
            cases = [_answered(json.loads(line)) for line in whole]
        except (ValueError, KeyError, TypeError) as failure:
            raise OtherRun(f"{self._path} holds no answers: {failure}") from failure
        keys = (found.keys() | header.keys()) - {"measured"}
        differing = [key for key in sorted(keys) if found.get(key) != _plain(header.get(key))]
        if differing:
            what = "; ".join(
                f"{key} was {found.get(key)!r} and is {header.get(key)!r}" for key in differing
            )
            raise OtherRun(f"{self._path} is of another run: {what}. Name another folder")
        if len(whole) < len(rest):
            self._path.write_text("\n".join([first, *whole]) + "\n", encoding="utf-8")
        return found, cases

    def add(self, case: AnsweredCase) -> None:
        """Keep one more."""
        self._append(asdict(case))

    def _append(self, content: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def missing(ids: Iterable[str], answered: Sequence[AnsweredCase]) -> list[str]:
    """Those that are not answered yet, in their order."""
    done = {case.case for case in answered}
    return [name for name in ids if name not in done]


def _answered(content: dict[str, Any]) -> AnsweredCase:
    answers = tuple(Answer(**answer) for answer in content.pop("answers"))
    probabilities = tuple(content.pop("probabilities"))
    return AnsweredCase(**content, probabilities=probabilities, answers=answers)


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
