# SPDX-License-Identifier: Apache-2.0
"""What an engine is asked: the conversation, how its tokens are chosen, and both made ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from timebill_ros.engine.errors import ContextExceeded, RequestError

ROLES = ("user", "assistant")
LARGEST_TEMPERATURE = 10.0
LARGEST_SEED = 2**31 - 1
MOST_STOPS = 16
LONGEST_STOP = 256
"""Characters of a stop string; the text's end is compared with each of them at every token."""


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

    def of_texts(self, texts: Sequence[str]) -> Conversation:
        """The same conversation with ``texts`` in the place of its own, in their order."""
        rest = iter(texts)
        return self.with_texts(lambda _: next(rest))


@dataclass(frozen=True)
class SamplingOverride:
    """How the tokens of one response are chosen; None leaves a value as the engine has it.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: sample from the smallest set of tokens whose probability reaches this.
        seed: of the request's random sequence.
        stop: strings that end a free response and are no part of its text; () for none at all.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None

    def chosen(self) -> dict[str, Any]:
        """The values that it sets, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def fault(self) -> str | None:
        """The first value that is out of its bounds, with the bound; None where all are within."""
        # Compared so that NaN, which no comparison holds for, is out of bounds.
        if self.temperature is not None and not 0.0 <= self.temperature <= LARGEST_TEMPERATURE:
            return f"temperature: {self.temperature:g} is not from 0 to {LARGEST_TEMPERATURE:g}"
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            return f"top_p: {self.top_p:g} is not above 0 and at most 1"
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            return f"seed: {self.seed} is not from 0 to {LARGEST_SEED}"
        stop = self.stop or ()
        if len(stop) > MOST_STOPS:
            return f"stop: {len(stop)} strings are more than the {MOST_STOPS} that are taken"
        for number, text in enumerate(stop):
            if not 0 < len(text) <= LONGEST_STOP:
                return f"stop[{number}]: {len(text)} characters are not from 1 to {LONGEST_STOP}"
        return None


NOTHING_SET = SamplingOverride()


@dataclass(frozen=True)
class RequestHints:
    """What is known of a request before it runs: hints for an engine that has others beside it.

    Attributes:
        time_left: s until the deadline.
        first_token: s within which response token 1 should exist.
        tokens: likely response length; None where nothing is known.
        most_tokens: response tokens beyond which the deadline has certainly passed; None where the
            response may be late.
    """

    time_left: float
    first_token: float
    tokens: int | None = None
    most_tokens: int | None = None


@dataclass(frozen=True)
class PreparedRequest:
    """A request that its engine has checked; nothing of it has run. It may be begun repeatedly.

    Attributes:
        prompt_ids: the rendered prompt's tokens, N_x of them. They may be replaced by fewer.
        text: the rendered prompt, for a predictor that reads text.
        constraint: what holds the response to its schema; the engine's own, None without a schema.
        sampling: what it sets of its sampling.
        conversation: what it was made of, for an engine that hands it on.
        expected: what is known of it, for an engine that takes hints.
    """

    prompt_ids: Sequence[int]
    text: str = ""
    constraint: object | None = None
    sampling: SamplingOverride = NOTHING_SET
    conversation: Conversation | None = None
    expected: RequestHints | None = None

    def check_length(self, max_tokens: int, max_context: int) -> None:
        """Check that the prompt and ``max_tokens`` more fit a context.

        Raises:
            ContextExceeded, RequestError: they do not, or no response is asked for.
        """
        if max_tokens < 1:
            raise RequestError(f"max_tokens is {max_tokens}, but must be >= 1")
        if self.prompt_tokens + max_tokens > max_context:
            raise ContextExceeded(self.prompt_tokens, max_tokens, max_context)

    @property
    def prompt_tokens(self) -> int:
        """N_x."""
        return len(self.prompt_ids)
