# SPDX-License-Identifier: Apache-2.0
"""Answering many prompts at once, where nobody waits for one: a step's weights are read for all."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from timebill_ros.engine.attention import HiddenStates
from timebill_ros.engine.decoder import LeanDecoder
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.response import ResponseSoFar
from timebill_ros.engine.transformer_engine import TransformerEngine


@dataclass
class CollectedAnswer:
    """One prompt's answer, growing or complete.

    Attributes:
        request: the prompt.
        response: the answer.
        states: of the prompt's last token, and of the answer's when 1 + i ``every`` of its tokens
            exist: float16 [layers, h] each.
    """

    request: PreparedRequest
    response: ResponseSoFar
    states: list[Tensor] = field(default_factory=list)


class AnswersTogether:
    """Up to ``together`` answers that grow by one token per step; a new one may join at any time.

    Prompts are prefilled one by one, as the engine does it: that is bound by arithmetic. Every
    answer attends to a cache of its own, so none is padded and their order does not matter. Without
    the lean decoder, one at a time.

    Args:
        engine: whose model, tokens and settings are used; nobody else may use it meanwhile.
        max_tokens: N_max of every answer.
        together: most answers at a time.
        layers: those whose hidden states are kept; see ``HiddenStates``.
        every: tokens between two kept states of an answer.
    """

    def __init__(
        self,
        engine: TransformerEngine,
        max_tokens: int,
        together: int = 1,
        layers: tuple[int, ...] = (),
        every: int = 16,
    ) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self._lean = engine.decoder if isinstance(engine.decoder, LeanDecoder) else None
        self._together = together if self._lean is not None else 1
        self._hidden = HiddenStates(layers) if layers else None
        self._every = every
        self._running: list[tuple[CollectedAnswer, KVCache]] = []

    @property
    def running(self) -> int:
        """Answers that are not complete."""
        return len(self._running)

    @property
    def full(self) -> bool:
        """Whether a step must come before another ``begin``."""
        return self.running >= self._together

    @torch.inference_mode()
    def begin(self, request: PreparedRequest) -> None:
        """Prefill a prompt; its answer has one token then.

        Raises:
            RequestError: the engine cannot take the prompt.
        """
        engine, chunk = self._engine, self._engine.chunk
        engine.begin(request, self._max_tokens)
        prompt = torch.tensor(request.prompt_ids, device=engine.device)
        first = len(prompt) % chunk or chunk
        engine.decoder.hidden = self._hidden
        logits = engine.decoder.prefill(prompt[:first], None)
        for start in range(first, len(prompt), chunk):
            logits = engine.decoder.prefill(prompt[start : start + chunk], None)
        answer = CollectedAnswer(request, engine.new_response())
        answer.response.begin(self._max_tokens)
        cache = engine.cache
        if self._lean is not None:
            cache = cache.copy(len(prompt) + self._max_tokens)
        self._running.append((answer, cache))
        self._take([answer], logits[None])

    @torch.inference_mode()
    def step(self) -> list[CollectedAnswer]:
        """One token more for every answer that is not complete; those that are, which leave."""
        growing = [one for one in self._running if one[0].response.finish_reason is None]
        if growing:
            latest = [answer.response.tokens[-1] for answer, _ in growing]
            self._take([answer for answer, _ in growing], self._logits(latest, growing))
        complete = [
            answer for answer, _ in self._running if answer.response.finish_reason is not None
        ]
        self._running = [one for one in growing if one[0].response.finish_reason is None]
        return complete

    def _logits(self, latest: list[int], growing: list[tuple[CollectedAnswer, KVCache]]) -> Tensor:
        if self._lean is None:
            return self._engine.decoder.step(latest[0])[None]
        tokens = torch.tensor(latest, device=self._engine.device)
        return self._lean.step_together(tokens, [cache for _, cache in growing])

    def _take(self, answers: list[CollectedAnswer], logits: Tensor) -> None:
        """Choose a token for each answer, and keep the states that made it, where it is time."""
        for answer, its_logits in zip(answers, logits, strict=True):
            answer.response.take(its_logits)
        due = [
            row
            for row, answer in enumerate(answers)
            if len(answer.response.tokens) % self._every == 1 % self._every
        ]
        if self._hidden is None or not due:
            return
        states = self._hidden.states().to(torch.float16).cpu()
        for row in due:
            answers[row].states.append(states[row].clone())
