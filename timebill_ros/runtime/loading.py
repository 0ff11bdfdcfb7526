# SPDX-License-Identifier: Apache-2.0
"""From settings to an engine that is loaded, profiled and warm, and its length predictor."""

from __future__ import annotations

import logging
import math
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import (
    Measurement,
    ProfilePoints,
    TimeModelFit,
    fit_time_model,
)
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.quality import QUALITY_FILE, LeverQuality, QualityFile, read_quality
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.checkpoint import checkpoint_digest, load_checkpoint
from timebill_ros.engine.conversation import Conversation
from timebill_ros.engine.device import usable_device
from timebill_ros.engine.factory import make_engine
from timebill_ros.engine.profile import profile_predictor
from timebill_ros.engine.profile_cache import (
    PredictorProfile,
    describe_environment,
    recall_or_measure,
)
from timebill_ros.engine.projection import WeightKinds
from timebill_ros.engine.protocol import MeasurableEngine, Progress
from timebill_ros.engine.sampling import Sampling
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.predictor.checkpoint import read_calibration
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.predictor.load import load_predictor
from timebill_ros.runtime.predictor_match import mismatches
from timebill_ros.runtime.prompt_selection import ConversationSelection
from timebill_ros.runtime.settings import Settings
from timebill_ros.selection.methods import make_selection_method
from timebill_ros.selection.selector import Selector

_LOG = logging.getLogger(__name__)

_PREDICTOR_SHARE = 0.2  # of the time to profile
_EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
# Long enough that a chat template's own tokens do not count.
_WORDS = "The robot took the blue box to the third shelf and reported what it saw on its way. " * 32

_ONE_LOAD = threading.Lock()
# How often a load that waits for another one tells so, s.
_ONE_LOAD_POLL = 0.1


@dataclass(frozen=True)
class Loaded:
    """What a server needs of the model: ``predictor`` is None where none is configured.

    ``calibration`` is None where the predictor has none, ``selection`` where prompts stay whole.
    """

    engine: MeasurableEngine
    predictor: LengthPredictor | None
    fit: TimeModelFit
    calibration: Calibration | None = None
    quality: LeverQuality | None = None
    selection: ConversationSelection | None = None


def load(settings: Settings, progress: Progress) -> Loaded:
    """Load the model and the predictor, measure or recall the time model, warm up.

    To be called on the thread that the engine is to run on. One at a time loads in a process, for
    transformers builds models under global state: a load that was given up, but has not ended yet,
    would leave weights out of the next one.

    Raises:
        SettingError, EngineError, PredictorError, QualityFileError: what cannot be worked with, by
            name.
        Exception: whatever ``progress`` raised.
    """
    with _alone(progress):
        return _load(settings, progress)


@contextmanager
def _alone(progress: Progress) -> Iterator[None]:
    """Wait until no other thread loads, telling ``progress`` so, and keep others from it."""
    while not _ONE_LOAD.acquire(timeout=_ONE_LOAD_POLL):
        progress(0.0, "waiting until a start that was given up has ended")
    try:
        yield
    finally:
        _ONE_LOAD.release()


def _load(settings: Settings, progress: Progress) -> Loaded:
    progress(0.0, f"loading the model {settings.model!r}")
    checkpoint = load_checkpoint(
        model_folder(settings),
        device=settings.device,
        dtype=settings.dtype,
        waiting=lambda: progress(0.01, f"downloading the model {settings.model!r}"),
    )
    engine = make_engine(checkpoint, engine_settings(settings), profile_folder(settings))
    quality, selection = measured_levers(settings)
    progress(0.3, f"loading the length predictor {settings.predictor!r}")
    folder, predictor, predictor_name = _predictor_folder(settings), None, ""
    calibration = None
    if folder is not None:
        where = usable_device("predictor_device", settings.predictor_device)
        predictor = load_predictor(folder, device=str(where), threads=settings.predictor_threads)
        for mismatch in mismatches(folder, checkpoint, settings):
            _LOG.warning("%s", mismatch)
        calibration = known_calibration(folder)
        predictor_name = f"{checkpoint_digest(folder)} {where} {settings.predictor_threads}"
    fit = _time_model(engine, predictor, predictor_name, settings, progress)
    if told := unmet_defaults(settings, fit.model):
        _LOG.warning("%s", told)
    progress(0.9, "warming up")
    engine.warm_up()
    progress(1.0, f"ready on {engine.device}")
    return Loaded(engine, predictor, fit, calibration, quality, selection)


