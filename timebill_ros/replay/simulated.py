# SPDX-License-Identifier: Apache-2.0
"""Replays in virtual time: the node's own admission and server, and an engine that takes time."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import timebill_ros.msg as msg
from timebill_ros.budget.errors import ProfileFitError, QualityFileError
from timebill_ros.budget.fit import (
    ProfilePoints,
    fit_time_model,
    read_measurements,
    read_points,
)
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.client.record import Record, record_of_outcome
from timebill_ros.engine.profile_cache import RECIPE
from timebill_ros.engine.request import Conversation
from timebill_ros.node.conversions import job_from, overrun_msg, response_msg
from timebill_ros.replay.recording import (
    BadInput,
    Keep,
    Lengths,
    Outcomes,
    Recorded,
    Tempo,
    shifted,
)
from timebill_ros.runtime.admission import Limits, Preparation, Reception, fault_of
from timebill_ros.runtime.outcome import Outcome, Overrun
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.settings import Settings
from timebill_ros.runtime.simulation import (
    ScaledClock,
    SimulatedEngine,
    SimulatedPredictor,
    SimulatedRequest,
    SimulatedSelection,
    VirtualClock,
    simulate,
)


def load_time_model(path: Path) -> TimeModel:
    """The time model of a JSON file: its coefficients by name, or a profile that the node kept.

    Raises:
        BadInput: no such file, or one that is neither; by the key that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise BadInput(f"{path}: no time model can be read: {failure}") from failure
    if not isinstance(content, dict):
        raise BadInput(f"{path}: no time model: it is no JSON object")
    try:
        if "points" in content:
            return fit_time_model(_points(content)).model
        return _coefficients(content)
    except KeyError as missing:
        raise BadInput(f"{path}: no time model: {missing} is missing") from missing
    except (ValueError, TypeError, AttributeError, OverflowError, ProfileFitError) as failure:
        raise BadInput(f"{path}: no time model: {failure}") from failure


def recalled_profile(settings: Settings) -> Path:
    """The newest profile that is kept on this machine of the settings' model, by today's recipe.

    Raises:
        BadInput: there is none; the message says where it was looked for, and how to get one.
    """
    # To know the model by its content pulls in torch.
    from timebill_ros.engine.checkpoint import checkpoint_digest
    from timebill_ros.runtime.loading import profile_folder
    from timebill_ros.runtime.models import model_folder

    folder, model = profile_folder(settings), Path(model_folder(settings))
    digest = checkpoint_digest(model) if (model / "config.json").exists() else None
    kept = []
    for path in folder.glob("profile-*.json"):
        try:
            environment = json.loads(path.read_text(encoding="utf-8"))["environment"]
            measured, recipe = environment["checkpoint"], environment["recipe"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if digest in (None, measured) and recipe == RECIPE:
            kept.append(path)
    if not kept:
        raise BadInput(
            f"no profile of the model {settings.model!r} is kept in {folder}: measure one with "
            "`timebill_ros profile`, or give --time-model FILE"
        )
    return max(kept, key=lambda path: path.stat().st_mtime)


def _points(content: Mapping[str, Any]) -> ProfilePoints:
    """A kept profile's points, with those of the predictor that was measured last."""
    points = read_points(content["points"])
    for rows in content["predictors"].values():
        points = replace(points, predictor=read_measurements(rows))
    return points


def _coefficients(content: Mapping[str, Any]) -> TimeModel:
    names = {field.name: field for field in fields(TimeModel)}
    if unknown := content.keys() - names.keys():
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    values: dict[str, Any] = {
        name: _number(name, value) for name, value in content.items() if name != "predictor"
    }
    for name in ("a", "b", "c", "p", "q"):
        values[name] = values[name] if name in values else content[name]
    if (predictor := content.get("predictor")) is not None:
        values["predictor"] = Quadratic(
            **{name: _number(f"predictor.{name}", predictor[name]) for name in ("a", "b", "c")}
        )
    return TimeModel(**values)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number: {value!r}")
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} must be finite and not negative, not {value}")
    return float(value)


# Context of a node whose max_context is 0, the model's own limit: there is no model to ask.
_MAX_CONTEXT = 131_072
# Where nothing predicted a length, the predictor is taken to find the right bucket.
_BUCKET = 16
_LISTED = 5


