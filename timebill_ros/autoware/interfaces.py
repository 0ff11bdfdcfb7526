# SPDX-License-Identifier: Apache-2.0
"""Autoware's message packages, which are looked for when the adapter starts.

The names and fields that are used here are those of autoware_adapi_v1_msgs 1.9 and
autoware_internal_planning_msgs 1.12:

- ``/api/operation_mode/change_to_autonomous``, ``/api/operation_mode/change_to_stop``:
  ``srv/ChangeOperationMode``, answered with a ``ResponseStatus`` (success, code, message).
- ``/api/routing/set_route_points`` (accepted while the route is UNSET),
  ``/api/routing/change_route_points`` (while it is SET): ``srv/SetRoutePoints`` (header, option,
  goal, waypoints); ``/api/routing/clear_route``: ``srv/ClearRoute``; ``/api/routing/state``:
  ``msg/RouteState``.
- ``/api/operation_mode/state``: ``msg/OperationModeState``; ``/api/perception/objects``:
  ``msg/DynamicObjectArray``.
- ``/planning/scenario_planning/max_velocity_candidates``: ``msg/VelocityLimit`` (stamp,
  max_velocity in m/s, use_constraints, constraints, sender), one candidate per sender, of which
  Autoware's velocity limit selector takes the lowest;
  ``/planning/scenario_planning/clear_velocity_limit``: ``msg/VelocityLimitClearCommand`` (stamp,
  command, sender) takes a sender's candidate back.
"""

from __future__ import annotations

import importlib
from types import ModuleType

AD_API = "autoware_adapi_v1_msgs"
PLANNING = "autoware_internal_planning_msgs"


class InterfacesMissing(RuntimeError):
    """A message package of Autoware's is not installed."""

    def __init__(self, package: str) -> None:
        """Name the package and where it comes from."""
        apt = f"ros-jazzy-{package.replace('_', '-')}"
        super().__init__(
            f"{package} is not installed: apt install {apt}, or source the workspace that Autoware "
            "was built in"
        )
        self.package = package


def ad_api(kind: str) -> ModuleType:
    """The messages ("msg") or services ("srv") of the AD API.

    Raises:
        InterfacesMissing: the package is not installed.
    """
    return _module(AD_API, kind)


def planning() -> ModuleType:
    """The messages of Autoware's planning.

    Raises:
        InterfacesMissing: the package is not installed.
    """
    return _module(PLANNING, "msg")


def _module(package: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{kind}")
    except ModuleNotFoundError as absent:
        if absent.name is not None and absent.name.split(".")[0] == package:
            raise InterfacesMissing(package) from None
        raise
