# SPDX-License-Identifier: Apache-2.0
"""The vehicle's speed, mode and objects, as Autoware last told them."""

from __future__ import annotations

import math
import time
from collections import Counter
from functools import partial
from typing import Any

from geometry_msgs.msg import Pose, Quaternion, Vector3
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from timebill_ros.autoware.interfaces import ad_api
from timebill_ros.autoware.refusal import Refusal, Refused
from timebill_ros.autoware.scene import Ego, Obstacle
from timebill_ros.autoware.settings import AdapterSettings

# Streams: only the last message counts, and any publisher's reliability will do.
_STREAM = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# States of the AD API are kept for those who come later.
STATE_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Surroundings:
    """Keeps the last message of each input.

    Attributes:
        heard: how many messages of each input have come.
    """

    def __init__(self, node: Node, settings: AdapterSettings) -> None:
        """Subscribe on ``node``.

        Raises:
            InterfacesMissing: the AD API's messages are not installed.
        """
        messages = ad_api("msg")
        self._settings = settings
        self.heard: Counter[str] = Counter()
        self._last: dict[str, tuple[Any, float]] = {}
        self._topics: dict[str, str] = {}
        for name, kind, qos in (
            ("kinematic_state", Odometry, _STREAM),
            ("objects", messages.DynamicObjectArray, _STREAM),
            ("operation_mode", messages.OperationModeState, STATE_QOS),
        ):
            keep = partial(self._keep, name)
            subscription = node.create_subscription(kind, f"~/input/{name}", keep, qos)
            self._topics[name] = subscription.topic_name

    def look(self) -> tuple[Ego, list[Obstacle]]:
        """The vehicle and the objects around it.

        Raises:
            Refused: NO_CONTEXT, where an input is missing, old or no number: a scene without the
                truck that stands there is worse than none.
        """
        state: Odometry = self._recent("kinematic_state")
        objects = self._recent("objects")
        mode = self._recent("operation_mode", forever=True).mode
        modes = self._settings.modes
        frames = {state.header.frame_id: state.pose.pose, state.child_frame_id: Pose()}
        origin = frames.get(objects.header.frame_id)
        if origin is None:
            raise Refused(
                Refusal.NO_CONTEXT,
                f"{self._topics['objects']} is in the frame {objects.header.frame_id!r}, not in "
                f"{' or '.join(map(repr, frames))}",
            )
        ego = Ego(_length(state.twist.twist.linear), modes[mode] if mode < len(modes) else modes[0])
        obstacles = [self._obstacle(item, origin) for item in objects.objects]
        if not math.isfinite(ego.speed) or not all(map(_finite, obstacles)):
            raise Refused(Refusal.NO_CONTEXT, "a number of the scene is not finite")
        return ego, obstacles

    def _obstacle(self, item: Any, origin: Pose) -> Obstacle:
        kinds, kinematics = self._settings.kinds, item.kinematics
        likely = max(item.classification, key=lambda c: c.probability, default=None)
        label = likely.label if likely is not None and likely.label < len(kinds) else 0
        yaw = yaw_of(origin.orientation)
        east = kinematics.pose.position.x - origin.position.x
        north = kinematics.pose.position.y - origin.position.y
        return Obstacle(
            kind=kinds[label],
            ahead=math.cos(yaw) * east + math.sin(yaw) * north,
            left=math.cos(yaw) * north - math.sin(yaw) * east,
            speed=_length(kinematics.twist.linear),
            heading=yaw_of(kinematics.pose.orientation) - yaw,
        )

    def _keep(self, name: str, message: Any) -> None:
        self._last[name] = (message, time.monotonic())
        self.heard[name] += 1

    def _recent(self, name: str, *, forever: bool = False) -> Any:
        message, arrived = self._last.get(name, (None, 0.0))
        topic = self._topics[name]
        if message is None:
            raise Refused(Refusal.NO_CONTEXT, f"nothing has come on {topic}")
        age = time.monotonic() - arrived
        if not forever and age > self._settings.context_age:
            raise Refused(Refusal.NO_CONTEXT, f"nothing has come on {topic} for {age:.1f} s")
        return message


def yaw_of(rotation: Quaternion) -> float:
    """The turn about the vertical axis, rad."""
    x, y, z, w = rotation.x, rotation.y, rotation.z, rotation.w
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def _finite(o: Obstacle) -> bool:
    return all(map(math.isfinite, (o.ahead, o.left, o.speed, o.heading)))


def _length(vector: Vector3) -> float:
    return math.hypot(vector.x, vector.y)
