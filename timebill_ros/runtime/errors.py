# SPDX-License-Identifier: Apache-2.0
"""Why a job ends without a response, raised where it is known and mapped once by the server."""

from __future__ import annotations

from timebill_ros.runtime.outcome import Reason


class JobStopped(Exception):
    """The job ends here with an overrun.

    Attributes:
        reason: the overrun's reason.
        detail: one sentence for the user: the field or the cause, and the bound.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class TimeUp(JobStopped):
    """No further piece of work ends by the deadline: time to answer with what there is.

    A job of which nothing can stand for itself is killed.
    """

    def __init__(self) -> None:
        """KILLED, unless it is caught."""
        detail = "deadline: too near for another token, and nothing generated can stand for itself"
        super().__init__(Reason.KILLED, detail)
