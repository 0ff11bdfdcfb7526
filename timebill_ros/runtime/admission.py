# SPDX-License-Identifier: Apache-2.0
"""From the fields of an instruction to a job, or to a refusal that names field and bound."""

from __future__ import annotations

from dataclasses import dataclass

from timebill_ros.engine.conversation import ROLES, Conversation
from timebill_ros.runtime.clock import NS_PER_S, seconds
from timebill_ros.runtime.errors import JobStopped
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Reason

# What DDS middleware puts in the place of bytes that are not UTF-8.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Instruction:
    """The fields of an instruction as they arrived; 0 or "" is "not set" for each.

    Attributes:
        id, conversation: text.
        stamp_ns: release instant on the sender's clock, which is the node's.
        budget_ns: from the release to the deadline.
        deadline_ns: absolute deadline on the same clock as the stamp; wins over the budget.
        max_tokens: N_max.
        response_schema: JSON schema of the answer.
        context: handed through to the outcome.
    """

    id: str
    conversation: Conversation
    stamp_ns: int
    budget_ns: int
    deadline_ns: int
    max_tokens: int
    response_schema: str = ""
    context: object = None


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


def admit(instruction: Instruction, *, received_ns: int, clock_ns: int, limits: Limits) -> Job:
    """The job, its release and deadline converted once to the server's clock.

    Args:
        instruction: the fields as they arrived.
        received_ns: now, on the clock of the instruction's stamps.
        clock_ns: the same moment on the server's clock.
        limits: what is filled in and refused.

    Raises:
        Refused: REJECTED with the field and the bound, beside a job to report it on.
    """
    stamp_ns = instruction.stamp_ns or received_ns
    deadline_ns = instruction.deadline_ns or stamp_ns + (
        instruction.budget_ns or round(limits.default_budget * NS_PER_S)
    )
    offset_ns = clock_ns - received_ns
    job = Job(
        id=instruction.id,
        conversation=instruction.conversation,
        release_ns=stamp_ns + offset_ns,
        deadline_ns=deadline_ns + offset_ns,
        max_tokens=instruction.max_tokens or None,
        response_schema=instruction.response_schema,
        context=instruction.context,
    )
    fault = _fault(instruction, deadline_ns - received_ns, limits)
    if received_ns == 0:
        fault = "stamp: the node's clock stands at zero; under use_sim_time, no /clock has come yet"
    if fault is not None:
        raise Refused(job, fault)
    return job


class Refused(JobStopped):
    """An instruction that never becomes a running job.

    Attributes:
        job: what could be made of it, to report the refusal on.
    """

    def __init__(self, job: Job, detail: str) -> None:
        """REJECTED, with the field and its bound in ``detail``."""
        super().__init__(Reason.REJECTED, detail)
        self.job = job


def _fault(instruction: Instruction, ahead_ns: int, limits: Limits) -> str | None:
    """The first field that is out of its bounds, with the bound; None where all are within."""
    conversation = instruction.conversation
    texts = {"id": instruction.id, "system": conversation.system, "prompt": conversation.prompt}
    texts["response_schema"] = instruction.response_schema
    for number, turn in enumerate(conversation.turns):
        if turn.role not in ROLES:
            return f"messages[{number}].role: {turn.role!r} is none of {', '.join(ROLES)}"
        if not turn.content.strip():
            return f"messages[{number}].content: it is empty"
        texts[f"messages[{number}].content"] = turn.content
    for name, text in texts.items():
        position = text.find(_REPLACEMENT)
        if position >= 0:
            return f"{name}: character {position} is U+FFFD, the text was not valid UTF-8"
    if not conversation.prompt.strip():
        return "prompt: it is empty"
    characters = sum(map(len, conversation.texts))
    if characters > limits.max_prompt_chars:
        return (
            f"prompt: {characters} characters, system and messages included, are more than the "
            f"{limits.max_prompt_chars} that can fit the model's context"
        )
    if instruction.deadline_ns == 0 and instruction.budget_ns < 0:
        return f"budget: {seconds(instruction.budget_ns):.3f} s is negative"
    if seconds(ahead_ns) > limits.max_budget:
        field = "deadline" if instruction.deadline_ns else "budget"
        return (
            f"{field}: {seconds(ahead_ns):.3f} s from now exceed the max_budget of "
            f"{limits.max_budget:.3f} s"
        )
    return None
