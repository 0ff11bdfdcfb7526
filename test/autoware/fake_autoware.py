# SPDX-License-Identifier: Apache-2.0
"""A small Autoware: the AD API's services and topics under their documented names."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.topics import INSTRUCTION_QOS, OUTCOME_QOS

if TYPE_CHECKING:
    from timebill_ros.autoware.adapter_node import AutowareAdapter

PATIENCE = 120.0
# Nothing is too old because the machine is busy.
PATIENT = {"diagnostics_period": 0.1, "max_age": 60.0, "context_age": 60.0}
STOP, AUTONOMOUS = "/api/operation_mode/change_to_stop", "/api/operation_mode/change_to_autonomous"
SET, CHANGE = "/api/routing/set_route_points", "/api/routing/change_route_points"
CLEAR = "/api/routing/clear_route"
DEPOT = {"goals": ["depot"], "pose__depot": [10.0, -20.0, 1.5, math.pi / 2]}
TO_DEPOT = '{"command": "change_goal", "goal": "depot"}'
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REMAPS = {
    "~/output/velocity_limit": "/planning/scenario_planning/max_velocity_candidates",
    "~/output/clear_velocity_limit": "/planning/scenario_planning/clear_velocity_limit",
    "~/input/kinematic_state": "/localization/kinematic_state",
    "~/input/operation_mode": "/api/operation_mode/state",
    "~/input/objects": "/api/perception/objects",
    "~/input/response": "/llm/output/response",
    "~/input/overrun": "/llm/output/overrun",
    "~/output/instruction": "/llm/input/instruction",
}


class FakeAutoware:
    """Serves the AD API, stands in for the language model's node, and spins with the adapter.

    Attributes:
        served: names of the services that are there.
        calls: names of the services that were called, in order, with their requests.
        answers: by service name, (success, code, message); success where there is none.
        limits, clears, instructions, diagnostics: what was published.
    """

    def __init__(
        self,
        context: Context,
        *,
        absent: tuple[str, ...] = (),
        limited: bool = True,
        listens: bool = True,
    ) -> None:
        """A small Autoware that is whole unless told otherwise.

        Args:
            context: initialised.
            absent: names of services that are not there.
            limited: whether it takes velocity limits.
            listens: whether it also takes instructions, as the language model's node does.
        """
        from autoware_adapi_v1_msgs import msg, srv
        from autoware_internal_planning_msgs.msg import VelocityLimit, VelocityLimitClearCommand

        self.msg = msg
        self.limited = limited
        self.executor = SingleThreadedExecutor(context=context)
        node = self.node = Node("fake_autoware", context=context)
        self.executor.add_node(node)
        self.calls: list[tuple[str, Any]] = []
        self.answers: dict[str, tuple[bool, int, str]] = {}
        self.limits: list[VelocityLimit] = []
        self.clears: list[VelocityLimitClearCommand] = []
        self.instructions: list[Instruction] = []
        self.diagnostics: list[DiagnosticArray] = []
        services = {
            STOP: srv.ChangeOperationMode,
            AUTONOMOUS: srv.ChangeOperationMode,
            CLEAR: srv.ClearRoute,
            SET: srv.SetRoutePoints,
            CHANGE: srv.SetRoutePoints,
        }
        self.served = set(services) - set(absent)
        for name in self.served:
            node.create_service(services[name], name, self._serve(name))
        candidates = REMAPS["~/output/velocity_limit"]
        instructions = (
            Instruction,
            "/llm/input/instruction",
            self.instructions,
            INSTRUCTION_QOS,
        )
        for kind, topic, kept, qos in (
            *([(VelocityLimit, candidates, self.limits, LATCHED)] if limited else []),
            (VelocityLimitClearCommand, REMAPS["~/output/clear_velocity_limit"], self.clears, 1),
            *([instructions] if listens else []),
            (DiagnosticArray, "/diagnostics", self.diagnostics, 10),
        ):
            node.create_subscription(kind, topic, kept.append, qos)
        self.responses = node.create_publisher(Response, "/llm/output/response", OUTCOME_QOS)
        self.overruns = node.create_publisher(Overrun, "/llm/output/overrun", OUTCOME_QOS)
        self.texts = node.create_publisher(String, "/autoware_adapter/input/command", 10)
        self._route = node.create_publisher(msg.RouteState, "/api/routing/state", LATCHED)
        self._mode = node.create_publisher(
            msg.OperationModeState, "/api/operation_mode/state", LATCHED
        )
        self._odometry = node.create_publisher(Odometry, "/localization/kinematic_state", 1)
        self._objects = node.create_publisher(msg.DynamicObjectArray, "/api/perception/objects", 1)

    def adapter(self, context: Context, **parameters: object) -> AutowareAdapter:
        """The adapter, remapped to this Autoware and found by it."""
        from timebill_ros.autoware.adapter_node import AutowareAdapter

        remaps = [f"{own}:={other}" for own, other in REMAPS.items()]
        adapter = AutowareAdapter(
            context=context,
            cli_args=["--ros-args", *(part for remap in remaps for part in ("-r", remap))],
            parameter_overrides=[
                Parameter(name.replace("__", "."), value=value)
                for name, value in {**PATIENT, **parameters}.items()
            ],
        )
        self.executor.add_node(adapter)
        [limits] = [p for p in adapter.publishers if p.topic_name.endswith("candidates")]
        self.until(
            lambda: (
                limits.get_subscription_count() == int(self.limited)
                and self.responses.get_subscription_count() == 1
                and self.overruns.get_subscription_count() == 1
                and self.texts.get_subscription_count() == 1
                and all(
                    client.service_is_ready()
                    for client in adapter.clients
                    if client.srv_name in self.served
                )
            )
        )
        return adapter

    def answer(self, id: str, text: str, *, age: float = 0.1, **fields: object) -> None:
        """Publish a response as the language model's node would, ``age`` s after its release."""
        now_ns = self.node.get_clock().now().nanoseconds - round(age * 1e9)
        message = Response(id=id, text=text, **{"finish_reason": Response.EOS, **fields})
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        self.responses.publish(message)

    def reaches(self, adapter: AutowareAdapter, service: str) -> None:
        """Wait until the adapter sees a service, which another executor may serve."""
        [client] = [client for client in adapter.clients if client.srv_name == service]
        self.until(client.service_is_ready)

    def tell_scene(self, adapter: AutowareAdapter, tell: Callable[[], None]) -> None:
        """Publish odometry and objects, and wait until the adapter has both, and the mode."""
        heard = adapter.surroundings.heard.copy()
        tell()
        fresh = ("kinematic_state", "objects")
        self.until(
            lambda: (
                adapter.surroundings.heard["operation_mode"] > 0
                and all(adapter.surroundings.heard[name] > heard[name] for name in fresh)
            )
        )

    def route(self, state: str) -> None:
        self._route.publish(self.msg.RouteState(state=getattr(self.msg.RouteState, state)))

    def mode(self, mode: str) -> None:
        state = self.msg.OperationModeState
        self._mode.publish(state(mode=getattr(state, mode)))

    def drive(self, *, speed: float, x: float = 0.0, y: float = 0.0, yaw: tuple = (0, 1)) -> None:
        """Tell where the vehicle is; ``yaw`` is the quaternion's (z, w)."""
        odometry = Odometry(child_frame_id="base_link")
        odometry.header.frame_id = "map"
        odometry.pose.pose.position.x, odometry.pose.pose.position.y = x, y
        odometry.pose.pose.orientation.z, odometry.pose.pose.orientation.w = map(float, yaw)
        odometry.twist.twist.linear.x = speed
        self._odometry.publish(odometry)

    def see(self, *objects: tuple[str, float, float, float], frame: str = "map") -> None:
        """Tell of objects: (class, x, y, speed)."""
        array = self.msg.DynamicObjectArray()
        array.header.frame_id = frame
        for kind, x, y, speed in objects:
            item = self.msg.DynamicObject(existence_probability=1.0)
            label = getattr(self.msg.ObjectClassification, kind)
            item.classification = [
                self.msg.ObjectClassification(label=0, probability=0.1),
                self.msg.ObjectClassification(label=label, probability=0.9),
            ]
            item.kinematics.pose.position.x, item.kinematics.pose.position.y = x, y
            item.kinematics.twist.linear.x = speed
            array.objects.append(item)
        self._objects.publish(array)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        """Destroy every node that spins here, the adapter too."""
        for node in self.executor.get_nodes():
            node.destroy_node()
        self.executor.shutdown()

    def count(self, name: str) -> int:
        """The last diagnostics' figure of this name."""
        if not self.diagnostics:
            return 0
        values = {value.key: value.value for value in self.diagnostics[-1].status[0].values}
        return int(values[name])

    @property
    def called(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _serve(self, name: str) -> Callable[[Any, Any], Any]:
        def serve(request: Any, response: Any) -> Any:
            self.calls.append((name, request))
            answer = self.answers.get(name, (True, 0, ""))
            response.status.success, response.status.code, response.status.message = answer
            return response

        return serve
