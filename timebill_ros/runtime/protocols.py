# SPDX-License-Identifier: Apache-2.0
"""What the server needs from an engine and a predictor, real or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.conversation import Conversation
from timebill_ros.engine.finish import FinishReason


class Engine(Protocol):
    """Answers one request at a time, on one thread, in pieces that are short against a deadline.

    Attributes:
        window: observation window, the last prompt tokens that are never evicted.
        max_context: most tokens of prompt and response together.
    """

    window: int
    max_context: int

    def encode(self, conversation: Conversation) -> list[int]:
        """Tokens of the rendered prompt, N_x of them.

        Raises:
            RequestError: the conversation cannot be rendered.
        """

    def render(self, conversation: Conversation) -> str:
        """The rendered prompt as text, for a predictor that reads text. Raises as ``encode``."""

    def begin(self, prompt_ids: Sequence[int], max_tokens: int, response_schema: str) -> None:
        """Forget the previous request and take this one; "" is no schema.

        Raises:
            SchemaRefused: responses cannot be held to this schema.
        """

    def prefill_chunk(self) -> bool:
        """Run the next chunk; True once response token 1 exists."""

    def evict(self, kept_tokens: int) -> None:
        """Shrink the prompt's cache to ``kept_tokens`` per head."""

    def step(self) -> None:
        """One decoding step: one response token more."""

    @property
    def response_tokens(self) -> int:
        """Response tokens so far, EOS included."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the response is complete; None while it is not."""

    def text(self) -> str:
        """Response text so far."""

    def complete_prefix(self) -> str:
        """What of the text so far can stand for itself; JSON under a schema. "" for nothing."""


class PendingPrediction(Protocol):
    """A prediction under way beside prefill."""

    def wait(self, timeout: float) -> LengthDistribution | None:
        """The distribution, waiting at most ``timeout`` s; None where it is not there by then.

        Raises:
            Exception: whatever the predictor raised.
        """

    def cancel(self) -> None:
        """Nobody waits for it any more; one that has not started never will."""

    @property
    def elapsed(self) -> float:
        """Seconds that the predictor has worked on it."""


class PredictionService(Protocol):
    """Starts predictions that run beside the engine."""

    def start(self, text: str, prompt_ids: Sequence[int], max_input: int) -> PendingPrediction:
        """Begin to predict from at most ``max_input`` tokens; returns at once."""