def unmet_defaults(settings: Settings, model: TimeModel) -> str:
    """What to say where no plan can meet the defaults with this model; empty where one can.

    A prompt of the window alone is the least work that there is: nothing of it is ever evicted.
    """
    prompt, longest, budget = settings.window, settings.max_tokens, settings.default_budget
    model = model.drawn() if settings.temperature > 0.0 else model

    def takes(tokens: int) -> float:
        return model.prefill(prompt) + model.decode(prompt, tokens)

    if takes(longest) <= budget:
        return ""
    fitting = bisect_right(range(1, longest), budget, key=takes)
    return (
        f"no plan can promise the defaults: after a prompt of {prompt} tokens an answer of "
        f"max_tokens ({longest}) takes {takes(longest):.3g} s, default_budget is {budget:g} s, in "
        f"which {fitting} tokens fit; lower max_tokens or raise default_budget"
    )


def model_folder(settings: Settings) -> str | Path:
    """Where the model is: the package's own for 'embedded', otherwise as set."""
    return _EMBEDDED / "checkpoint" if settings.model == "embedded" else settings.model


def measured_levers(settings: Settings) -> tuple[LeverQuality, ConversationSelection | None]:
    """What the levers cost the model, as its folder tells, and how its prompts are selected from.

    Selection without a measured curve is off: it may cost more than the deadline it meets is worth.

    Raises:
        QualityFileError: the folder has such a file, but it holds no curves.
        SettingError: no such selection method, or a ``rho_min`` or ``selection_head`` out of range.
    """
    path = Path(model_folder(settings)).expanduser() / QUALITY_FILE
    measured = read_quality(path) if path.is_file() else QualityFile()
    name = settings.selection
    if name == "auto":
        name = next(iter(measured.selection), "none")
    quality = measured.of(settings.eviction_method, name)
    if not quality.measured:
        _LOG.warning(
            "%s has no quality curve of the eviction method %r: the planner 'expected' takes one "
            "that was measured on another model",
            settings.model,
            settings.eviction_method,
        )
    if not 0.0 < settings.rho_min <= 1.0:
        raise SettingError("rho_min", settings.rho_min, "in (0, 1]")
    if name == "none":
        return quality, None
    method = make_selection_method(name)
    if quality.selection is None:
        _LOG.warning(
            "%s has no quality curve of the selection method %r: prompts stay whole",
            settings.model,
            name,
        )
        return quality, None
    selector = Selector(method, settings.window, settings.selection_head)
    return quality, ConversationSelection(selector, settings.rho_min)


def engine_settings(settings: Settings) -> EngineSettings:
    """What of the settings concerns the engine."""
    return EngineSettings(
        max_context=settings.max_context,
        window=settings.window,
        eviction_method=settings.eviction_method,
        kernel=settings.kernel,
        chunk=settings.chunk,
        threads=settings.threads,
        sampling=Sampling(
            temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed
        ),
        stop=tuple(settings.stop),
        weights=_weights(settings),
    )


def _weights(settings: Settings) -> WeightKinds | None:
    """How weights are kept; None for the fastest, where neither they nor their type are set."""
    if settings.weights != "auto":
        return WeightKinds(settings.weights, settings.weights)
    return None if settings.dtype == "auto" else WeightKinds()


def _predictor_folder(settings: Settings) -> Path | None:
    """Where the length predictor is; None where there is none, which is logged."""
    if settings.predictor == "auto" and settings.model == "embedded":
        return _EMBEDDED / "predictor"
    if settings.predictor in ("auto", "none"):
        _LOG.warning("no length predictor: every plan is made for N_W = max_tokens")
        return None
    return Path(settings.predictor).expanduser()


def known_calibration(folder: Path) -> Calibration | None:
    """Of the predictor there; None where it has none, which is logged."""
    calibration = read_calibration(folder)
    if calibration is None:
        _LOG.warning(
            "predictor %s is not calibrated: with risk set, plans are made for N_W = max_tokens "
            "until enough responses have shown what its probabilities are worth",
            folder,
        )
    return calibration


def _time_model(
    engine: MeasurableEngine,
    predictor: LengthPredictor | None,
    predictor_name: str,
    settings: Settings,
    progress: Progress,
) -> TimeModelFit:
    """The fit of the profile that is kept for this model and machine, or measured now."""
    limit = settings.profile_seconds

    def measure() -> ProfilePoints:
        _LOG.info("measuring it, for %g s at most", limit)
        return engine.measure(limit, lambda share, doing: progress(0.35 + 0.5 * share, doing))

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
    fit = fit_time_model(
        recall_or_measure(profile_folder(settings), environment, measure, predictor_profile)
    )
    _tell(fit, engine.max_context)
    return replace(fit, model=fit.model.drawn()) if settings.temperature > 0.0 else fit


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


def profile_folder(settings: Settings) -> Path:
    """Where profiles are kept: as set, otherwise in the ROS home directory."""
    if settings.profile_cache:
        return Path(settings.profile_cache).expanduser()
    home = os.environ.get("ROS_HOME") or "~/.ros"
    return Path(home).expanduser() / "timebill_ros"
