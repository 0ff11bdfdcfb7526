# SPDX-License-Identifier: Apache-2.0
"""The job that runs, as the server sees it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from timebill_ros.runtime.execution import Execution
from timebill_ros.runtime.outcome import Stage
from timebill_ros.runtime.partial import Observer
from timebill_ros.runtime.policy import Decisions

_LOG = logging.getLogger(__name__)


@dataclass
class Run:
    """An execution, and what the server has made of it so far.

    Attributes:
        execution: where it stands.
        decided: how its deadline is treated; fixed when it started.
        late: LATE was announced.
        cancel_detail: why it is to stop at the next checkpoint.
        ended: its terminal outcome was announced.
        observer: who watches it, if anybody does.
    """

    execution: Execution
    decided: Decisions
    late: bool = False
    cancel_detail: str | None = None
    ended: bool = False
    observer: Observer | None = None

    @property
    def decoding(self) -> bool:
        """Whether its response grows."""
        return self.execution.stage is Stage.DECODE

    def look(self) -> None:
        """Let the observer look; one that fails sees no more, and costs the job nothing."""
        if self.observer is None or not self.decoding:
            return
        try:
            self.observer(self.execution.partial)
        except Exception:
            _LOG.exception("%s: its partial response could not be shown", self.execution.job.id)
            self.observer = None
