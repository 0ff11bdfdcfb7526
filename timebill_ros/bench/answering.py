# SPDX-License-Identifier: Apache-2.0
"""Has the model answer a case after every lever: one prefill per prompt, one decoding per plan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.bench.cases import Case
from timebill_ros.engine.protocol import FinishReason, PreparedRequest
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.selection.selector import Selector

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

    @torch.inference_mode()
    def _resume(self, request: PreparedRequest, rows: torch.Tensor) -> None:
        """Be just past prefill again."""
        engine, copied = self._engine, rows.shape[3]
        engine.begin(request, self._room(request.prompt_tokens))
        engine.cache.buffer[:, :, :, :copied] = rows
        engine.cache.advance(copied)
        while not engine.prefill_chunk():
            pass

    def _room(self, prompt_tokens: int) -> int:
        """N_max, or what the context leaves."""
        return max(1, min(self._max_tokens, self._engine.max_context - prompt_tokens))
