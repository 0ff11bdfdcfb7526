# SPDX-License-Identifier: Apache-2.0
"""The driving commands that an answer may hold, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jsonschema

_SCHEMA = files("timebill_ros.workload") / "schemas" / "driving_command.schema.json"
_CHANGE_GOAL = "change_goal"


@dataclass(frozen=True)
class VelocityLimit:
    """Drive no faster than ``velocity``, m/s."""

    velocity: float


@dataclass(frozen=True)
class Stop:
    """Come to a stop and stay there."""


@dataclass(frozen=True)
class Resume:
    """Drive on, without the limit that was asked for before."""


@dataclass(frozen=True)
class ChangeGoal:
    """Drive to the place of this name."""

    goal: str


Command = VelocityLimit | Stop | Resume | ChangeGoal


class NotACommand(ValueError):
    """A text that is not exactly one command of the vocabulary."""


class Vocabulary:
    """The shipped JSON schema of driving commands, with the places that this vehicle knows.

    Attributes:
        schema: as JSON, for the instruction's ``response_schema``.
    """

    def __init__(self, goals: Collection[str]) -> None:
        """Allow these goals in place of the embedded model's; without any, no goal at all."""
        schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
        schema["oneOf"] = [form for form in map(_with_goals(goals), schema["oneOf"]) if form]
        self.schema = json.dumps(schema)
        self._validator = jsonschema.Draft202012Validator(schema)

    def read(self, text: str) -> Command:
        """The command that a text is.

        Raises:
            NotACommand: it is no JSON, or not a command of this vocabulary; the message says why.
        """
        try:
            value = json.loads(text, object_pairs_hook=_once_each, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as fault:
            raise NotACommand(f"not JSON: {fault}") from None
        misfit = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        if misfit is not None:
            raise NotACommand(f"not a driving command: {misfit.message}")
        return _command(value)


def _command(value: dict[str, Any]) -> Command:
    match value["command"]:
        case "velocity_limit":
            return VelocityLimit(float(value["velocity_mps"]))
        case "stop":
            return Stop()
        case "resume":
            return Resume()
        case _:
            return ChangeGoal(value["goal"])


def _with_goals(goals: Collection[str]) -> Any:
    """Puts the vehicle's goals into the form that has them; None where it has none."""

    def put(form: dict[str, Any]) -> dict[str, Any] | None:
        if form["properties"]["command"]["const"] != _CHANGE_GOAL:
            return form
        form["properties"]["goal"]["enum"] = sorted(goals)
        return form if goals else None

    return put


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are unique: of two commands in one object none is to be trusted."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
