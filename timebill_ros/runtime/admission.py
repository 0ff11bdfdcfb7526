# SPDX-License-Identifier: Apache-2.0
"""From an instruction that arrived to a job that can run: held to its bounds, then prepared.

Every refusal names the field and the bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from timebill_ros.engine.errors import RequestError, SchemaRefused
from timebill_ros.engine.protocol import Engine
from timebill_ros.engine.request import ROLES, Conversation, PreparedRequest
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped, Reason

_LOG = logging.getLogger(__name__)

MOST_FALLBACK = 4096
"""Characters of an instruction's own answer."""

# What DDS middleware puts in the place of bytes that are not UTF-8.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Reception:
    """The moment when an instruction arrived, on the two clocks that it concerns.

    Attributes:
        stamps_ns: on the clock of the instruction's own instants.
        clock_ns: on the server's clock.
    """

    stamps_ns: int
    clock_ns: int

    def on_clock(self, instant_ns: int) -> int:
        """An instant of the instruction's clock as one of the server's clock."""
        return instant_ns + self.clock_ns - self.stamps_ns


@dataclass(frozen=True)
class Limits:
    """What an instruction is held to before it is looked at any closer.

    Attributes:
        default_budget: s, where neither budget nor deadline is set.
        max_budget: s; more is refused as absurd.
        max_prompt_chars: characters of all texts together; more cannot fit the model's context,
            and tokenising them to find out would take longer than many a deadline.
    """

    default_budget: float
    max_budget: float
    max_prompt_chars: int


def fault_of(job: Job, received: Reception, limits: Limits) -> str | None:
    """The first field that is out of its bounds, with the bound; None where all are within.

    A deadline that has passed already is no fault: the server announces it as EXPIRED.
    """
    if received.stamps_ns == 0:
        return "stamp: the node's clock stands at zero; under use_sim_time, no /clock has come yet"
    return (
        _text_fault(job, limits) or job.sampling.fault() or _deadline_fault(job, received, limits)
    )


def max_tokens_of(job: Job, prompt_tokens: int, *, default: int, context: int) -> int:
    """N_max of this job: its own, or the default shortened to the context that is left.

    Args:
        job: what is to be answered.
        prompt_tokens: N_x.
        default: N_max of a job that sets none.
        context: most tokens of prompt and response together.

    Raises:
        JobStopped: REJECTED, with the bound that the prompt or max_tokens exceeds.
    """
    if prompt_tokens == 0:
        raise JobStopped(Reason.REJECTED, "prompt: it is empty after tokenising")
    if prompt_tokens >= context:
        raise JobStopped(
            Reason.REJECTED,
            f"prompt: {prompt_tokens} tokens leave no room for a response in the model's "
            f"context of {context}",
        )
    room = context - prompt_tokens
    if job.max_tokens is None:
        return min(default, room)
    if job.max_tokens > room:
        raise JobStopped(
            Reason.REJECTED,
            f"max_tokens: {job.max_tokens} exceed the {room} that a prompt of {prompt_tokens} "
            f"tokens leaves in the model's context of {context}",
        )
    return job.max_tokens


def _text_fault(job: Job, limits: Limits) -> str | None:
    conversation = job.conversation
    # Counting takes no time; looking at every character of too long a text would.
    if len(job.fallback_text) > MOST_FALLBACK:
        count = len(job.fallback_text)
        return f"fallback_text: {count} characters are more than the {MOST_FALLBACK} that are taken"
    characters = sum(map(len, conversation.texts))
    if characters > limits.max_prompt_chars:
        return (
            f"prompt: {characters} characters, system and messages included, are more than the "
            f"{limits.max_prompt_chars} that can fit the model's context"
        )
    for number, turn in enumerate(conversation.turns):
        if turn.role not in ROLES:
            return f"messages[{number}].role: {turn.role!r} is none of {', '.join(ROLES)}"
        if not turn.content.strip():
            return f"messages[{number}].content: it is empty"
    for name, text in _named_texts(job, conversation):
        position = text.find(_REPLACEMENT)
        if position >= 0:
            return f"{name}: character {position} is U+FFFD, the text was not valid UTF-8"
    return None if conversation.prompt.strip() else "prompt: it is empty"


