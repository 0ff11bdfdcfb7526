# SPDX-License-Identifier: Apache-2.0
"""What the vehicle sees, from messages that need no publisher."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from geometry_msgs.msg import Quaternion
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from timebill_ros.autoware import surroundings
from timebill_ros.autoware.refusal import Refusal, Refused
from timebill_ros.autoware.scene import Ego, Obstacle
from timebill_ros.autoware.settings import AdapterSettings
from timebill_ros.autoware.surroundings import Surroundings, yaw_of

AUTONOMOUS = 2
TRUCK, PEDESTRIAN = 2, 7


class Inputs:
    """A node's subscriptions, called at once, and a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: dict[str, Callable[[Any], None]] = {}
        self.qos: dict[str, Any] = {}

    def create_subscription(
        self, kind: object, topic: str, keep: Callable[[Any], None], qos: object
    ) -> SimpleNamespace:
        name = topic.rpartition("/")[2]
        self.told[name], self.qos[name] = keep, qos
        return SimpleNamespace(topic_name=f"/adapter/{name}")

    def drive(
        self,
        speed: tuple[float, float] = (0.0, 0.0),
        x: float = 0.0,
        y: float = 0.0,
        yaw: float = 0,
    ) -> None:
        state = Odometry(child_frame_id="base_link")
        state.header.frame_id = "map"
        state.twist.twist.linear.x, state.twist.twist.linear.y = speed
        state.pose.pose.position.x, state.pose.pose.position.y = x, y
        state.pose.pose.orientation = turned(yaw)
        self.told["kinematic_state"](state)

    def see(self, *objects: SimpleNamespace, frame: str = "map") -> None:
        self.told["objects"](
            SimpleNamespace(header=SimpleNamespace(frame_id=frame), objects=list(objects))
        )

    def mode(self, mode: int = AUTONOMOUS) -> None:
        self.told["operation_mode"](SimpleNamespace(mode=mode))


def turned(yaw: float) -> Quaternion:
    return Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))


def item(
    *labels: tuple[int, float], x: float = 1.0, y: float = 0.0, yaw: float = 0.0, speed: float = 0.0
) -> SimpleNamespace:
    """An object with classes and their probabilities, where it is and goes."""
    state = Odometry()
    state.pose.pose.position.x, state.pose.pose.position.y = x, y
    state.pose.pose.orientation = turned(yaw)
    state.twist.twist.linear.x = speed
    return SimpleNamespace(
        classification=[SimpleNamespace(label=label, probability=p) for label, p in labels],
        kinematics=SimpleNamespace(pose=state.pose.pose, twist=state.twist.twist),
    )


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> Inputs:
    inputs = Inputs()
    kinds = SimpleNamespace(DynamicObjectArray=object, OperationModeState=object)
    monkeypatch.setattr(surroundings, "ad_api", lambda _: kinds)
    monkeypatch.setattr(surroundings, "time", SimpleNamespace(monotonic=lambda: inputs.now))
    return inputs


@pytest.fixture
def seen(inputs: Inputs) -> Surroundings:
    return Surroundings(inputs, AdapterSettings(context_age=1.0))  # type: ignore[arg-type]


def refused(seen: Surroundings) -> str:
    with pytest.raises(Refused) as caught:
        seen.look()
    assert caught.value.refusal is Refusal.NO_CONTEXT
    return caught.value.detail


@pytest.mark.parametrize("yaw", [0.0, 0.5, math.pi / 2, -3.0])
def test_objects_are_told_as_the_vehicle_sees_them(
    inputs: Inputs, seen: Surroundings, yaw: float
) -> None:
    inputs.mode()
    inputs.drive(speed=(3.0, 4.0), x=10.0, y=-5.0, yaw=yaw)
    ahead = (math.cos(yaw), math.sin(yaw))
    # 20 m ahead and 3 m to the left, going off to the right.
    where = {
        "x": 10.0 + 20.0 * ahead[0] - 3.0 * ahead[1],
        "y": -5.0 + 20.0 * ahead[1] + 3.0 * ahead[0],
    }
    inputs.see(item((TRUCK, 0.9), yaw=yaw - 0.3, speed=7.0, **where))
    ego, [truck] = seen.look()
    assert ego == Ego(5.0, "autonomous")
    assert (truck.kind, truck.speed) == ("truck", 7.0)
    assert (truck.ahead, truck.left) == (pytest.approx(20.0), pytest.approx(3.0))
    assert math.remainder(truck.heading, math.tau) == pytest.approx(-0.3)


