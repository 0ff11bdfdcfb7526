# SPDX-License-Identifier: Apache-2.0
"""What one request sets of its sampling, in the place of the engine's own settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LARGEST_TEMPERATURE = 10.0
LARGEST_SEED = 2**31 - 1
MOST_STOPS = 16
LONGEST_STOP = 256
"""Characters of a stop string; the text's end is compared with each of them at every token."""


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