def _named_texts(job: Job, conversation: Conversation) -> Iterator[tuple[str, str]]:
    """Every text of an instruction with the name of its field."""
    yield "id", job.id
    yield "system", conversation.system
    yield "prompt", conversation.prompt
    yield "response_schema", job.response_schema
    yield "fallback_text", job.fallback_text
    for number, text in enumerate(job.sampling.stop or ()):
        yield f"stop[{number}]", text
    for number, turn in enumerate(conversation.turns):
        yield f"messages[{number}].content", turn.content


def _deadline_fault(job: Job, received: Reception, limits: Limits) -> str | None:
    if job.deadline_field == "budget" and job.deadline_ns < job.release_ns:
        return f"budget: {seconds(job.deadline_ns - job.release_ns):.3f} s is negative"
    ahead = seconds(job.deadline_ns - received.clock_ns)
    if ahead > limits.max_budget:
        return (
            f"{job.deadline_field}: {ahead:.3f} s from now exceed the max_budget of "
            f"{limits.max_budget:.3f} s"
        )
    return None


@dataclass(frozen=True)
class PreparedJob:
    """A job that is ready to run.

    Attributes:
        job: what is to be answered.
        request: the same as its model's engine takes it.
        max_tokens: N_max.
        model: which of the models that is, counted from the largest.
        smaller: the same for each smaller model that can take it.
    """

    job: Job
    request: PreparedRequest
    max_tokens: int
    model: int = 0
    smaller: tuple[PreparedJob, ...] = ()

    @property
    def on_models(self) -> tuple[PreparedJob, ...]:
        """The job for this model and for every smaller one."""
        return (self, *self.smaller)


# Characters that are tokenised within some milliseconds.
_LIGHT = 20_000


def is_light(job: Job) -> bool:
    """Whether preparing it takes a moment only: no schema to compile, no long text to tokenise."""
    return not job.response_schema and sum(map(len, job.conversation.texts)) <= _LIGHT


Prepare = Callable[[Job], PreparedJob]
"""Called on any thread, as a rule not the engine's; raises ``JobStopped`` for a refusal."""


def attempt(prepare: Prepare, job: Job) -> PreparedJob | JobStopped:
    """The job ready to run, or why it cannot be: whatever preparing raises ends this job alone."""
    try:
        return prepare(job)
    except JobStopped as stop:
        return stop
    except Exception as failure:  # noqa: BLE001 - and nobody else's
        _LOG.exception("%s could not be prepared", job.id)
        return JobStopped(Reason.FAILED, f"{type(failure).__name__}: {failure}")


class Preparation:
    """Prepares jobs for the engine of one model, or for those of several."""

    def __init__(
        self, engine: Engine, default_max_tokens: int, smaller: Sequence[Engine] = ()
    ) -> None:
        """``default_max_tokens`` is N_max of a job that sets none; ``smaller`` the other models."""
        self._engines = (engine, *smaller)
        self._default_max_tokens = default_max_tokens

    def __call__(self, job: Job) -> PreparedJob:
        """The job with its prompt rendered once and tokenised, and its schema compiled.

        A model that cannot take it is left out.

        Raises:
            JobStopped: where none can, what kept the largest from it: REJECTED, with the field and
                the bound, or FAILED.
        """
        refusals: list[JobStopped] = []
        prepared: list[PreparedJob] = []
        for model in range(len(self._engines)):
            tried = attempt(partial(self._on, model), job)
            if isinstance(tried, JobStopped):
                refusals.append(tried)
            else:
                prepared.append(tried)
        if not prepared:
            raise refusals[0]
        return replace(prepared[0], smaller=tuple(prepared[1:]))

    def _on(self, model: int, job: Job) -> PreparedJob:
        engine = self._engines[model]
        try:
            request = engine.prepare(job.conversation, job.response_schema, job.sampling)
        except SchemaRefused as error:
            raise JobStopped(Reason.REJECTED, str(error)) from error
        except RequestError as error:
            raise JobStopped(Reason.REJECTED, f"messages: {error}") from error
        max_tokens = max_tokens_of(
            job, request.prompt_tokens, default=self._default_max_tokens, context=engine.max_context
        )
        return PreparedJob(job, request, max_tokens, model)
