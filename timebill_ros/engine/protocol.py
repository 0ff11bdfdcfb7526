# SPDX-License-Identifier: Apache-2.0
"""What an engine is to those who use it: real, simulated, or served by another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from timebill_ros.budget.fit import ProfilePoints
from timebill_ros.engine.request import NOTHING_SET, Conversation, PreparedRequest, SamplingOverride

Progress = Callable[[float, str], None]
"""Told a share in 0..1 and what is being done. May raise to end it."""

Waiting = Callable[[], None]
"""Called several times a second while something is waited for. May raise to end that."""


def patiently() -> None:
    """Wait on, whatever happens."""


class FinishReason(Enum):
    """The reason that a response is complete."""

    EOS = "EOS"
    """The model generated an end-of-sequence token."""

    LENGTH = "LENGTH"
    """The response reached the request's ``max_tokens``."""

    STOP = "STOP"
    """The response's text came to contain a stop string."""

    DEADLINE = "DEADLINE"
    """The deadline was too near for another token; no engine says so, only who watches the time."""

    FALLBACK = "FALLBACK"
    """No engine answered in time: the text is the instruction's own; no engine says so either."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do beyond answering.

    Attributes:
        evicts: the prompt's cache can shrink after the prefill.
        structured: responses can be held to a JSON schema.
        counts_tokens: ``PreparedRequest.prompt_ids`` are the model's own tokens, so that their
            number is N_x; otherwise it is an estimate.
    """

    evicts: bool
    structured: bool
    counts_tokens: bool


class Engine(Protocol):
    """Answers one request at a time, on one thread, in pieces that are short against a deadline.

    Only ``prepare`` may be called on any thread, also while a request runs.

    Attributes:
        window: observation window, the last prompt tokens that are never evicted.
        max_context: most tokens of prompt and response together.
        max_prompt_chars: a prompt of more characters cannot fit ``max_context``.
        device: where the model runs, for people.
        capabilities: what it can do beyond answering.
    """

    @property
    def window(self) -> int: ...  # noqa: D102 - see the class

    @property
    def max_context(self) -> int: ...  # noqa: D102

    @property
    def max_prompt_chars(self) -> int: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    @property
    def capabilities(self) -> Capabilities: ...  # noqa: D102

    def prepare(
        self,
        conversation: Conversation,
        response_schema: str = "",
        sampling: SamplingOverride = NOTHING_SET,
    ) -> PreparedRequest:
        """Render, tokenise and compile what is to be asked; "" is no schema.

        An engine that does not choose tokens, a simulated one say, ignores ``sampling``.

        On any thread. It takes time: milliseconds as a rule, up to a bound of the engine's own.

        Raises:
            RequestError: the conversation cannot be rendered, or is too long.
            SchemaRefused: responses cannot be held to this schema.
        """

    def reusable(self, request: PreparedRequest) -> int:
        """Prompt tokens that its prefill would not run again, as an earlier prompt had them too.

        On the engine's thread before ``begin``; on another it is what may still change until then.
        0 where that cannot be known.
        """

    def begin(self, request: PreparedRequest, max_tokens: int, *, ignore_eos: bool = False) -> None:
        """Forget the previous request and take this one; runs nothing yet.

        With ``ignore_eos`` only ``max_tokens`` ends the response, for measuring.

        Raises:
            RequestError: the request does not fit the engine.
        """

    def prefill_chunk(self) -> bool:
        """Run the next chunk, or wait some milliseconds; True once response token 1 exists."""

    def evict(self, kept_tokens: int) -> None:
        """Shrink the prompt's cache to ``kept_tokens`` per head, where ``capabilities.evicts``."""

    def step(self) -> None:
        """One decoding step: one response token more.

        An engine that waits for another process comes back without one where none has arrived
        within some milliseconds.
        """

    @property
    def response_tokens(self) -> int:
        """Response tokens so far, EOS included."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the response is complete; None while it is not."""

    def text(self) -> str:
        """Response text so far; what it once held it holds to the end."""

    def complete_prefix(self) -> str:
        """What of the text so far can stand for itself; JSON under a schema. "" for nothing."""

    def abort(self) -> None:
        """Give the request up: nothing of it goes on, here or elsewhere. Harmless without one."""

    def close(self) -> None:
        """Give back memory and connections; the engine cannot be used any more."""


class MeasurableEngine(Engine, Protocol):
    """An engine whose times follow from a profile of it, taken before it serves."""

    @property
    def traits(self) -> Mapping[str, str | int]:
        """What its times depend on beside the machine, by name: the key of a kept profile."""

    def measure(self, limit: float, progress: Progress) -> ProfilePoints:
        """Time its stages on this machine; no request may run.

        Args:
            limit: seconds that it should take at most.
            progress: told of every step.

        Raises:
            SettingError: the engine's settings leave nothing to measure, ``max_context`` say.
        """

    def warm_up(self, waiting: Waiting = patiently) -> None:
        """Run every stage once, so that the first request finds allocators and caches warm."""
