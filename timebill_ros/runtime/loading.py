# SPDX-License-Identifier: Apache-2.0
"""From settings to an engine that is loaded, profiled and warm, and its length predictor."""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import TimeModelFit
from timebill_ros.budget.quality import (
    LeverQuality,
    with_priors,
)
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
)
from timebill_ros.engine.errors import ServerError, ServerUnavailable
from timebill_ros.engine.factory import make_engine
from timebill_ros.engine.projection import WeightKinds
from timebill_ros.engine.protocol import MeasurableEngine, Progress
from timebill_ros.engine.request import SamplingOverride
from timebill_ros.engine.sampling import Sampling
from timebill_ros.engine.served.connect import ServedSettings, connect
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.hidden_predictor import HiddenStatePredictor
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.runtime.models import EMBEDDED, check_memory, measured_levers, model_folder
from timebill_ros.runtime.prediction import StatePredictor
from timebill_ros.runtime.predictor_match import loaded_predictor, predictor_folder
from timebill_ros.runtime.profiling import ProfilePlace, time_model_of
from timebill_ros.runtime.prompt_selection import ConversationSelection
from timebill_ros.runtime.settings import Settings

_LOG = logging.getLogger(__name__)

Predictors = dict[str, LengthPredictor]
"""By what tells one from others: models of one engine that have the same share it."""

_ONE_LOAD = threading.Lock()
# How often a load that waits for another one tells so, s.
_ONE_LOAD_POLL = 0.1


@dataclass(frozen=True)
class Loaded:
    """What a server needs of a model: ``predictor`` is None where none is configured.

    ``calibration`` is None where the predictor has none, ``selection`` where prompts stay whole.
    ``shared``: others work on the same machine, so that its times drift. ``states`` predicts from
    the engine's own state, in the place of ``predictor``; ``predictor_folder`` is where either is
    from, if it is a local model's. ``model`` is its name, ``smaller`` the
    other models of its engine, largest first. ``others`` answer where this engine cannot; so would
    those named in ``absent``, whose server was not there.
    """

    engine: MeasurableEngine
    predictor: LengthPredictor | None
    fit: TimeModelFit
    calibration: Calibration | None = None
    quality: LeverQuality | None = None
    selection: ConversationSelection | None = None
    shared: bool = False
    name: str = "local"
    others: tuple[Loaded, ...] = ()
    absent: tuple[str, ...] = ()
    states: StatePredictor | None = None
    predictor_folder: Path | None = None
    model: str = ""
    smaller: tuple[Loaded, ...] = ()

    def close(self) -> None:
        """Give back what every one of them holds."""
        self.engine.close()
        for each in (*self.smaller, *self.others):
            each.close()


def load(settings: Settings, progress: Progress) -> Loaded:
    """Load the models and their predictors, measure or recall their time models, warm up.

    To be called on the thread that the engines are to run on. One at a time loads in a process, for
    transformers builds models under global state: a load that was given up, but has not ended yet,
    would leave weights out of the next one.

    Raises:
        SettingError, EngineError, PredictorError, QualityFileError: what cannot be worked with, by
            name, or a server that is not there.
        Exception: whatever ``progress`` raised.
    """
    with _alone(progress), ExitStack() as opened:
        loaded: list[Loaded] = []
        absent: list[str] = []
        names = settings.engines
        for number, name in enumerate(names):
            try:
                engine = _load_engine(settings, name, _part(progress, number, len(names)))
            except ServerError as error:
                if len(names) == 1:
                    raise
                told = "the engine %s is left out until its server is there: %s"
                _LOG.error(told, name, error)
                absent.append(name)
            else:
                loaded.append(engine)
                opened.callback(engine.close)
        if not loaded:
            raise ServerUnavailable("none of the engines can be reached")
        opened.pop_all()  # nothing is closed
        return replace(loaded[0], others=tuple(loaded[1:]), absent=tuple(absent))


def load_served(settings: Settings, progress: Progress) -> Loaded:
    """Load the engine on the server alone, on any thread.

    Raises:
        SettingError, ServerUnavailable, ServerFault: it is not there, or not as set.
        Exception: whatever ``progress`` raised.
    """
    with _alone(progress):
        return _load_engine(settings, "served", progress)


def _load_engine(settings: Settings, name: str, progress: Progress) -> Loaded:
    """The engine of that name with all its models, loaded one after the other.

    Raises:
        Exception: as ``load``; what was loaded before is closed.
    """
    models = settings.on_models(name)
    if len(models) > 1 and Path(settings.quality_file).expanduser().is_file():
        bound = "a folder with a file for each of models, NAME.json"
        raise SettingError("quality_file", settings.quality_file, bound)
    load_one = _load_served
    if name == "local":
        load_one = _load_local
        check_memory(models, progress)
    loaded: list[Loaded] = []
    predictors: Predictors = {}
    with ExitStack() as opened:
        for number, own in enumerate(models):
            loaded.append(load_one(own, predictors, _part(progress, number, len(models))))
            opened.callback(loaded[-1].engine.close)
        opened.pop_all()  # nothing is closed
    known = with_priors([each.quality or LeverQuality() for each in loaded])
    for each, quality in zip(loaded, known, strict=True):
        if len(loaded) > 1 and not quality.comparable:
            _LOG.warning(
                "%s is taken to score %.0f with nothing dropped: its answers were not measured "
                "against references",
                each.model,
                quality.score(1.0, 0.0),
            )
    first, *smaller = (
        replace(each, quality=quality) for each, quality in zip(loaded, known, strict=True)
    )
    return replace(first, smaller=tuple(smaller))


