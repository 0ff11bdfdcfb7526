# SPDX-License-Identifier: Apache-2.0
"""What the model really answers to each case after each lever, generated once and kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from timebill_ros.bench.cases import Case, OtherRun
from timebill_ros.engine.complete_prefix import complete_prefix
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.selection.selector import Selector

if TYPE_CHECKING:  # they load torch
    from timebill_ros.engine.kv_cache import KVCache
    from timebill_ros.engine.response import ResponseSoFar
    from timebill_ros.engine.transformer_engine import TransformerEngine


@dataclass(frozen=True)
class Answer:
    """One answer, after selection of ``share`` of the prompt and eviction to ``kept_tokens``.

    Attributes:
        selection: the method that selected; "" where the prompt is whole.
        share: share of the prompt that it was to keep; 1 for all.
        prompt_tokens, kept_tokens: of the prompt that was prefilled; of it, in the cache.
        response_tokens: N, the end token included.
        ended: whether it ended by itself.
        score: 0 to 100.
        text: the answer.
    """

    selection: str
    share: float
    prompt_tokens: int
    kept_tokens: int
    response_tokens: int
    ended: bool
    score: float
    text: str

    def cut(self, tokens: int) -> str:
        """What can stand for itself of its first ``tokens``; nothing where nothing can."""
        saying = max(1, self.response_tokens - self.ended)
        return cut_text(self.text, min(1.0, tokens / saying))


def cut_text(text: str, fraction: float) -> str:
    """What can stand for itself of this part of a text, counted in characters."""
    return complete_prefix(text[: math.ceil(fraction * len(text))])


@dataclass(frozen=True)
class Stopwatch:
    """What the whole prompt took with the engine to itself: s, and N."""

    prefill: float
    decode: float
    response_tokens: int


@dataclass(frozen=True)
class AnsweredCase:
    """All answers to one case.

    Attributes:
        case: the case's id.
        rankings: s that ranking the prompt's passages took, by the selection method's name.
        answers: at least the one to the whole prompt and cache.
        measured: None where it was not.
        max_tokens: N_max, if it is less than the run's; 0 for that.
    """

    case: str
    rankings: Mapping[str, float]
    answers: tuple[Answer, ...]
    measured: Stopwatch | None = None
    max_tokens: int = 0

    @property
    def whole(self) -> Answer:
        """The answer to the whole prompt, with its whole cache."""
        return next(a for a in self.of_share(1.0) if a.kept_tokens == a.prompt_tokens)

    def selected_by(self, method: str) -> AnsweredCase:
        """The same with the answers to whole prompts and to those that this method selected."""
        return replace(
            self,
            rankings={name: took for name, took in self.rankings.items() if name == method},
            answers=tuple(answer for answer in self.answers if answer.selection in ("", method)),
        )

    def of_share(self, share: float) -> tuple[Answer, ...]:
        """The answers to the prompt that a selection of ``share`` left."""
        return tuple(answer for answer in self.answers if answer.share == share)

    def after(self, share: float, kept_tokens: int) -> Answer:
        """The answer after these levers; of the next smaller cache where none was made of this."""
        made = sorted(self.of_share(share), key=lambda answer: answer.kept_tokens)
        smaller = [answer for answer in made if answer.kept_tokens <= kept_tokens]
        return smaller[-1] if smaller else made[0]


class OfCase(Protocol):
    """What was made of one case, a dataclass.

    Attributes:
        case: the case's id.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def case(self) -> str: ...  # noqa: D102 - see the class


Made = TypeVar("Made", bound=OfCase)


