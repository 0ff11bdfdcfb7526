# SPDX-License-Identifier: Apache-2.0
"""The adapter between the language model's node and Autoware.

Its parameters come after --ros-args, as in: --ros-args --params-file adapter.yaml
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter, deque
from itertools import count
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args
from std_msgs.msg import String

import timebill_ros.msg as msg
from timebill_ros.autoware.command import Command, NotACommand, Stop, Vocabulary
from timebill_ros.autoware.interfaces import InterfacesMissing
from timebill_ros.autoware.refusal import Refusal, Refused, check_timely, overrun_refusal
from timebill_ros.autoware.settings import declared_goals, declared_settings, is_pose
from timebill_ros.autoware.surroundings import Surroundings
from timebill_ros.autoware.vehicle import Vehicle
from timebill_ros.budget.errors import SettingError
from timebill_ros.node.command_line import command_parser
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.node.diagnostics import TOPIC, status_name
from timebill_ros.node.topics import INSTRUCTION_QOS, OUTCOME_QOS
from timebill_ros.runtime.harmless import harmless_line

# A reason for refusing is logged at most this often, s; the diagnostics count all.
_WARN_PERIOD = 1.0
# Ids that were obeyed and must not be obeyed again.
_REMEMBERED = 1000


class AutowareAdapter(Node):
    """Carries out what a language model answers, where the answer is beyond doubt.

    A plain node, not a managed one: it loads nothing, so that there is nothing to configure, and it
    stops obeying at once when ``enabled`` is set to false.

    Attributes:
        surroundings: what is known of the scene.
        vehicle: what carries commands out.
        obeyed: ids of the latest answers whose command was carried out, or begun.
    """

    def __init__(self, **node_options: Any) -> None:
        """Read the parameters, open the topics.

        Raises:
            SettingError: a parameter that cannot be worked with, by name.
            InterfacesMissing: a message package of Autoware's is not installed.
        """
        super().__init__("autoware_adapter", **node_options)
        settings = self._settings = declared_settings(self)
        goals = declared_goals(self, settings.goals)
        self._enabled = settings.enabled
        self._vocabulary = Vocabulary(goals)
        self._counts: Counter[str] = Counter()
        self._news: str | None = None
        self._warned: dict[Refusal, int] = {}
        self.obeyed: deque[str] = deque(maxlen=_REMEMBERED)
        self._newest_release = 0
        self._numbers = count(1)
        self._session = uuid.uuid4().hex[:8]
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.surroundings = Surroundings(self, settings)
        self.vehicle = Vehicle(
            self,
            goals=goals,
            goal_frame=settings.goal_frame,
            timeout=settings.service_timeout,
            done=self._count_done,
            refused=self._refuse,
        )
        self._instructions = self.create_publisher(
            msg.Instruction, "~/output/instruction", INSTRUCTION_QOS
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, TOPIC, 10)
        self.create_subscription(msg.Response, "~/input/response", self._answer, OUTCOME_QOS)
        self.create_subscription(msg.Overrun, "~/input/overrun", self._no_answer, OUTCOME_QOS)
        self.create_subscription(String, "~/input/command", self._ask, INSTRUCTION_QOS)
        self.create_timer(settings.diagnostics_period, self._tell, clock=self._steady)
        self.add_on_set_parameters_callback(self._set)

    def _answer(self, response: msg.Response) -> None:
        """Carry the command out that an answer holds, if it is one of ours and in order."""
        if not response.id.startswith(self._settings.id_prefix):
            return
        try:
            command = self._checked(response)
        except Refused as refused:
            self._refuse(refused, response.id)
            return
        self.obeyed.append(response.id)
        self._newest_release = max(self._newest_release, nanoseconds(response.header.stamp))
        self.vehicle.carry_out(command)

    def _checked(self, response: msg.Response) -> Command:
        """The command of an answer that may be obeyed now."""
        if not self._enabled:
            raise Refused(Refusal.DISABLED, "the parameter enabled is false")
        if response.id in self.obeyed:
            raise Refused(Refusal.REPEATED, "it was carried out before")
        check_timely(
            response, now_ns=self.get_clock().now().nanoseconds, max_age=self._settings.max_age
        )
        try:
            command = self._vocabulary.read(response.text)
        except NotACommand as fault:
            raise Refused(Refusal.INVALID, str(fault)) from None
        # Answers come by deadline, not in the order in which they were asked for. Whoever said
        # "stop" after "resume" must not be driven on by the other's answer; stopping is safe.
        superseded = nanoseconds(response.header.stamp) < self._newest_release
        if superseded and not isinstance(command, Stop):
            raise Refused(Refusal.SUPERSEDED, "a later instruction was carried out before it")
        return command

    def _no_answer(self, overrun: msg.Overrun) -> None:
        if overrun.id.startswith(self._settings.id_prefix) and overrun.reason != msg.Overrun.LATE:
            self._refuse(overrun_refusal(overrun), overrun.id)

    def _ask(self, text: String) -> None:
        """Turn a command in words into an instruction that carries the scene."""
        settings = self._settings
        id = f"{settings.id_prefix}{self._session}-{next(self._numbers)}"
        try:
            ego, obstacles = self.surroundings.look()
        except Refused as refused:
            self._refuse(refused, id)
            return
        instruction = msg.Instruction(
            id=id,
            system=settings.template.write(ego, obstacles),
            prompt=text.data,
            budget=duration_msg(settings.budget),
            max_tokens=settings.max_tokens,
            response_schema=self._vocabulary.schema if settings.constrain else "",
        )
        instruction.header.stamp = self.get_clock().now().to_msg()
        self._instructions.publish(instruction)

    def _refuse(self, refused: Refused, id: str = "") -> None:
        """Count and warn; nothing else happens."""
        self._counts[refused.refusal] += 1
        about = f"{id}: " if id else ""
        self._news = harmless_line(f"{about}{refused.refusal}: {refused.detail}")
        now = self._steady.now().nanoseconds
        last = self._warned.get(refused.refusal)
        if last is None or now - last >= _WARN_PERIOD * 1e9:
            self._warned[refused.refusal] = now
            self.get_logger().warning(f"not carried out: {self._news}")

    def _count_done(self, command: Command) -> None:
        self._counts["done"] += 1
        self.get_logger().info(f"carried out: {harmless_line(str(command))}")

    def _tell(self) -> None:
        """Publish diagnostics: WARN where something was refused since the last message."""
        news, self._news = self._news, None
        idle = "carrying out commands" if self._enabled else "disabled"
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if news is None and self._enabled else DiagnosticStatus.WARN,
            name=status_name(self.get_fully_qualified_name(), "commands"),
            message=idle if news is None else news,
            hardware_id="autoware",
            values=[
                KeyValue(key=name, value=str(self._counts[name])) for name in ("done", *Refusal)
            ],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Take ``enabled`` over; everything else was read at the start."""
        ours = [p for p in parameters if hasattr(self._settings, p.name) or is_pose(p.name)]
        fixed = [p.name for p in ours if p.name != "enabled"]
        if fixed:
            reason = f"{fixed[0]} is read when the adapter starts"
            return SetParametersResult(successful=False, reason=reason)
        for parameter in ours:
            self._enabled = parameter.value
            if not self._enabled:
                self.vehicle.leave_routes()
        return SetParametersResult(successful=True)


def main(args: list[str] | None = None) -> int:
    """Run the adapter until it is interrupted; 1 where it cannot start."""
    parser = command_parser("autoware_adapter", __doc__)
    parser.parse_args(remove_ros_args(args)[1:])
    rclpy.init(args=args)
    node: AutowareAdapter | None = None
    try:
        node = AutowareAdapter()
        rclpy.spin(node)
    except (InterfacesMissing, SettingError, ParameterException) as failure:
        print(f"autoware_adapter: {harmless_line(str(failure))}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
