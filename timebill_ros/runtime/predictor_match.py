# SPDX-License-Identifier: Apache-2.0
"""The length predictor that a model is used with, and whether it was trained for that."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from timebill_ros.budget.calibration import Calibration
from timebill_ros.engine.checkpoint import Checkpoint, checkpoint_digest, target_fingerprint
from timebill_ros.engine.device import usable_device
from timebill_ros.predictor import hidden_predictor
from timebill_ros.predictor.checkpoint import other_target, read_calibration, read_config
from timebill_ros.predictor.embedded_predictor import MODEL_TYPE
from timebill_ros.predictor.hidden_predictor import STATE_MODEL_TYPE, HiddenStatePredictor
from timebill_ros.predictor.length_predictor import LengthPredictor, load_predictor
from timebill_ros.runtime.settings import Settings

_LOG = logging.getLogger(__name__)

# Decoding settings on which lengths depend; a seed only draws other ones of the same kind.
_DECODING = ("temperature", "top_p", "stop")


def reads_text(folder: Path) -> bool:
    """Whether the predictor reads words, and not the tokens of the model that it is for.

    Raises:
        PredictorError: there is none.
    """
    return read_config(folder).get("model_type") not in (MODEL_TYPE, STATE_MODEL_TYPE)


def reads_states(folder: Path) -> bool:
    """Whether the predictor reads the target's own hidden states.

    Raises:
        PredictorError: there is none.
    """
    return read_config(folder).get("model_type") == STATE_MODEL_TYPE


def shipped_for(checkpoint: Checkpoint, shelf: Path) -> Path | None:
    """The predictor under ``shelf`` that was trained for exactly this model; None for others."""
    shipped = [path for path in sorted(shelf.glob("*")) if (path / "config.json").is_file()]
    if not shipped:
        return None
    target = target_fingerprint(checkpoint.folder)
    return next((path for path in shipped if read_config(path).get("target") == target), None)


def mismatches(folder: Path, checkpoint: Checkpoint | None, settings: Settings) -> Iterator[str]:
    """Sentences for the log: another target, other decoding, answers beyond the last bucket.

    What the predictor's config.json does not tell is not compared.

    Args:
        folder: the predictor's checkpoint.
        checkpoint: the model that is loaded; None where it is on a server, and not compared.
        settings: how it is going to decode.
    """
    config = read_config(folder)
    if checkpoint is not None:
        fingerprint = target_fingerprint(checkpoint.folder)
        if other := other_target(folder, config, settings.model, fingerprint):
            yield other
    trained = config.get("decoding")
    for name in _DECODING:
        value = getattr(settings, name)
        now = list(value) if isinstance(value, tuple) else value
        if isinstance(trained, dict) and trained.get(name, now) != now:
            yield (
                f"predictor {folder} was trained on answers with {name} {trained[name]!r}, but "
                f"{name} is {now!r}: lengths may differ"
            )
    longest = config.get("longest_response")
    if isinstance(longest, int) and settings.max_tokens > longest:
        yield (
            f"predictor {folder} knows answers of up to longest_response {longest} tokens, but "
            f"max_tokens is {settings.max_tokens}: longer ones are not predicted"
        )


def loaded_predictor(
    settings: Settings, folder: Path | None, checkpoint: Checkpoint | None
) -> tuple[LengthPredictor | HiddenStatePredictor | None, str, Calibration | None]:
    """The predictor of a model, what tells it from others, and its calibration.

    ``folder`` is what ``predictor_folder`` found, ``checkpoint`` None for a model elsewhere.
    """
    if folder is None:
        return None, "", None
    where = usable_device("predictor_device", settings.predictor_device)
    predictor: LengthPredictor | HiddenStatePredictor
    if reads_states(folder):
        predictor = hidden_predictor.load(folder)
    else:
        predictor = load_predictor(folder, device=str(where), threads=settings.predictor_threads)
    for mismatch in mismatches(folder, checkpoint, settings):
        _LOG.warning("%s", mismatch)
    name = f"{checkpoint_digest(folder)} {where} {settings.predictor_threads}"
    return predictor, name, known_calibration(folder)


def predictor_folder(
    settings: Settings, embedded: Path, checkpoint: Checkpoint | None
) -> Path | None:
    """Where the length predictor is; None where there is none, which is logged.

    Without a ``checkpoint`` the model is elsewhere: then only one that reads text can be used.
    ``embedded`` is where what the package ships is.
    """
    local = checkpoint is not None
    folder = Path(settings.predictor).expanduser()
    if not local and settings.predictor not in ("auto", "none") and not reads_text(folder):
        _LOG.warning(
            "predictor %s reads what only its own model's engine knows, not a server: every "
            "plan of the engine 'served' is made for N_W = max_tokens",
            folder,
        )
        return None
    if checkpoint is not None and settings.predictor == "auto":
        if Path(checkpoint.folder).parent == embedded:  # both shipped models answer alike
            return embedded / "predictor"
        shipped = shipped_for(checkpoint, embedded / "state_predictors")
        if shipped is not None:
            return shipped
    if settings.predictor in ("auto", "none"):
        _LOG.warning("no length predictor: every plan is made for N_W = max_tokens")
        return None
    return folder


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
