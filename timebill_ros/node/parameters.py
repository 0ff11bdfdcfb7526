# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared with range and description, read once into ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from timebill_ros.budget.errors import SettingError
from timebill_ros.runtime.settings import Settings

DEFAULTS = Settings()


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number."""

    low: float
    high: float


@dataclass(frozen=True)
class Spec:
    """What a user reads about one parameter."""

    description: str
    range: Range | None = None
    constraints: str = ""


_DAY = 86_400.0

SPECS: dict[str, Spec] = {
    "model": Spec(
        "The language model: 'embedded' for the one that comes with the package, otherwise a "
        "checkpoint directory or hub id of a causal LM with safetensors weights.",
        constraints="not empty",
    ),
    "device": Spec("Where the model runs.", constraints="cpu, cuda or cuda:N"),
    "dtype": Spec(
        "Type of the weights and the KV cache; auto is float32 on CPU and bfloat16 on CUDA.",
        constraints="auto, float32, bfloat16 or float16",
    ),
    "threads": Spec(
        "CPU threads of the engine; 0: half of the cores it may use, one for a model of under "
        "50 million weights.",
        Range(0, 1024),
    ),
    "max_context": Spec(
        "Longest prompt and response together, tokens; the KV cache is allocated for it. "
        "0: the model's own limit.",
        Range(0, 10_000_000),
    ),
    "chunk": Spec(
        "Prompt tokens that prefill runs at a time: a deadline stops prefill within one chunk.",
        Range(1, 1_000_000),
    ),
    "window": Spec(
        "Observation window: the last prompt tokens, which score the others and are never "
        "evicted. It should cover the instruction at the prompt's end.",
        Range(1, 4096),
    ),
    "kernel": Spec("Width of the pooling that smooths SnapKV's scores, odd.", Range(1, 63)),
    "max_tokens": Spec(
        "N_max, longest response of an instruction that sets none, tokens.", Range(1, 1_000_000)
    ),
    "temperature": Spec("Sampling temperature; 0: greedy.", Range(0.0, 10.0)),
    "top_p": Spec("Share of probability that sampling draws from.", Range(0.0, 1.0)),
    "seed": Spec("Seed of sampling, the same for every instruction.", Range(0, 2**31 - 1)),
    "stop": Spec("Strings that end a response; they are cut from its text. '' entries are none."),
    "predictor": Spec(
        "The response length predictor: 'auto' for the one that comes with the embedded model, "
        "'none' to plan with N_W = N_max, otherwise a checkpoint directory.",
        constraints="not empty",
    ),
    "predictor_threads": Spec("CPU threads of the predictor.", Range(1, 1024)),
    "predictor_grace": Spec(
        "How long a finished prefill waits for a late prediction before it plans with "
        "N_W = N_max, s.",
        Range(0.0, 60.0),
    ),
    "planner": Spec(
        "How the eviction ratio is chosen: timebill (the smallest that meets the budget), fixed "
        "(fixed_alpha), vanilla (0).",
        constraints="timebill, fixed or vanilla",
    ),
    "alpha_max": Spec("Largest eviction ratio.", Range(0.0, 1.0), "below 1"),
    "pessimism": Spec(
        "k: the plan survives responses k times as long as predicted, up to N_max.",
        Range(1.0, 1000.0),
    ),
    "fixed_alpha": Spec("Eviction ratio of the planner 'fixed'.", Range(0.0, 1.0), "below 1"),
    "overrun_policy": Spec(
        "At its deadline an instruction is stopped (kill), or runs on while those behind it are "
        "skipped (skip_next).",
        constraints="kill or skip_next",
    ),
    "default_budget": Spec(
        "Budget of instructions that set neither budget nor deadline, s.", Range(1e-3, _DAY)
    ),
    "max_budget": Spec("Longest budget that is not rejected as absurd, s.", Range(1e-3, _DAY)),
    "queue_capacity": Spec("Instructions that may wait; one more is rejected.", Range(1, 100_000)),
    "profile_cache": Spec(
        "Directory of measured time models; empty: timebill_ros in the ROS home directory."
    ),
    "profile_seconds": Spec(
        "Longest time that measuring the time model may take, s.", Range(1.0, 3600.0)
    ),
    "diagnostics_period": Spec("Time between two diagnostics messages, s.", Range(0.05, 60.0)),
}


class Parameters:
    """The node's parameters, and why the overrides that were given do not fit.

    A bad override must not keep the node from coming up, where nobody could see why: it is
    remembered, the default is declared in its place, and configuring fails until it is set anew.
    """

    def __init__(self, node: Node) -> None:
        """Declare every parameter on ``node``."""
        self._node = node
        self._faults: dict[str, str] = {}
        for field in fields(Settings):
            self._declare(field.name)
        node.add_post_set_parameters_callback(self._forget_faults)

    def read(self) -> Settings:
        """The parameters as they are now.

        Raises:
            SettingError: an override did not fit its parameter's type or range, or a value fits
                the range but not the meaning.
        """
        for name, fault in self._faults.items():
            raise SettingError(name, self._node.get_parameter(name).value, fault)
        values = {f.name: self._node.get_parameter(f.name).value for f in fields(Settings)}
        values["stop"] = tuple(text for text in values["stop"] if text)
        for name in ("model", "predictor", "device"):
            if not values[name].strip():
                raise SettingError(name, values[name], "not empty")
        return Settings(**values)

    def _declare(self, name: str) -> None:
        default = getattr(DEFAULTS, name)
        # An empty list has no type of its own in ROS, a list of one empty string has.
        value = [""] if default == () else default
        descriptor = _descriptor(name, SPECS[name], value)
        try:
            self._node.declare_parameter(name, value, descriptor)
        except (InvalidParameterTypeException, InvalidParameterValueException) as fault:
            self._faults[name] = f"what its type and range allow ({fault})"
            self._node.declare_parameter(name, value, descriptor, ignore_override=True)

    def _forget_faults(self, changed: list[Parameter]) -> None:
        for parameter in changed:
            self._faults.pop(parameter.name, None)


def _descriptor(name: str, spec: Spec, value: object) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=name, description=spec.description, additional_constraints=spec.constraints
    )
    if spec.range is not None and isinstance(value, int):
        bounds = IntegerRange(from_value=int(spec.range.low), to_value=int(spec.range.high), step=1)
        descriptor.integer_range = [bounds]
    elif spec.range is not None:
        bounds = FloatingPointRange(from_value=float(spec.range.low), to_value=spec.range.high)
        descriptor.floating_point_range = [bounds]
    return descriptor
