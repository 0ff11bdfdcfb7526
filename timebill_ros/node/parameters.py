# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared with range and description, read into ``Settings``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from timebill_ros.budget.errors import SettingError
from timebill_ros.node.parameter_specs import DEFAULTS, SPECS, Spec
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.settings import Settings

Apply = Callable[[Settings], None]

# rclpy's own, but deadlines are on the clock that it named when the node was configured.
_SIMULATED_TIME = "use_sim_time"


class MisfitOverride(ValueError):
    """A parameter was given a value that does not fit its type or range when the node started."""

    def __init__(self, name: str, fault: Exception) -> None:
        """Name the parameter before what ROS says of the value and the bound."""
        super().__init__(f"{name}: {fault}")


class Parameters:
    """The node's parameters, and why the overrides that were given do not fit.

    A bad override must not keep the node from coming up, where nobody could see why: it is
    remembered, the default is declared in its place, and configuring fails until it is set anew.
    """

    def __init__(self, node: Node) -> None:
        """Declare every parameter on ``node``."""
        self._node = node
        self._apply: Apply | None = None
        self._faults: dict[str, MisfitOverride] = {}
        for field in fields(Settings):
            self._declare(field.name)
        self._warn_of_unknown()
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take_over)

    def _warn_of_unknown(self) -> None:
        """Name the overrides that nothing declares, which ROS drops without a word.

        No fault: a file for all nodes (``/**``) has other nodes' parameters too.
        """
        for name in sorted(self._node._parameter_overrides):
            if not (self._node.has_parameter(name) or name.startswith("qos_overrides.")):
                self._node.get_logger().warning(
                    f"parameter {harmless_line(name)}: there is none, it is ignored"
                )

    def read(self) -> Settings:
        """The parameters as they are now.

        Raises:
            MisfitOverride: an override did not fit its parameter's type or range.
            SettingError: a value fits the range but not the meaning.
        """
        for fault in self._faults.values():
            raise fault
        return self._settings({})

    def attach(self, apply: Apply) -> None:
        """From now on only live parameters may change, and ``apply`` is told the result."""
        self._apply = apply

    def detach(self) -> None:
        """Let every parameter change again: nobody works with what was read."""
        self._apply = None

    def _settings(self, changed: dict[str, Any]) -> Settings:
        """The parameters as they are now, but for those that are ``changed``."""
        values = {f.name: self._node.get_parameter(f.name).value for f in fields(Settings)}
        values |= changed
        for name in ("stop", "fallback", "models"):
            values[name] = tuple(text for text in values[name] if text)
        for name in ("model", "predictor", "device", "predictor_device"):
            if not values[name].strip():
                raise SettingError(name, values[name], "not empty")
        return Settings(**values)

    def _declare(self, name: str) -> None:
        default = getattr(DEFAULTS, name)
        # An empty list has no type of its own in ROS, a list of one empty string has.
        value = [""] if default == () else default
        descriptor = parameter_descriptor(name, SPECS[name], value)
        try:
            self._node.declare_parameter(name, value, descriptor)
        except (InvalidParameterTypeException, InvalidParameterValueException) as fault:
            self._faults[name] = MisfitOverride(name, fault)
            self._node.declare_parameter(name, value, descriptor, ignore_override=True)
        if self._node.get_parameter_or(name).value is None:
            # An empty list in a file, which ROS takes for no value.
            self._node.set_parameters([Parameter(name, value=value)])

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuse, with the reason, what cannot change now; ranges were checked by ROS.

        An equal value is no change, so that a dump of the parameters can be loaded at any time.
        """
        if self._apply is None:
            return SetParametersResult(successful=True)
        for parameter in parameters:
            name = parameter.name
            fixed = name == _SIMULATED_TIME or (name in SPECS and not SPECS[name].live)
            if fixed and self._node.get_parameter(name).value != parameter.value:
                reason = f"{name} is read when the node is configured: clean up first"
                return SetParametersResult(successful=False, reason=reason)
        changed = _ours(parameters)
        try:
            decisions(self._settings(changed))
        except SettingError as error:
            return SetParametersResult(successful=False, reason=harmless_line(str(error)))
        return SetParametersResult(successful=True)

    def _take_over(self, parameters: list[Parameter]) -> None:
        changed = _ours(parameters)
        for name in changed:
            self._faults.pop(name, None)
        if changed and self._apply is not None:
            self._apply(self._settings({}))


def _ours(parameters: list[Parameter]) -> dict[str, Any]:
    """Name and value of those that are settings; rclpy declares others of its own."""
    return {p.name: p.value for p in parameters if p.name in SPECS}


def parameter_descriptor(name: str, spec: Spec, value: object) -> ParameterDescriptor:
    """What ROS is told of a parameter: description, range, constraints."""
    descriptor = ParameterDescriptor(
        name=name,
        description=spec.description,
        additional_constraints=spec.stated_constraints,
    )
    if spec.range is not None and isinstance(value, int):
        bounds = IntegerRange(from_value=int(spec.range.low), to_value=int(spec.range.high), step=1)
        descriptor.integer_range = [bounds]
    elif spec.range is not None:
        # What is no float in a message's field is sent as garbage.
        low, high = float(spec.range.low), float(spec.range.high)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor
