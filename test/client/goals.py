# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the node: its action, answered by the words of the prompt."""

from __future__ import annotations

import threading

from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Partial, Response
from timebill_ros.node.conversions import Caller
from timebill_ros.node.instruct_action import InstructAction

TIMEOUT = 120.0


class StandIn:
    """Shows the words of each prompt one by one, and answers with all of them.

    "wait" among them is not shown: from there on the goal waits to be canceled. An empty prompt is
    rejected.
    """

    goal_lease = 0.0
    max_prompt_chars = 10_000

    def __init__(self, domain: int) -> None:
        self.instructions: list[Instruction] = []
        self._callers: dict[str, Caller] = {}
        self._session = Session("llm", domain)
        node = self._session.node
        # A configured node has this topic; clients wait for it.
        node.create_subscription(Instruction, "~/input/instruction", lambda _: None, 10)
        self._action = InstructAction(node)
        self._action.attach(self)  # type: ignore[arg-type]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def take(
        self, message: Instruction, *, id: str, caller: Caller, fault: str | None = None
    ) -> str:
        """What the service does with a goal's instruction; the id stands for the job."""
        self.instructions.append(message)
        shown: list[str] = []
        for word in message.prompt.split():
            if word == "wait":
                self._callers[id] = caller
                return id
            shown.append(word)
            caller.progress(Partial(id=id, text=" ".join(shown), response_tokens=len(shown)))
        if shown:
            caller.ended(Response(id=id, text=" ".join(shown), response_tokens=len(shown)))
        else:
            caller.ended(Overrun(id=id, reason=Overrun.REJECTED, detail="prompt: it is empty"))
        return id

    def cancel(self, id: str, detail: str) -> bool:
        """What the service does with a canceled goal."""
        canceled = Overrun(id=id, reason=Overrun.CANCELED, detail=detail, partial_text="so far")
        self._callers.pop(id).ended(canceled)
        return True

    def close(self) -> None:
        self._ending.set()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        self._session.spin_until(self._ending.is_set, 600.0)
        self._action.destroy()
        self._session.close()
