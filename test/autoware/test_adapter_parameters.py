# SPDX-License-Identifier: Apache-2.0
"""What the adapter takes at its start, and what may change while it runs."""

from __future__ import annotations

import pytest
from rclpy.context import Context
from rclpy.parameter import Parameter

from timebill_ros.autoware.refusal import Refusal
from timebill_ros.budget.errors import SettingError

from .fake_autoware import FakeAutoware


def test_it_is_cut_off_while_it_runs(autoware: FakeAutoware, ros_context: Context) -> None:
    adapter = autoware.adapter(ros_context)
    [done] = adapter.set_parameters([Parameter("enabled", value=False)])
    assert done.successful
    autoware.answer("drive/1", '{"command": "resume"}')
    autoware.until(lambda: autoware.count(Refusal.DISABLED) == 1)
    assert autoware.called == []


@pytest.mark.parametrize("parameter", [("id_prefix", ""), ("pose.depot", [0.0, 0.0, 0.0, 0.0])])
def test_what_was_read_at_the_start_cannot_change(
    autoware: FakeAutoware, ros_context: Context, parameter: tuple[str, object]
) -> None:
    adapter = autoware.adapter(ros_context, goals=["depot"], pose__depot=[1.0, 2.0, 0.0, 0.5])
    name, value = parameter
    [refused] = adapter.set_parameters([Parameter(name, value=value)])
    assert refused.reason == f"{name} is read when the adapter starts"


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"goals": ["depot"]}, r"pose\.depot must be x, y, z in m and yaw in rad"),
        ({"goals": ["depot"], "pose__depot": [1.0, 2.0]}, r"pose\.depot must be"),
        ({"id_prefix": ""}, "id_prefix must be not empty"),
        ({"ego_template": "{wheels}"}, "ego_template must be made of"),
    ],
)
def test_a_bad_parameter_is_named(
    autoware: FakeAutoware, ros_context: Context, parameters: dict, fault: str
) -> None:
    with pytest.raises(SettingError, match=fault):
        autoware.adapter(ros_context, **parameters)
