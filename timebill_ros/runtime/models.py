# SPDX-License-Identifier: Apache-2.0
"""The models that settings name: where they are, what their levers cost, whether they fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.quality import QUALITY_FILE, LeverQuality, QualityFile, read_quality
from timebill_ros.engine.checkpoint import checkpoint_folder, memory_need
from timebill_ros.engine.device import free_memory, usable_device
from timebill_ros.engine.protocol import Progress
from timebill_ros.runtime.prompt_selection import ConversationSelection
from timebill_ros.runtime.settings import Settings, parted
from timebill_ros.selection.methods import make_selection_method
from timebill_ros.selection.selector import Selector

_LOG = logging.getLogger(__name__)

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
# The package's own models, which have their tokens and their length predictor in common.
_EMBEDDED_MODELS = {"embedded": "checkpoint", "embedded-small": "small"}


def model_folder(settings: Settings) -> str | Path:
    """Where the model is: in the package for one of its own, otherwise as set."""
    name, _ = parted(settings.model)
    own = _EMBEDDED_MODELS.get(name)
    return name if own is None else EMBEDDED / own


def measured_levers(
    settings: Settings, *, local: bool = True
) -> tuple[LeverQuality, ConversationSelection | None]:
    """What the levers cost the model, as its folder tells, and how its prompts are selected from.

    Selection without a measured curve is off: it may cost more than the deadline it meets is worth.

    Raises:
        QualityFileError: the folder has such a file, but it holds no curves.
        SettingError: no such selection method, or a ``rho_min`` or ``selection_head`` out of range.
    """
    path = _quality_path(settings, local=local)
    measured = QualityFile() if path is None else read_quality(path)
    name = settings.selection
    if name == "auto":
        name = next(iter(measured.selection), "none")
    quality = measured.of(settings.eviction_method, name)
    if not quality.measured and local:
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


def _quality_path(settings: Settings, *, local: bool) -> Path | None:
    """The file with a model's curves; None where there is none.

    ``quality_file`` may be a folder with one for each model. Rounded weights have curves of their
    own, quality.int8.json say, or else those of the weights as they are.
    """
    set_ = Path(settings.quality_file).expanduser()
    if settings.quality_file and not set_.is_dir():
        return set_
    if settings.quality_file:
        name = settings.model if local else settings.server_model
        path = set_ / f"{name.replace('/', '_')}.json"
        return path if path.is_file() else None
    if not local:
        return None
    path = Path(model_folder(settings)).expanduser() / QUALITY_FILE
    rounded = path.with_suffix(f".{settings.weights}.json")
    if rounded.is_file():
        return rounded
    return path if path.is_file() else None


def check_memory(
    models: Sequence[Settings],
    progress: Progress,
    free: Callable[[torch.device], int] = free_memory,
) -> None:
    """Refuse local models that cannot be in memory together, before any of them is loaded.

    A hub's are downloaded for that.

    Raises:
        SettingError: how much is missing.
        EngineError: one of them is no checkpoint.
    """
    needed = 0
    for own in models:
        waiting = partial(progress, 0.0, f"downloading the model {own.model!r}")
        folder = checkpoint_folder(model_folder(own), waiting)
        need = memory_need(folder, device=own.device, dtype=own.dtype, kept=own.weights)
        tokens = (own.max_context or need.max_positions) + own.prefix_tokens
        needed += need.weights + tokens * need.per_token
    there = free(usable_device("device", models[0].device))
    if needed > there:
        name = "models" if len(models) > 1 else "model"
        bound = (
            f"of at most {there / 1e9:.2f} GB, which are free: weights and caches take "
            f"{needed / 1e9:.2f} GB, {(needed - there) / 1e9:.2f} GB are missing (a shorter "
            "max_context takes less)"
        )
        raise SettingError(name, ", ".join(own.model for own in models), bound)
