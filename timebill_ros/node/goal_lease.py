# SPDX-License-Identifier: Apache-2.0
"""How long goals go on although nobody listens to the action any more."""

from __future__ import annotations

from collections.abc import Callable

from timebill_ros.runtime.clock import NS_PER_S, Clock


class GoalLease:
    """Finds the goals whose clients must be gone: nobody has listened for as long as the lease.

    Every action client subscribes to the action's feedback, and what sends a goal does not say
    which subscription is its own. So the clients are counted together: the goals of one that is
    gone go on while another one listens. A goal begins its lease when it comes, since it may
    overtake the news of its client's subscription.
    """

    def __init__(self, listeners: Callable[[], int], stopwatch: Clock) -> None:
        """``listeners`` counts the subscriptions at this moment."""
        self._listeners = listeners
        self._stopwatch = stopwatch
        self._heard_ns: dict[bytes, int] = {}  # per goal: when somebody was last known to listen

    def begin(self, goal: bytes) -> None:
        """A goal has come."""
        self._heard_ns[goal] = self._stopwatch.now_ns()

    def end(self, goal: bytes) -> None:
        """A goal is over, if it was not before."""
        self._heard_ns.pop(goal, None)

    def take_run_out(self, lease: float) -> list[bytes]:
        """The goals to which nobody has listened for ``lease`` s, once each; none where it is 0."""
        if not self._heard_ns:
            return []
        now_ns = self._stopwatch.now_ns()
        if self._listeners() > 0 or lease == 0.0:
            self._heard_ns = dict.fromkeys(self._heard_ns, now_ns)
            return []
        gone = [goal for goal, at in self._heard_ns.items() if now_ns - at >= lease * NS_PER_S]
        for goal in gone:
            del self._heard_ns[goal]
        return gone
