# SPDX-License-Identifier: Apache-2.0
"""Where a job came from: what travels with it through the runtime, to the messages about it."""

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
class Origin:
    """The context of every job of the node.

    Attributes:
        header: the instruction's, with the stamp of its release.
        caller: None for an instruction that came by topic.
    """

    header: Header
    caller: Caller | None = None


def origin_of(job: Job) -> Origin:
    """Where the job came from; for jobs of the node."""
    return cast(Origin, job.context)