def test_in_the_vehicle_s_own_frame_nothing_is_moved(inputs: Inputs, seen: Surroundings) -> None:
    inputs.mode()
    inputs.drive(x=100.0, yaw=1.0)
    inputs.see(item((PEDESTRIAN, 1.0), x=8.0, y=-2.0), frame="base_link")
    assert seen.look()[1] == [Obstacle("pedestrian", 8.0, -2.0, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([(PEDESTRIAN, 0.2), (TRUCK, 0.7), (1, 0.1)], "truck"),
        ([(200, 0.9), (TRUCK, 0.1)], "barrier"),  # a class that is newer than we are
        ([(8, 1.0)], "barrier"),
        ([], "barrier"),
    ],
)
def test_the_likeliest_class_that_there_is_a_word_for_counts(
    inputs: Inputs, seen: Surroundings, labels: list[tuple[int, float]], kind: str
) -> None:
    inputs.mode()
    inputs.drive()
    inputs.see(item(*labels))
    assert [obstacle.kind for obstacle in seen.look()[1]] == [kind]


@pytest.mark.parametrize(("mode", "word"), [(1, "stopped"), (4, "remote"), (5, "unknown")])
def test_a_mode_without_a_word_is_unknown(
    inputs: Inputs, seen: Surroundings, mode: int, word: str
) -> None:
    inputs.mode(mode)
    inputs.drive()
    inputs.see()
    assert seen.look() == (Ego(0.0, word), [])


@pytest.mark.parametrize("absent", ["kinematic_state", "objects", "operation_mode"])
def test_every_input_is_needed(inputs: Inputs, seen: Surroundings, absent: str) -> None:
    inputs.told[absent] = lambda _: None
    inputs.mode()
    inputs.drive()
    inputs.see()
    assert refused(seen) == f"nothing has come on /adapter/{absent}"


@pytest.mark.parametrize("old", ["kinematic_state", "objects"])
def test_speed_and_objects_grow_old_and_the_mode_does_not(
    inputs: Inputs, seen: Surroundings, old: str
) -> None:
    inputs.mode()
    inputs.now += 50.0
    inputs.drive()
    inputs.see()
    inputs.now += 1.0
    seen.look()
    inputs.now += 0.5
    if old == "objects":
        inputs.drive()
    else:
        inputs.see()
    assert refused(seen) == f"nothing has come on /adapter/{old} for 1.5 s"


def test_a_foreign_frame_is_named_with_those_that_would_do(
    inputs: Inputs, seen: Surroundings
) -> None:
    inputs.mode()
    inputs.drive()
    inputs.see(frame="camera")
    assert refused(seen).endswith("is in the frame 'camera', not in 'map' or 'base_link'")


@pytest.mark.parametrize("field", ["x", "y", "yaw", "speed"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_of_an_object_may_be_none(
    inputs: Inputs, seen: Surroundings, field: str, value: float
) -> None:
    inputs.mode()
    inputs.drive()
    odd = item((TRUCK, 1.0), **{} if field == "yaw" else {field: value})
    if field == "yaw":
        odd.kinematics.pose.orientation.z = math.nan
    inputs.see(item((TRUCK, 1.0)), odd)
    assert refused(seen) == "a number of the scene is not finite"


def test_streams_take_any_publisher_and_the_mode_is_had_by_who_comes_late(inputs: Inputs) -> None:
    Surroundings(inputs, AdapterSettings())  # type: ignore[arg-type]
    for stream in ("kinematic_state", "objects"):
        assert inputs.qos[stream].reliability is ReliabilityPolicy.BEST_EFFORT
        assert inputs.qos[stream].depth == 1
    assert inputs.qos["operation_mode"].durability is DurabilityPolicy.TRANSIENT_LOCAL


def test_yaw_ignores_a_slope() -> None:
    # Turned by 1 rad about the vertical axis, then pitched up by 0.1 rad.
    half, pitch = 0.5, 0.05
    slope = Quaternion(
        x=-math.sin(half) * math.sin(pitch),
        y=math.cos(half) * math.sin(pitch),
        z=math.sin(half) * math.cos(pitch),
        w=math.cos(half) * math.cos(pitch),
    )
    assert yaw_of(slope) == pytest.approx(1.0)
