# SPDX-License-Identifier: Apache-2.0
"""What can be chosen of an engine that runs a model in this process."""

from __future__ import annotations

from dataclasses import dataclass, field

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.projection import WeightKinds
from timebill_ros.engine.sampling import Sampling


@dataclass(frozen=True)
class EngineSettings:
    """What can be chosen of an engine.

    Attributes:
        max_context: prompt and response tokens that fit together.
        window: observation window, the last prompt tokens that are never evicted; it should cover
            the instruction at the prompt's end.
        eviction_method: which tokens stay, by name; see ``eviction.EVICTION_METHODS``.
        kernel: width of the pooling that smooths attention scores, odd.
        chunk: prompt tokens per ``prefill_chunk``: how soon a deadline can stop prefill.
        threads: CPU threads of one operation.
        sampling: how tokens are chosen, greedily by default. The checkpoint's own sampling defaults
            do not apply.
        stop: strings that end the response and are no part of its text.
        prefix_tokens: most prompt tokens whose keys and values are kept, over all prompts, for
            prompts that start with the same tokens; 0 for none.
        lean: use the lean decoder where it supports the model, else the modules' own forward.
        weights: how those of linear layers are kept, for prefill and for steps; as the checkpoint
            has them by default. None, for the fastest, is for ``make_engine`` alone.
    """

    max_context: int
    window: int = 16
    eviction_method: str = "snapkv"
    kernel: int = 5
    chunk: int = 512
    threads: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    prefix_tokens: int = 0
    lean: bool = True
    weights: WeightKinds | None = field(default_factory=WeightKinds)

    def check(self) -> None:
        """Check what needs no model, once each number is chosen.

        Raises:
            SettingError: a setting is out of range.
        """
        _require("chunk", self.chunk, 1)
        _require("window", self.window, 1, self.chunk)
        _require("threads", self.threads, 1)
        _require("prefix_tokens", self.prefix_tokens, 0)
        if "" in self.stop:
            raise SettingError("stop", list(self.stop), "without empty strings")


def _require(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bound = f">= {least}" if most is None else f"from {least} to {most}"
        raise SettingError(name, value, bound)
