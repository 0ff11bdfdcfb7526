# SPDX-License-Identifier: Apache-2.0
"""The predicted length of every answered prompt, and which of them the predictor has met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timebill_ros.bench.cases import BenchError, Case
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.simulation import SimulatedEngine
from timebill_ros.training.predictor.pairs import prompt_digest, seen_prompts

if TYPE_CHECKING:  # they load torch
    from timebill_ros.engine.request import PreparedRequest
    from timebill_ros.engine.transformer_engine import TransformerEngine
    from timebill_ros.runtime.loading import Loaded
    from timebill_ros.selection.selector import Selector

PROMPTS = "prompts.txt"


@dataclass(frozen=True)
class Told:
    """The length that the state at the end of one prompt tells.

    Attributes:
        selection, share: of the prompt, as of an ``Answer``.
        bucket_size, probabilities: of a ``LengthDistribution``.
    """

    selection: str
    share: float
    bucket_size: int
    probabilities: Sequence[float]

    @property
    def lengths(self) -> LengthDistribution:
        """As the planner takes it."""
        return LengthDistribution(np.array(self.probabilities), self.bucket_size)


@dataclass(frozen=True)
class ToldCase:
    """What the states tell of one case, the whole prompt first."""

    case: str
    told: tuple[Told, ...]


def told_case(content: dict[str, Any]) -> ToldCase:
    """The case of a line of a ``RunFile``."""
    return ToldCase(content["case"], tuple(Told(**told) for told in content["told"]))


def tell(
    loaded: Loaded,
    engine: TransformerEngine,
    selectors: Mapping[str, Selector],
    case: Case,
    shares: Sequence[float],
) -> ToldCase:
    """What the predictor makes of the state at the end of every prompt that was answered.

    Raises:
        RequestError: the prompt cannot be run.
    """
    whole = engine.prepare(case.conversation)
    told = [_told(loaded, engine, whole, "", 1.0)]
    for name, selector in selectors.items():
        ranked = selector.rank(case.conversation.texts, whole.prompt_tokens)
        for share in shares:
            if share < 1.0:
                shorter = engine.prepare(case.conversation.of_texts(ranked.select(share)))
                told.append(_told(loaded, engine, shorter, name, share))
    return ToldCase(case.id, tuple(told))


def _told(
    loaded: Loaded, engine: TransformerEngine, request: PreparedRequest, name: str, share: float
) -> Told:
    engine.begin(request, 1)
    while not engine.prefill_chunk():
        pass
    lengths = None if loaded.states is None else loaded.states.start("", (), 0).wait(0.0)
    if lengths is None:
        raise BenchError("the predictor reads no states")
    return Told(name, share, lengths.bucket_size, lengths.probabilities.tolist())


def told_before(
    loaded: Loaded, engine: TransformerEngine, workload: Sequence[Case], model: TimeModel
) -> dict[str, LengthDistribution]:
    """What a predictor that reads text says of every case's prompt; empty without one.

    It reads as much of a prompt as ``model`` says it has the time for.
    """
    if (predictor := loaded.predictor) is None:
        return {}
    lengths = {}
    for case in workload:
        request = engine.prepare(case.conversation)
        most = model.longest_predictor_input(request.prompt_tokens)
        text, ids = request.text, request.prompt_ids
        lengths[case.id] = predictor.predict(text, ids, most)
    return lengths


@dataclass(frozen=True)
class Predictions:
    """What a planner is told of lengths.

    Attributes:
        whole: of a case's prompt, by its id, told before prefill; empty without such a predictor.
        by_state: told at the end of prefill, of the prompt that was prefilled.
    """

    whole: Mapping[str, LengthDistribution] = field(default_factory=dict)
    by_state: Sequence[ToldCase] = ()

    def after(self, selection: str) -> dict[str, Mapping[float, LengthDistribution]]:
        """By case and share, of whole prompts and of those that this method selected."""
        return {
            each.case: {
                one.share: one.lengths for one in each.told if one.selection in ("", selection)
            }
            for each in self.by_state
        }


@dataclass(frozen=True)
class SimulatedStatePredictor:
    """A ``PredictionService`` that reads the engine's state: nothing before the prompt's end.

    There is nothing to keep of a job, so it is every job's prediction too. It takes no time.
    """

    engine: SimulatedEngine
    elapsed: float = 0.0

    def start(
        self, text: str, prompt_ids: Sequence[int], max_input: int
    ) -> SimulatedStatePredictor:
        """Nothing runs beside prefill."""
        return self

    def wait(self, timeout: float) -> LengthDistribution | None:
        """What is told of the prompt that was prefilled, whole or selected from."""
        return self.engine.lengths

    def cancel(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing to give back."""


def known_prompts(loaded: Loaded) -> frozenset[str]:
    """Digests of the prompts that the predictor was trained or calibrated on, if it tells."""
    folder = loaded.predictor_folder
    return frozenset() if folder is None else seen_prompts(folder) or frozenset()


def predictor_digest(loaded: Loaded) -> str:
    """What tells the length predictor from others; "" where there is none."""
    from timebill_ros.engine.checkpoint import checkpoint_digest

    folder = loaded.predictor_folder
    return "" if folder is None else checkpoint_digest(folder)[:8]


def digest_of(engine: TransformerEngine, case: Case) -> str:
    """As a predictor's folder names the prompt."""
    return prompt_digest(engine.prepare(case.conversation).text)


def check_unmet(
    loaded: Loaded, engine: TransformerEngine, workload: Sequence[Case], out: Path
) -> None:
    """Refuse prompts of which the predictor has met some; writes the digests of all into ``out``.

    Raises:
        BenchError: it has.
    """
    if not (known := known_prompts(loaded)):
        return
    digests = [digest_of(engine, case) for case in workload]
    if met := known.intersection(digests):
        out.mkdir(parents=True, exist_ok=True)
        (out / PROMPTS).write_text("\n".join(digests) + "\n", encoding="utf-8")
        raise BenchError(
            f"the predictor {loaded.predictor_folder} was trained or calibrated on {len(met)} of "
            f"the {len(workload)} prompts: take others (--leave-out-met), or a predictor that "
            f"was trained without them (train_states --without {out / PROMPTS})"
        )
