# SPDX-License-Identifier: Apache-2.0
"""The node, with parts that fail where a prompt says so; a program of its own for the soak.

The parts are the real ones. What fails is drawn by who sends the prompt, so that a round can be
run again and its outcomes judged.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import timebill_ros.runtime.running_server as running_server
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.node.main import main
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.runtime.loading import Loaded, load

# A word in a prompt, and what then fails.
PREDICTOR, NOT_A_NUMBER, OUT_OF_MEMORY = "predictorfault", "nanfault", "memoryfault"
ENGINE_FAULTS = (NOT_A_NUMBER, OUT_OF_MEMORY)
# Bytes that no machine has.
_TOO_MUCH = 2**50


class FaultyPredictor:
    """A predictor that raises at prompts that say so."""

    def __init__(self, predictor: LengthPredictor) -> None:
        self._predictor = predictor

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None = None
    ) -> LengthDistribution:
        """As the real one does, or not at all."""
        if PREDICTOR in text:
            raise RuntimeError("the predictor\x1b[2J failed\nas asked")
        return self._predictor.predict(text, prompt_ids, max_input)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)


class FaultyDecoder:
    """A decoder whose logits are NaN, or whose memory runs out, while ``fault`` says so."""

    def __init__(self, decoder: Any) -> None:
        self.fault = ""
        self._decoder = decoder

    def prefill(self, *arguments: Any, **named: Any) -> Any:
        """As the real one does, unless memory runs out."""
        if self.fault == OUT_OF_MEMORY:
            torch.empty(_TOO_MUCH, dtype=torch.uint8)
        return self._spoilt(self._decoder.prefill(*arguments, **named))

    def step(self, *arguments: Any, **named: Any) -> Any:
        """As the real one does."""
        return self._spoilt(self._decoder.step(*arguments, **named))

    def _spoilt(self, logits: Any) -> Any:
        return torch.full_like(logits, torch.nan) if self.fault == NOT_A_NUMBER else logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class FaultyEngine:
    """An engine whose decoder fails at prompts that say so."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        engine.decoder = self._decoder = FaultyDecoder(engine.decoder)

    def begin(self, request: PreparedRequest, *arguments: Any, **named: Any) -> None:
        """As the real one does, and set what will fail."""
        self._decoder.fault = next((fault for fault in ENGINE_FAULTS if fault in request.text), "")
        self._engine.begin(request, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def load_faulty(*arguments: Any) -> Loaded:
    """Load as the node does, then put the parts that fail in front of the real ones."""
    loaded = load(*arguments)
    engine: Any = FaultyEngine(loaded.engine)
    if loaded.predictor is None:
        return replace(loaded, engine=engine)
    return replace(loaded, engine=engine, predictor=FaultyPredictor(loaded.predictor))


if __name__ == "__main__":
    running_server.load = load_faulty
    sys.exit(main())
