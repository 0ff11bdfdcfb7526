# SPDX-License-Identifier: Apache-2.0
"""Selecting from the texts of a conversation, whose turns and roles stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from timebill_ros.budget.expected import SHARES
from timebill_ros.engine.request import Conversation
from timebill_ros.selection.selector import RankedTexts, Selector


class RankedPrompt(Protocol):
    """A prompt whose passages are ranked by what they matter to the instruction."""

    @property
    def least_share(self) -> float:
        """The share that stays whatever is asked for; 1 where nothing can go."""

    def select(self, share: float) -> Conversation:
        """The conversation with about the share ``share`` of its text, in the same order."""


class PromptSelection(Protocol):
    """Shortens prompts before prefill."""

    @property
    def shares(self) -> Sequence[float]:
        """The shares rho that may be kept; they fall from 1."""

    def rank(self, conversation: Conversation, prompt_tokens: int) -> RankedPrompt:
        """Rank the passages of a conversation of so many tokens."""


@dataclass(frozen=True)
class RankedConversation:
    """A ``RankedPrompt`` of a conversation."""

    conversation: Conversation
    ranked: RankedTexts

    @property
    def least_share(self) -> float:
        """The share of the text that always stays."""
        return self.ranked.least_share

    def select(self, share: float) -> Conversation:
        """The conversation with its texts shortened; the template goes around them as before."""
        return self.conversation.of_texts(self.ranked.select(share))


@dataclass(frozen=True)
class ConversationSelection:
    """A ``PromptSelection`` by a selector.

    Attributes:
        selector: ranks the passages.
        rho_min: smallest share that may be kept.
    """

    selector: Selector
    rho_min: float

    @property
    def shares(self) -> Sequence[float]:
        """rho, falling from 1 to ``rho_min``."""
        return tuple(share for share in SHARES if share >= self.rho_min)

    def rank(self, conversation: Conversation, prompt_tokens: int) -> RankedConversation:
        """Rank the conversation's passages."""
        return RankedConversation(
            conversation, self.selector.rank(conversation.texts, prompt_tokens)
        )
