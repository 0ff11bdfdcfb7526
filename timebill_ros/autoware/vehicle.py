# SPDX-License-Identifier: Apache-2.0
"""Carries commands out through Autoware's AD API, without ever waiting for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from geometry_msgs.msg import Pose
from rclpy.client import Client
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from rclpy.timer import Timer

from timebill_ros.autoware.command import ChangeGoal, Command, Resume, Stop, VelocityLimit
from timebill_ros.autoware.interfaces import ad_api, planning
from timebill_ros.autoware.refusal import Refusal, Refused
from timebill_ros.autoware.settings import GoalPose
from timebill_ros.autoware.surroundings import STATE_QOS

# Time between two attempts to stop while Autoware is between two modes, s.
_RETRY = 0.2
# Autoware keeps one velocity limit for each sender.
_SENDER = "timebill_ros"


class Vehicle:
    """The services and topics of Autoware that a command needs.

    What becomes of a command is told to ``done`` or ``refused``, which are called on the executor's
    thread: at once, or when a service has answered or has not in time.

    Attributes:
        route_state: of Autoware's route, by the AD API's numbers; None until it was told.
    """

    def __init__(
        self,
        node: Node,
        *,
        goals: Mapping[str, GoalPose],
        goal_frame: str,
        timeout: float,
        done: Callable[[Command], None],
        refused: Callable[[Refused], None],
    ) -> None:
        """Create publishers and clients on ``node``; services may come later.

        Raises:
            InterfacesMissing: a message package of Autoware's is not installed.
        """
        self._node, self._timeout = node, timeout
        self._goals, self._goal_frame = goals, goal_frame
        self._done, self._refused = done, refused
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._messages, self._services = ad_api("msg"), ad_api("srv")
        limits = self._limits = planning()
        self._limit = node.create_publisher(
            limits.VelocityLimit, "~/output/velocity_limit", STATE_QOS
        )
        self._clear_limit = node.create_publisher(
            limits.VelocityLimitClearCommand, "~/output/clear_velocity_limit", STATE_QOS
        )
        change, points = self._services.ChangeOperationMode, self._services.SetRoutePoints
        self._to_stop = node.create_client(change, "/api/operation_mode/change_to_stop")
        self._to_autonomous = node.create_client(change, "/api/operation_mode/change_to_autonomous")
        self._set_route = node.create_client(points, "/api/routing/set_route_points")
        self._change_route = node.create_client(points, "/api/routing/change_route_points")
        self._clear_route = node.create_client(
            self._services.ClearRoute, "/api/routing/clear_route"
        )
        self.route_state: int | None = None
        self._limit_stands = False
        self._routes_asked = self._limits_asked = self._modes_asked = 0
        node.create_subscription(
            self._messages.RouteState, "/api/routing/state", self._keep_route_state, STATE_QOS
        )

    def carry_out(self, command: Command) -> None:
        """Begin with a command; returns at once."""
        match command:
            case VelocityLimit(velocity):
                self._limit_velocity(velocity, lambda: self._done(command))
            case Stop():
                self.leave_routes()
                self._modes_asked += 1
                end = self._steady.now() + Duration(seconds=self._timeout)
                self._stop(command, end, self._modes_asked)
            case Resume():
                self._modes_asked += 1
                asked = self._limits_asked
                self._change_mode(self._to_autonomous, lambda: self._drive_freely(command, asked))
            case ChangeGoal(goal):
                self._routes_asked += 1
                self._go_to(self._points(self._goals[goal]), lambda: self._done(command))

    def leave_routes(self) -> None:
        """Set no route any more that waits to be set: neither after a stop nor once cut off."""
        self._routes_asked += 1

    def _limit_velocity(self, velocity: float, then: Callable[[], None]) -> None:
        """Publish a candidate, unless only a later listener could take it: it would surprise."""
        if self._limit.get_subscription_count() == 0:
            detail = f"{self._limit.topic_name}: nobody takes velocity limits"
            self._refused(Refused(Refusal.ABSENT, detail))
            return
        stamp = self._node.get_clock().now().to_msg()
        limit = self._limits.VelocityLimit(stamp=stamp, sender=_SENDER)
        limit.max_velocity = velocity
        self._limits_asked += 1
        self._limit_stands = True
        self._limit.publish(limit)
        then()

    def _stop(self, command: Command, end: Time, asked: int) -> None:
        """Stop; while Autoware refuses because it is between two modes, try again until ``end``."""
        if asked != self._modes_asked:
            detail = "a later command came before the vehicle could be stopped"
            self._refused(Refused(Refusal.SUPERSEDED, detail))
            return

        def again(status: Any) -> bool:
            between = self._services.ChangeOperationMode.Response.ERROR_IN_TRANSITION
            if status.code != between or self._steady.now() >= end:
                return False
            self._after(_RETRY, lambda: self._stop(command, end, asked))
            return True

        request = self._services.ChangeOperationMode.Request()
        self._call(self._to_stop, request, lambda: self._done(command), again)

    def _change_mode(self, client: Client, then: Callable[[], None]) -> None:
        self._call(client, self._services.ChangeOperationMode.Request(), then)

    def _drive_freely(self, command: Command, limits_asked: int) -> None:
        """Take the limit back that an earlier command set, not a later one or somebody else's.

        Where none stands nothing is sent: some versions of Autoware's velocity limit selector take
        a clear for a sender without a limit as a limit of 0 m/s.
        """
        if self._limit_stands and limits_asked == self._limits_asked:
            self._limit_stands = False
            clear = self._limits.VelocityLimitClearCommand(command=True, sender=_SENDER)
            clear.stamp = self._node.get_clock().now().to_msg()
            self._clear_limit.publish(clear)
        self._done(command)

    def _go_to(self, points: Any, then: Callable[[], None]) -> None:
        """Set the route in the way that its present state allows."""
        states, asked = self._messages.RouteState, self._routes_asked
        if self.route_state == states.UNSET:
            self._call(self._set_route, points, then)
        elif self.route_state == states.SET:
            self._call(self._change_route, points, then)
        elif self.route_state == states.ARRIVED:

            def set_anew() -> None:
                if asked == self._routes_asked:
                    self._call(self._set_route, points, then)
                else:
                    detail = "it was withdrawn before its route could be set"
                    self._refused(Refused(Refusal.SUPERSEDED, detail))

            self._call(self._clear_route, self._services.ClearRoute.Request(), set_anew)
        else:
            told = "has not come" if self.route_state is None else f"is {self.route_state}"
            detail = f"/api/routing/state {told}: no route can be set now"
            self._refused(Refused(Refusal.STATE, detail))

    def _points(self, goal: GoalPose) -> Any:
        request = self._services.SetRoutePoints.Request()
        request.header.frame_id = self._goal_frame
        request.header.stamp = self._node.get_clock().now().to_msg()
        request.goal = _pose(goal)
        return request

    def _call(
        self,
        client: Client,
        request: Any,
        then: Callable[[], None],
        otherwise: Callable[[Any], bool] | None = None,
    ) -> None:
        """Call a service; ``then`` where it succeeded, otherwise tell what was wrong.

        ``otherwise`` is asked first what to do about a failure: True where it sees to it.
        """
        name = client.srv_name
        if not client.service_is_ready():
            self._refused(Refused(Refusal.ABSENT, f"{name}: there is no such service"))
            return
        future = client.call_async(request)

        def expire() -> None:
            client.remove_pending_request(future)
            future.cancel()
            detail = f"{name}: no answer within {self._timeout:g} s"
            self._refused(Refused(Refusal.TIMEOUT, detail))

        def answered(_: Any) -> None:
            if future.cancelled():
                return
            self._node.destroy_timer(timer)
            status = future.result().status
            if status.success:
                then()
            elif otherwise is None or not otherwise(status):
                detail = f"{name}: {status.message} (code {status.code})"
                self._refused(Refused(Refusal.FAILED, detail))

        timer = self._after(self._timeout, expire)
        future.add_done_callback(answered)

    def _after(self, delay: float, do: Callable[[], None]) -> Timer:
        """Do something once, ``delay`` s of real time from now."""

        def once() -> None:
            self._node.destroy_timer(timer)
            do()

        timer = self._node.create_timer(delay, once, clock=self._steady)
        return timer

    def _keep_route_state(self, message: Any) -> None:
        self.route_state = message.state


def _pose(goal: GoalPose) -> Pose:
    x, y, z, yaw = goal
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = x, y, z
    pose.orientation.z, pose.orientation.w = math.sin(yaw / 2.0), math.cos(yaw / 2.0)
    return pose
