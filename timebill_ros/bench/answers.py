# SPDX-License-Identifier: Apache-2.0
"""What the model really answers to each case after each lever, generated once and kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timebill_ros.bench.cases import Case, OtherRun
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.protocol import FinishReason, PreparedRequest
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.selection.selector import Selector

if TYPE_CHECKING:  # they load torch, which only answering needs
    import torch

    from timebill_ros.engine.transformer_engine import TransformerEngine


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


_ROUNDING = 1e-9


@dataclass(frozen=True)
class Levers:
    """What is pulled: every eviction from whole prompts, some after every selection.

    Attributes:
        shares: of the prompt that selection keeps, falling from 1.
        alphas: eviction ratios, rising from 0.
        alphas_selected: those after a selection; fewer, for there is little left to evict from.
    """

    shares: Sequence[float]
    alphas: Sequence[float]
    alphas_selected: Sequence[float]


class Answering:
    """Runs cases through an engine.

    Args:
        engine: answers; greedy, so that an answer depends on its prompt and cache alone.
        selector: shortens prompts; None where only whole ones are to be answered.
        predictor: predicts lengths, if there is one.
        predictor_input: most tokens that it may read of a prompt of so many.
        max_tokens: N_max.
    """

    def __init__(
        self,
        engine: TransformerEngine,
        selector: Selector | None,
        predictor: LengthPredictor | None,
        predictor_input: Callable[[int], int],
        max_tokens: int,
    ) -> None:
        self._engine = engine
        self._selector = selector
        self._predictor = predictor
        self._predictor_input = predictor_input
        self._max_tokens = max_tokens

    def answer(self, case: Case, levers: Levers) -> AnsweredCase:
        """Answer the case after every lever, and predict its length.

        Raises:
            RequestError: the prompt cannot be run, it is too long for example.
        """
        engine, talk = self._engine, case.conversation
        request = engine.prepare(talk)
        start = time.perf_counter()
        ranked = self._selector.rank(talk.texts, request.prompt_tokens) if self._selector else None
        select = time.perf_counter() - start
        answers: list[Answer] = []
        made: dict[tuple[int, ...], list[Answer]] = {}
        for share in levers.shares:
            asked = request
            if share < 1.0:
                if ranked is None:
                    continue
                texts = iter(ranked.select(share))
                asked = engine.prepare(talk.with_texts(lambda _, texts=texts: next(texts)))  # type: ignore[misc]
            key = tuple(asked.prompt_ids)
            alphas = levers.alphas if share == 1.0 else levers.alphas_selected
            if key not in made:
                made[key] = list(self._after_evictions(case, asked, alphas))
            answers += [replace(answer, share=share) for answer in made[key]]
        lengths = None
        if self._predictor is not None:
            most = self._predictor_input(request.prompt_tokens)
            lengths = self._predictor.predict(request.text, request.prompt_ids, most)
        return AnsweredCase(
            case=case.id,
            select=select,
            probabilities=() if lengths is None else tuple(map(float, lengths.probabilities)),
            bucket_size=1 if lengths is None else lengths.bucket_size,
            answers=tuple(answers),
        )

    def _after_evictions(
        self, case: Case, request: PreparedRequest, alphas: Sequence[float]
    ) -> Iterator[Answer]:
        """Prefill once; then evict and decode from a copy of the cache for every ratio."""
        engine, n_x = self._engine, request.prompt_tokens
        start = time.perf_counter()
        engine.begin(request, self._room(n_x))
        while not engine.prefill_chunk():
            pass
        prefill = time.perf_counter() - start
        # Without the window: its last chunk is run again, which gives its queries and token 1.
        copied = max(0, n_x - engine.window)
        rows = engine.cache.buffer[:, :, :, :copied].clone()
        smallest = min(n_x, max(1, engine.window))
        seen: set[int] = set()
        for alpha in alphas:
            kept = max(smallest, math.floor((1.0 - alpha) * n_x * (1.0 + _ROUNDING)))
            if kept in seen:
                continue
            seen.add(kept)
            self._resume(request, rows)
            start = time.perf_counter()
            if kept < n_x and engine.finish_reason is None:
                engine.evict(kept)
            evicted = time.perf_counter()
            while engine.finish_reason is None:
                engine.step()
            decoded = time.perf_counter()
            text = engine.text()
            yield Answer(
                share=1.0,
                prompt_tokens=n_x,
                kept_tokens=kept,
                response_tokens=engine.response_tokens,
                ended=engine.finish_reason is not FinishReason.LENGTH,
                score=round(case.score(text), 4),
                prefill=prefill,
                evict=evicted - start,
                decode=decoded - evicted,
                text=text,
            )

    def _resume(self, request: PreparedRequest, rows: torch.Tensor) -> None:
        """Be just past prefill again."""
        import torch

        engine, copied = self._engine, rows.shape[3]
        engine.begin(request, self._room(request.prompt_tokens))
        with torch.inference_mode():
            engine.cache.buffer[:, :, :, :copied] = rows
        engine.cache.advance(copied)
        while not engine.prefill_chunk():
            pass

    def _room(self, prompt_tokens: int) -> int:
        """N_max, or what the context leaves."""
        return max(1, min(self._max_tokens, self._engine.max_context - prompt_tokens))
