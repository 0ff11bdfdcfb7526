# SPDX-License-Identifier: Apache-2.0
"""The time model of an engine and its predictor: recalled where it is kept, otherwise measured."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from timebill_ros.budget.fit import Measurement, ProfilePoints, TimeModelFit, fit_time_model
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.profile import profile_predictor
from timebill_ros.engine.profile_cache import (
    PredictorProfile,
    describe_environment,
    recall_or_measure,
)
from timebill_ros.engine.protocol import MeasurableEngine, Progress
from timebill_ros.engine.request import Conversation
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.selection.methods import Lexical
from timebill_ros.selection.selector import Selector

_LOG = logging.getLogger(__name__)

_SELECTED = (1, 4, 8)  # times _WORDS, of the prompts whose selection is timed
_SELECTIONS = 5
_KEPT = 0.5  # share of them that stays
_PREDICTOR_SHARE = 0.2  # of the time to profile
# Long enough that a chat template's own tokens do not count.
_WORDS = "The robot took the blue box to the third shelf and reported what it saw on its way. " * 32


@dataclass(frozen=True)
class ProfilePlace:
    """Where profiles are kept, and s that a new one may take."""

    folder: Path
    seconds: float


def time_model_of(
    engine: MeasurableEngine,
    predictor: LengthPredictor | None,
    predictor_name: str,
    where: ProfilePlace,
    progress: Progress,
) -> TimeModelFit:
    """The fit of the profile that is kept for this engine, or measured now.

    Args:
        engine: what is profiled.
        predictor: what predicts beside it; None where nothing does.
        predictor_name: what tells it from others.
        where: profiles are kept, and how long a new one may take.
        progress: told of every step.

    Raises:
        ProfileFitError, SettingError, EngineError: there is none.
    """
    limit = where.seconds

    def measure() -> ProfilePoints:
        _LOG.info("measuring it, for %g s at most", limit)
        points = engine.measure(limit, lambda share, doing: progress(0.35 + 0.5 * share, doing))
        rank, render = profile_selection(engine)
        return replace(points, rank=rank, render=render)

    predictor_profile = None
    if predictor is not None:

        def measure_predictor() -> tuple[Measurement, ...]:
            progress(0.85, "profiling the length predictor")
            return profile_predictor(
                _prediction(predictor, engine),
                longest=engine.max_context,
                limit=_PREDICTOR_SHARE * limit,
            )

        predictor_profile = PredictorProfile(predictor_name, measure_predictor)
    environment = describe_environment(engine)
    fit = fit_time_model(recall_or_measure(where.folder, environment, measure, predictor_profile))
    _tell(fit, engine.max_context)
    return fit


def _tell(fit: TimeModelFit, max_context: int) -> None:
    """Log what the time model says, and what it is worth."""
    model = fit.model
    _LOG.info(
        "time model: prefill of 1,000 tokens %.1f ms, step at 1,000 tokens %.3f ms, "
        "held-out errors %.1f %% and %.1f %%",
        model.prefill(1000) * 1e3,
        model.step(1000) * 1e3,
        fit.prefill_mape * 100.0,
        fit.step_mape * 100.0,
    )
    if fit.disturbance:
        _LOG.warning(
            "the profile was taken on a busy machine, or the model's times have a knee: %s. The "
            "times of requests correct it; `timebill_ros profile --refresh` measures it again",
            fit.disturbance,
        )
    if 2 * fit.longest_prefill < max_context:
        _LOG.warning(
            "profile_seconds sufficed for prefill up to %d of %d tokens; beyond, the time model "
            "extrapolates",
            fit.longest_prefill,
            max_context,
        )


def profile_selection(
    engine: MeasurableEngine, now_ns: Callable[[], int] = time.perf_counter_ns
) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...]]:
    """Time ranking prompts of graded length by their words, and rendering the half that stays.

    By words, for that takes longest of the ways to rank a text. A point is the median of its
    rounds. Rendering is timed over the tokens that stay, ranking over the whole prompt's.
    """
    selector = Selector(Lexical(), engine.window, 0)
    rank, render = [], []
    for times in _SELECTED:
        whole = Conversation("", (_WORDS * times)[: engine.max_prompt_chars])
        tokens = engine.prepare(whole).prompt_tokens
        if tokens > engine.max_context:
            break
        ranked, rendered = [], []
        for _ in range(_SELECTIONS):
            start = now_ns()
            order = selector.rank(whole.texts, tokens)
            ends = now_ns()
            shorter = engine.prepare(whole.of_texts(order.select(_KEPT)))
            ranked.append(ends - start)
            rendered.append(now_ns() - ends)
        rank.append(Measurement(tokens, statistics.median(ranked) * 1e-9))
        render.append(Measurement(shorter.prompt_tokens, statistics.median(rendered) * 1e-9))
    return tuple(rank), tuple(render)


def _prediction(
    predictor: LengthPredictor, engine: MeasurableEngine
) -> Callable[[int], LengthDistribution]:
    """Predicts from a prompt of so many of the target's tokens, as words too, for it may read them.

    The words are cut in proportion: encoding or decoding them would be timed with the predictor.
    """
    words = _WORDS[: engine.max_prompt_chars]
    ids = engine.prepare(Conversation("", words)).prompt_ids

    def predict(tokens: int) -> LengthDistribution:
        share = tokens / len(ids)
        times = math.ceil(share)
        text = (words * times)[: round(len(words) * share)]
        return predictor.predict(text, (list(ids) * times)[:tokens], None)

    return predict