def _part(progress: Progress, number: int, count: int) -> Progress:
    """The progress of one of several."""
    return lambda share, doing: progress((number + share) / count, doing)


@contextmanager
def _alone(progress: Progress) -> Iterator[None]:
    """Wait until no other thread loads, telling ``progress`` so, and keep others from it."""
    while not _ONE_LOAD.acquire(timeout=_ONE_LOAD_POLL):
        progress(0.0, "waiting until a start that was given up has ended")
    try:
        yield
    finally:
        _ONE_LOAD.release()


def _load_served(settings: Settings, predictors: Predictors, progress: Progress) -> Loaded:
    """Find out what the server runs, time it, and warm the connection up."""
    asking = partial(progress, 0.0, "asking the server what it runs")
    asking()
    engine = connect(served_settings(settings), asking)
    try:
        quality, selection = measured_levers(settings, local=False)
        predictor, name, calibration = loaded_predictor(
            settings, predictor_folder(settings, EMBEDDED, None), None
        )
        if isinstance(predictor, HiddenStatePredictor):  # refused before: a server tells no states
            predictor = None
        if predictor is not None:
            predictor = predictors.setdefault(name, predictor)
        fit = _fit(engine, predictor, name, settings, progress)
        engine.warm_up(partial(progress, 0.9, "warming up"))
    except BaseException:
        engine.close()
        raise
    progress(1.0, f"ready on {engine.device}")
    model = engine.model.name
    return Loaded(
        *(engine, predictor, fit, calibration, quality, selection),
        shared=True,
        name="served",
        model=model,
    )


def _load_local(settings: Settings, predictors: Predictors, progress: Progress) -> Loaded:
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
    folder = predictor_folder(settings, EMBEDDED, checkpoint)
    predictor, name, calibration = loaded_predictor(settings, folder, checkpoint)
    states = None
    if isinstance(predictor, HiddenStatePredictor):
        states, predictor, name = _watching(engine, predictor, checkpoint), None, ""
    elif predictor is not None:
        predictor = predictors.setdefault(name, predictor)
    fit = _fit(engine, predictor, name, settings, progress)
    if told := unmet_defaults(settings, fit.model):
        _LOG.warning("%s", told)
    engine.warm_up(partial(progress, 0.9, "warming up"))
    progress(1.0, f"ready on {engine.device}")
    return Loaded(
        *(engine, predictor, fit, calibration, quality, selection),
        states=states,
        predictor_folder=folder,
        model=settings.model,
    )


def _watching(
    engine: TransformerEngine, predictor: HiddenStatePredictor, checkpoint: Checkpoint
) -> StatePredictor:
    """Predicts from the engine's state; raises ``SettingError`` where that is another model's."""
    config = checkpoint.model.config
    shape = (config.num_hidden_layers, config.hidden_size)
    if predictor.layer > shape[0] or predictor.width != shape[1]:
        wanted = f"of a model with {predictor.width} wide states and {predictor.layer} layers"
        raise SettingError(
            "predictor", f"{wanted} at least", f"those of this model: {shape[1]} and {shape[0]}"
        )
    engine.watch(predictor.layer)
    return StatePredictor(predictor, engine.hidden_state)


def _fit(
    engine: MeasurableEngine,
    predictor: LengthPredictor | None,
    predictor_name: str,
    settings: Settings,
    progress: Progress,
) -> TimeModelFit:
    """The engine's time model, of tokens that are drawn where the settings say so."""
    where = ProfilePlace(profile_folder(settings), settings.profile_seconds)
    fit = time_model_of(engine, predictor, predictor_name, where, progress)
    return replace(fit, model=fit.model.drawn()) if settings.temperature > 0.0 else fit


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


def engine_settings(settings: Settings) -> EngineSettings:
    """What of the settings concerns the engine."""
    return EngineSettings(
        max_context=settings.max_context,
        window=settings.window,
        eviction_method=settings.eviction_method,
        kernel=settings.kernel,
        prefix_tokens=settings.prefix_tokens,
        chunk=settings.chunk,
        threads=settings.threads,
        sampling=Sampling(
            temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed
        ),
        stop=tuple(settings.stop),
        weights=_weights(settings),
    )


def served_settings(settings: Settings) -> ServedSettings:
    """What of the settings concerns an engine on a server."""
    return ServedSettings(
        url=settings.url,
        model=settings.server_model,
        api_key_file=settings.api_key_file,
        request_timeout=settings.request_timeout,
        server_flavor=settings.server_flavor,
        server_priority=settings.server_priority,
        max_context=settings.max_context,
        window=settings.window,
        sampling=SamplingOverride(
            settings.temperature, settings.top_p, settings.seed, tuple(settings.stop)
        ),
    )


def _weights(settings: Settings) -> WeightKinds | None:
    """How weights are kept; None for the fastest, where neither they nor their type are set."""
    if settings.weights != "auto":
        return WeightKinds(settings.weights, settings.weights)
    return None if settings.dtype == "auto" else WeightKinds()


def profile_folder(settings: Settings) -> Path:
    """Where profiles are kept: as set, otherwise in the ROS home directory."""
    if settings.profile_cache:
        return Path(settings.profile_cache).expanduser()
    home = os.environ.get("ROS_HOME") or "~/.ros"
    return Path(home).expanduser() / "timebill_ros"
