# SPDX-License-Identifier: Apache-2.0
"""What travels with a job through the runtime, to the messages about it: ``Job.context``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from std_msgs.msg import Header

from timebill_ros.msg import Overrun, Partial, Response
from timebill_ros.runtime.job import Job


class Caller(Protocol):
    """Who waits for one instruction in particular: the client of an action.

    Both are called from any thread, and return at once.
    """

    def progress(self, partial: Partial) -> None:
        """The response has come this far."""

    def ended(self, outcome: Response | Overrun) -> None:
        """The instruction has had its terminal outcome."""


@dataclass(frozen=True)
class JobContext:
    """The context of every job of the node.

    Attributes:
        header: the instruction's, with the stamp of its release.
        caller: None for an instruction that came by topic.
    """

    header: Header
    caller: Caller | None = None


def context_of(job: Job) -> JobContext:
    """Its context; for jobs of the node."""
    return cast(JobContext, job.context)