class RunFile(Generic[Made]):
    """JSON lines: what the run is of, then what was made of each case, one line each.

    A folder that was left half-way is gone on with; one of another model, workload or version is
    refused, and says what differs.
    """

    def __init__(self, path: Path, read: Callable[[dict[str, Any]], Made]) -> None:
        """``read`` makes of a line's JSON object again what it was written of."""
        self._path = path
        self._read = read

    def open(self, header: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Made]]:
        """The header that counts and what there is so far; starts the file if there is none.

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
            found = dict(json.loads(first))
            # The last line may be cut off: its case is answered again.
            whole = [line for line in rest if line.endswith("}")]
            cases = [self._read(json.loads(line)) for line in whole]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
            raise OtherRun(f"{self._path} holds no answers: {failure}") from failure
        wanted = _plain(header)
        keys = (found.keys() | wanted.keys()) - {"measured"}
        differing = [key for key in sorted(keys) if found.get(key) != wanted.get(key)]
        if differing:
            what = "; ".join(
                f"{key} was {found.get(key)!r} and is {header.get(key)!r}" for key in differing
            )
            raise OtherRun(f"{self._path} is of another run: {what}. Name another folder")
        if len(whole) < len(rest):
            self._path.write_text("\n".join([first, *whole]) + "\n", encoding="utf-8")
        return found, cases

    def add(self, made: Made) -> None:
        """Keep one more."""
        self._append(asdict(made))

    def _append(self, content: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def answered_case(content: dict[str, Any]) -> AnsweredCase:
    """The case of a line of a ``RunFile``."""
    answers = tuple(Answer(**answer) for answer in content.pop("answers"))
    measured = content.pop("measured")
    return AnsweredCase(
        **content, answers=answers, measured=None if measured is None else Stopwatch(**measured)
    )


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

    @property
    def selects(self) -> bool:
        """Whether prompts are shortened at all."""
        return min(self.shares) < 1.0


@dataclass(frozen=True)
class _Begun:
    """An answer that goes on in a cache of its own."""

    prompt_tokens: int
    kept_tokens: int
    response: ResponseSoFar
    cache: KVCache


class Answering:
    """Runs cases through an engine.

    All answers to a case are decoded side by side, for a step reads the weights once for all. So
    what one of them takes is measured apart.

    Args:
        engine: answers; greedy, so that an answer depends on its prompt and cache alone.
        selectors: shorten prompts, by their method's name.
        max_tokens: N_max.
    """

    def __init__(
        self, engine: TransformerEngine, selectors: Mapping[str, Selector], max_tokens: int
    ) -> None:
        self._engine = engine
        self._selectors = selectors
        self._max_tokens = max_tokens

    def answer(self, case: Case, levers: Levers, *, timed: bool = False) -> AnsweredCase:
        """Answer the case after every lever; with ``timed`` measure the whole prompt's answer.

        Raises:
            RequestError: the prompt cannot be run, it is too long for example.
        """
        request = self._engine.prepare(case.conversation)
        asked = [("", 1.0, tuple(request.prompt_ids))]
        most = min(self._max_tokens, case.max_tokens or self._max_tokens)
        begun = {asked[0][2]: list(self._begin(request, most, levers.alphas))}
        rankings: dict[str, float] = {}
        for name, selector in self._selectors.items():
            start = time.perf_counter()
            ranked = selector.rank(case.conversation.texts, request.prompt_tokens)
            rankings[name] = time.perf_counter() - start
            for share in levers.shares:
                if share < 1.0:
                    shorter = self._selected(case, ranked.select(share))
                    key = tuple(shorter.prompt_ids)
                    asked.append((name, share, key))
                    if key not in begun:
                        begun[key] = list(self._begin(shorter, most, levers.alphas_selected))
        self._finish([each for answers in begun.values() for each in answers])
        answers = (
            _ended(case, name, share, each) for name, share, key in asked for each in begun[key]
        )
        measured = self._measure(request, most) if timed else None
        return AnsweredCase(case.id, rankings, tuple(answers), measured, case.max_tokens)

    def _selected(self, case: Case, texts: Sequence[str]) -> PreparedRequest:
        """The case's request with these texts in place of its own."""
        return self._engine.prepare(case.conversation.of_texts(texts))

    def _begin(
        self, request: PreparedRequest, most: int, alphas: Sequence[float]
    ) -> Iterator[_Begun]:
        """Prefill once, then evict more and more: evictions are nested."""
        engine, n_x = self._engine, request.prompt_tokens
        room = self._prefill(request, most)
        smallest = min(n_x, max(1, engine.window))
        seen: set[int] = set()
        for alpha in sorted(alphas):
            kept = max(smallest, math.floor((1.0 - alpha) * n_x * (1.0 + _ROUNDING)))
            if kept in seen:
                continue
            seen.add(kept)
            if kept < n_x:
                engine.evict(kept)
            response = engine.new_response()
            response.begin(room)
            response.add(engine.response_ids[0])
            yield _Begun(n_x, kept, response, engine.cache.copy(kept + room))

    def _finish(self, begun: Sequence[_Begun]) -> None:
        """Decode side by side until all have ended."""
        import torch

        engine = self._engine
        while open_ones := [each for each in begun if each.response.finish_reason is None]:
            latest = [each.response.tokens[-1] for each in open_ones]
            caches = [each.cache for each in open_ones]
            with torch.inference_mode():
                logits = engine.decoder.step_together(
                    torch.tensor(latest, device=engine.device), caches
                )
                for each, its_logits in zip(open_ones, logits, strict=True):
                    each.response.take(its_logits)

    def _measure(self, request: PreparedRequest, most: int) -> Stopwatch:
        engine, start = self._engine, time.perf_counter()
        self._prefill(request, most)
        prefilled = time.perf_counter()
        while engine.finish_reason is None:
            engine.step()
        end = time.perf_counter()
        return Stopwatch(prefilled - start, end - prefilled, engine.response_tokens)

    def _prefill(self, request: PreparedRequest, most: int) -> int:
        """Prefill the prompt; the tokens that its answer may have, if the context leaves fewer."""
        room = max(1, min(most, self._engine.max_context - request.prompt_tokens))
        self._engine.begin(request, room)
        while not self._engine.prefill_chunk():
            pass
        return room


def _ended(case: Case, selection: str, share: float, begun: _Begun) -> Answer:
    response = begun.response
    return Answer(
        selection=selection,
        share=share,
        prompt_tokens=begun.prompt_tokens,
        kept_tokens=begun.kept_tokens,
        response_tokens=len(response.tokens),
        ended=response.finish_reason is not FinishReason.LENGTH,
        score=round(case.score(response.text), 4),
        text=response.text,
    )
