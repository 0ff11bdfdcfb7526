# SPDX-License-Identifier: Apache-2.0
"""One instruction, once its deadline is an instant of the server's clock."""

from __future__ import annotations

from dataclasses import dataclass

from timebill_ros.engine.request import NOTHING_SET, Conversation, SamplingOverride

CANNED_NS = 10_000_000
"""Time that is kept for publishing an answer that no engine makes."""


@dataclass(frozen=True)
class Job:
    """What the server is to answer, and by when.

    Attributes:
        id: the caller's name for it; unique among the jobs in flight.
        conversation: what is to be answered.
        release_ns, deadline_ns: instants of the server's clock.
        max_tokens: N_max; None for the server's default.
        response_schema: JSON schema that the response is held to; "" for free text.
        context: what the caller wants back with the outcome; never looked at.
        deadline_field: the field of the instruction that set the deadline, "budget" or "deadline";
            a refusal names it.
        fallback_text: the answer where no engine has one in time; "" for none.
        sampling: what it sets of its sampling in the place of the server's settings.
    """

    id: str
    conversation: Conversation
    release_ns: int
    deadline_ns: int
    max_tokens: int | None = None
    response_schema: str = ""
    context: object = None
    deadline_field: str = "budget"
    sampling: SamplingOverride = NOTHING_SET
    fallback_text: str = ""

    @property
    def answer_by_ns(self) -> int:
        """The instant by which an engine must have answered: a canned answer needs a moment too."""
        return self.deadline_ns - CANNED_NS if self.fallback_text else self.deadline_ns
