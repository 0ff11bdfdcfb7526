# SPDX-License-Identifier: Apache-2.0
"""Have a target answer prompts without eviction, and keep how long its answers are.

Nobody waits for one of these answers, so many grow side by side: a step reads the weights once for
all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from timebill_ros.engine.attention import HiddenStates
from timebill_ros.engine.checkpoint import Checkpoint, target_fingerprint
from timebill_ros.engine.decoder import LeanDecoder
from timebill_ros.engine.errors import ContextExceeded, PromptTooLong, RequestError
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.response import ResponseSoFar
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.errors import HeaderUnusable
from timebill_ros.training.collection import states as hidden
from timebill_ros.training.collection.prompts import Prompt
from timebill_ros.training.collection.states import StatesHeader
from timebill_ros.training.predictor.pairs import (
    Pair,
    PairsHeader,
    check_header,
    header_path,
    iterate_pairs,
    pair_line,
    prompt_digest,
    read_header,
    write_header,
)

_LOG = logging.getLogger(__name__)


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


class Fate(StrEnum):
    """What became of one prompt."""

    ANSWERED = "answered"
    KNOWN = "known already"
    TOO_LONG = "too long for the context"
    REFUSED = "refused"


def describe_target(
    target_id: str, checkpoint: Checkpoint, settings: EngineSettings, longest_response: int
) -> PairsHeader:
    """The header of lengths that an engine with these settings is going to generate."""
    sampling = settings.sampling
    return PairsHeader(
        target_id=target_id,
        target=target_fingerprint(checkpoint.folder),
        longest_response=longest_response,
        decoding={
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(settings.stop),
            "chat_template": checkpoint.tokenizer.chat_template is not None,
            "max_tokens": longest_response,
            "alpha": 0.0,
        },
    )


def begin_or_go_on(output: Path, header: PairsHeader) -> set[str]:
    """Prepare a file of pairs; the digests of the prompts that it holds already.

    A last line that a crash tore is cut off.

    Raises:
        SettingsDiffer: the file was begun with another target or other settings.
        HeaderUnusable: it holds pairs, but what made them is not known.
        BadLine: it holds something else.
    """
    if header_path(output).exists():
        check_header(header_path(output), read_header(output), header)
    elif output.exists() and output.stat().st_size:
        raise HeaderUnusable(header_path(output), f"it is missing, but {output} is not empty")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_header(output, header)
    if not output.exists():
        return set()
    _cut_torn_line(output)
    return {pair.digest for pair in iterate_pairs(output, header)}


def collect(
    engine: TransformerEngine,
    prompts: Iterable[Prompt],
    output: Path,
    header: PairsHeader,
    *,
    together: int = 1,
    states: StatesHeader | None = None,
) -> Iterator[Fate]:
    """Answer prompts and append a line for each; yields what became of one after the other.

    Every line is on disk before its fate is told; what was not complete is begun anew by the next
    run. Lines come in the order in which answers end. A prompt that the engine cannot take is
    logged and left out.

    Args:
        engine: of the target.
        prompts: to answer; nobody waits for one of them.
        output: file of pairs, begun or not.
        header: what the lengths depend on.
        together: answers at a time, see ``AnswersTogether``.
        states: which hidden states to keep beside the pairs; None for none.

    Raises:
        PairsError: see ``begin_or_go_on``, and what reading the prompts raises.
        EngineError: the engine failed.
    """
    known = begin_or_go_on(output, header)
    if states is not None:
        hidden.begin_or_go_on(output, states, list(iterate_pairs(output, header)) if known else [])
    layers, every = ((), 1) if states is None else (states.layers, states.every)
    batch = AnswersTogether(engine, header.longest_response, together, layers, every)
    with output.open("a", encoding="utf-8") as file:

        def step() -> Iterator[Fate]:
            for answer in batch.step():
                if answer.states:
                    hidden.append(output, torch.stack(answer.states).numpy())
                file.write(pair_line(_pair(answer)))
                file.flush()
                yield Fate.ANSWERED

        for prompt in prompts:
            try:
                request = engine.prepare(prompt.conversation)
                if (digest := prompt_digest(request.text)) in known:
                    yield Fate.KNOWN
                    continue
                batch.begin(request)
            except RequestError as error:
                _LOG.warning("%s is left out: %s", prompt.source, error)
                too_long = isinstance(error, ContextExceeded | PromptTooLong)
                yield Fate.TOO_LONG if too_long else Fate.REFUSED
                continue
            known.add(digest)
            while batch.full:
                yield from step()
        while batch.running:
            yield from step()


def _pair(answer: CollectedAnswer) -> Pair:
    request, response = answer.request, answer.response
    finish = response.finish_reason
    return Pair(
        request.text, request.prompt_tokens, len(response.tokens), finish.value if finish else ""
    )


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        _LOG.warning("%s: the last line was not written to its end and is cut off", path)
        with path.open("r+b") as file:
            file.truncate(whole)
