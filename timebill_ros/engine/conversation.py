# SPDX-License-Identifier: Apache-2.0
"""What the model is asked, as text by text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Turn:
    """What the user or the assistant said earlier.

    Attributes:
        role: one of ``ROLES``; the system message is no turn.
        content: the text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """A system message, the turns so far, and the turn to answer.

    Attributes:
        system: "" for none.
        prompt: what the user says now.
        turns: earlier ones, oldest first.
    """

    system: str
    prompt: str
    turns: tuple[Turn, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text in the order of reading; no system message where there is none."""
        system = (self.system,) if self.system else ()
        return (*system, *(turn.content for turn in self.turns), self.prompt)

    def with_texts(self, change: Callable[[str], str]) -> Conversation:
        """The same conversation with every text of ``texts`` changed, in their order."""
        return Conversation(
            system=change(self.system) if self.system else "",
            turns=tuple(replace(turn, content=change(turn.content)) for turn in self.turns),
            prompt=change(self.prompt),
        )
