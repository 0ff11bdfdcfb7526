# SPDX-License-Identifier: Apache-2.0
"""What is done for a job before it takes the engine: its prompt, its schema, its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from timebill_ros.engine.errors import RequestError, SchemaRefused
from timebill_ros.engine.protocol import Engine, PreparedRequest
from timebill_ros.runtime.admission import max_tokens_of
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped, Reason


@dataclass(frozen=True)
class PreparedJob:
    """A job that is ready to run.

    Attributes:
        job: what is to be answered.
        request: the same as its engine takes it.
        max_tokens: N_max.
    """

    job: Job
    request: PreparedRequest
    max_tokens: int


# Characters that are tokenised within some milliseconds.
_LIGHT = 20_000


def is_light(job: Job) -> bool:
    """Whether preparing it takes a moment only: no schema to compile, no long text to tokenise."""
    return not job.response_schema and sum(map(len, job.conversation.texts)) <= _LIGHT


Prepare = Callable[[Job], PreparedJob]
"""Called on any thread but the engine's; raises ``JobStopped`` for a refusal."""


class Preparation:
    """Prepares jobs for one engine."""

    def __init__(self, engine: Engine, default_max_tokens: int) -> None:
        """``default_max_tokens`` is N_max of a job that sets none."""
        self._engine = engine
        self._default_max_tokens = default_max_tokens

    def __call__(self, job: Job) -> PreparedJob:
        """The job with its prompt rendered once and tokenised, and its schema compiled.

        Raises:
            JobStopped: REJECTED, with the field and the bound.
        """
        engine = self._engine
        try:
            request = engine.prepare(job.conversation, job.response_schema, job.sampling)
        except SchemaRefused as error:
            raise JobStopped(Reason.REJECTED, str(error)) from error
        except RequestError as error:
            raise JobStopped(Reason.REJECTED, f"messages: {error}") from error
        max_tokens = max_tokens_of(
            job, request.prompt_tokens, default=self._default_max_tokens, context=engine.max_context
        )
        return PreparedJob(job, request, max_tokens)