def replay_simulated(
    recorded: Sequence[Recorded],
    settings: Settings,
    time_model: TimeModel,
    tempo: Tempo,
    keep: Keep | None = None,
) -> Outcomes:
    """Have every instruction end in virtual time, exactly as it would be if time were what is told.

    Args:
        recorded: instructions with their lengths.
        settings: the node's; those that concern the model itself do nothing.
        time_model: what each stage takes.
        tempo: how recorded time passes.
        keep: gets every message that would be sent and received.

    Raises:
        BadInput: the lengths of an instruction are not known.
        SettingError: a setting out of its bounds, by name.
    """
    _check_known(recorded)
    requests = {item.instruction.id: _request(item) for item in recorded}
    virtual = VirtualClock()
    start_ns = recorded[0].at_ns
    clock = ScaledClock(virtual, rate=tempo.rate if tempo.simulated else 1.0, start_ns=start_ns)
    ended: dict[str, list[Record]] = {name: [] for name in requests}

    def emit(outcome: Outcome) -> None:
        name = outcome.job.id
        if keep is not None:
            keep(clock.now_ns(), _message_of(outcome))
        if not isinstance(outcome, Overrun) or outcome.terminal:
            ended[name].append(record_of_outcome(outcome, requests[name].prompt_tokens))

    parts = _parts(virtual, clock, requests, settings, time_model)
    server = Server(
        parts,
        decisions(settings),
        prepare=Preparation(parts.engine, settings.max_tokens),
        queue_capacity=settings.queue_capacity,
        emit=emit,
    )
    # The lengths in tokens are known, and are held to the context: characters need no bound.
    limits = Limits(settings.default_budget, settings.max_budget, max_prompt_chars=sys.maxsize)

    def arrive(instruction: msg.Instruction) -> None:
        if keep is not None:
            keep(clock.now_ns(), instruction)
        _submit(instruction, server, clock.now_ns(), limits)

    for item in recorded:
        instruction = item.instruction
        due_ns = clock.real_ns(item.at_ns)
        if not tempo.simulated:
            due_ns = round(due_ns / tempo.rate)
            instruction = shifted(instruction, start_ns + due_ns - item.at_ns)
        virtual.at(due_ns, partial(arrive, instruction))
    simulate(server, virtual, [])
    return _accounted(ended)


def _levers(
    settings: Settings,
    requests: dict[str, SimulatedRequest],
    clock: VirtualClock,
    time_model: TimeModel,
) -> tuple[LeverQuality | None, SimulatedSelection | None]:
    """What the levers cost, as ``quality_file`` tells, and selection if that is among them.

    Raises:
        BadInput: the file holds no curves.
    """
    if not settings.quality_file:
        return None, None
    # To know the model's curves and methods pulls in torch.
    from timebill_ros.runtime.models import measured_levers

    try:
        quality, selection = measured_levers(settings)
    except QualityFileError as error:
        raise BadInput(str(error)) from error
    if selection is None:
        return quality, None
    always = settings.window + settings.selection_head
    return quality, SimulatedSelection(requests, always, selection.shares, clock, time_model)


def _parts(
    virtual: VirtualClock,
    clock: ScaledClock,
    requests: dict[str, SimulatedRequest],
    settings: Settings,
    time_model: TimeModel,
) -> ServerParts:
    """The simulated engine and predictor in the place of the node's."""
    predictor = SimulatedPredictor(virtual, time_model, requests, bucket_size=_BUCKET)
    quality, selection = _levers(settings, requests, virtual, time_model)
    return ServerParts(
        engine=SimulatedEngine(
            virtual,
            time_model,
            requests,
            window=settings.window,
            max_context=settings.max_context or _MAX_CONTEXT,
            chunk=settings.chunk,
        ),
        time_model=time_model,
        predictor=predictor if settings.predictor != "none" else None,
        clock=clock,
        stopwatch=virtual,
        predictor_grace=settings.predictor_grace,
        quality=quality,
        selection=selection,
    )


def _submit(instruction: msg.Instruction, server: Server, now_ns: int, limits: Limits) -> None:
    """What the node does with an instruction when it receives it."""
    received = Reception(now_ns, now_ns)
    job = job_from(
        instruction, id=instruction.id, received=received, default_budget=limits.default_budget
    )
    fault = fault_of(job, received, limits)
    if fault is None:
        # The simulated engine knows a request by its prompt, which several may share.
        server.submit(replace(job, conversation=Conversation(system="", prompt=job.id)))
    else:
        server.reject(job, fault)


def _message_of(outcome: Outcome) -> msg.Overrun | msg.Response:
    """What the node would publish."""
    return overrun_msg(outcome) if isinstance(outcome, Overrun) else response_msg(outcome)


def _accounted(ended: dict[str, list[Record]]) -> Outcomes:
    """The records, and a fault where an instruction has not exactly one."""
    faults = [
        f"{n}: {len(found)} terminal outcomes" for n, found in ended.items() if len(found) != 1
    ]
    return Outcomes([record for found in ended.values() for record in found[:1]], faults)


def _request(item: Recorded) -> SimulatedRequest:
    lengths = item.lengths or Lengths(1, 1)
    bucket = -(-lengths.response_tokens // _BUCKET) * _BUCKET
    return SimulatedRequest(
        lengths.prompt_tokens, lengths.response_tokens, lengths.predicted_tokens or bucket
    )


def _check_known(recorded: Sequence[Recorded]) -> None:
    # One without a prompt is refused before anybody asks for its length.
    unknown = [
        r.instruction.id for r in recorded if r.lengths is None and r.instruction.prompt.strip()
    ]
    if unknown:
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise BadInput(
            f"the lengths of {len(unknown)} of {len(recorded)} instructions are not known: "
            f"{', '.join(unknown[:_LISTED])}{more}; give --lengths, a bag or a table that has "
            "them, or --assume-lengths PROMPT RESPONSE"
        )


def assumed(recorded: Sequence[Recorded], lengths: Lengths) -> list[Recorded]:
    """The same, with these lengths where none are known."""
    return [r if r.lengths else replace(r, lengths=lengths) for r in recorded]
