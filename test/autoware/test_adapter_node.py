# SPDX-License-Identifier: Apache-2.0
"""The adapter over DDS, between a stand-in for the language model and a small Autoware."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from std_msgs.msg import String

from timebill_ros.autoware.refusal import Refusal
from timebill_ros.msg import Overrun, Response
from timebill_ros.node.conversions import nanoseconds

from .fake_autoware import AUTONOMOUS, CHANGE, CLEAR, DEPOT, SET, STOP, TO_DEPOT, FakeAutoware


def test_stop_and_resume_change_the_operation_mode(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.adapter(ros_context)
    autoware.answer("drive/1", '{"command": "stop"}')
    autoware.until(lambda: autoware.called == [STOP])
    autoware.answer("drive/2", '{"command": "resume"}')
    autoware.until(lambda: autoware.called == [STOP, AUTONOMOUS])
    autoware.until(lambda: autoware.count("done") == 2)


def test_resuming_takes_a_limit_back_that_stands_and_no_other(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.adapter(ros_context)
    resume = '{"command": "resume"}'
    autoware.answer("drive/1", resume)
    autoware.until(lambda: autoware.count("done") == 1)
    autoware.answer("drive/2", '{"command": "velocity_limit", "velocity_mps": 12}')
    autoware.answer("drive/3", resume)
    autoware.until(lambda: autoware.clears)
    autoware.answer("drive/4", resume)
    autoware.until(lambda: autoware.count("done") == 4)
    # What was sent for the first or the last would have come before this second one.
    autoware.answer("drive/5", '{"command": "velocity_limit", "velocity_mps": 9}')
    autoware.answer("drive/6", resume)
    autoware.until(lambda: autoware.count("done") == 6)
    autoware.until(lambda: len(autoware.clears) == 2)
    limits = [nanoseconds(limit.stamp) for limit in autoware.limits]
    clears = [nanoseconds(clear.stamp) for clear in autoware.clears]
    assert limits[0] < clears[0] < limits[1] < clears[1]
    assert all(clear.command and clear.sender == "timebill_ros" for clear in autoware.clears)


def test_an_answer_of_others_forges_no_line(
    autoware: FakeAutoware, ros_context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    autoware.adapter(ros_context)
    forged = "\x1b[2J\n[FATAL] forged"
    autoware.answer(f"drive/1{forged}", f'{{"command": "{forged}"}}')
    autoware.answer(f"drive/2{forged}", json.dumps({"command": f"go{forged}"}))
    autoware.until(lambda: any("drive/2" in a.status[0].message for a in autoware.diagnostics))
    said = [a.status[0].message for a in autoware.diagnostics]
    for line in (*said, *capfd.readouterr().err.splitlines()):
        assert not line.startswith("[FATAL]")
        assert "\n" not in line
        assert "\x1b[2J" not in line


def test_a_velocity_limit_becomes_a_candidate(autoware: FakeAutoware, ros_context: Context) -> None:
    autoware.adapter(ros_context)
    autoware.answer("drive/1", '{"command": "velocity_limit", "velocity_mps": 12}')
    autoware.until(lambda: autoware.limits)
    [limit] = autoware.limits
    assert (limit.max_velocity, limit.sender, limit.use_constraints) == (
        12.0,
        "timebill_ros",
        False,
    )
    assert nanoseconds(limit.stamp) > 0
    assert autoware.called == []


def test_a_velocity_limit_waits_for_nobody(interfaces: Path | None, ros_context: Context) -> None:
    autoware = FakeAutoware(ros_context, limited=False)
    autoware.adapter(ros_context)
    autoware.answer("drive/1", '{"command": "velocity_limit", "velocity_mps": 12}')
    autoware.until(lambda: autoware.count(Refusal.ABSENT) == 1)
    assert any("max_velocity_candidates" in a.status[0].message for a in autoware.diagnostics)
    autoware.close()


@pytest.mark.parametrize(
    ("state", "services"), [("UNSET", [SET]), ("SET", [CHANGE]), ("ARRIVED", [CLEAR, SET])]
)
def test_a_goal_is_set_as_the_route_s_state_allows(
    autoware: FakeAutoware, ros_context: Context, state: str, services: list[str]
) -> None:
    autoware.route(state)
    adapter = autoware.adapter(ros_context, **DEPOT)
    autoware.until(lambda: adapter.vehicle.route_state is not None)
    autoware.answer("drive/1", TO_DEPOT)
    autoware.until(lambda: autoware.count("done") == 1)
    assert autoware.called == services
    request = autoware.calls[-1][1]
    assert request.header.frame_id == "map"
    position, rotation = request.goal.position, request.goal.orientation
    assert (position.x, position.y, position.z) == (10.0, -20.0, 1.5)
    assert (rotation.z, rotation.w) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))


def test_no_route_is_set_while_one_is_changing(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.route("CHANGING")
    adapter = autoware.adapter(ros_context, **DEPOT)
    autoware.until(lambda: adapter.vehicle.route_state is not None)
    autoware.answer("drive/1", TO_DEPOT)
    autoware.until(lambda: autoware.count(Refusal.STATE) == 1)
    assert autoware.called == []


def test_a_stop_keeps_a_route_from_being_set_after_it(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.route("ARRIVED")
    adapter = autoware.adapter(ros_context, **DEPOT)
    autoware.until(lambda: adapter.vehicle.route_state is not None)
    autoware.answer("drive/1", TO_DEPOT)
    autoware.answer("drive/2", '{"command": "stop"}')
    autoware.until(lambda: autoware.called == [CLEAR, STOP])
    autoware.until(lambda: autoware.count("done") == autoware.count(Refusal.SUPERSEDED) == 1)
    assert SET not in autoware.called


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ({"text": "please stop"}, Refusal.INVALID),
        ({"text": '{"command": "change_goal", "goal": "harbour"}'}, Refusal.INVALID),
        ({"age": 70.0}, Refusal.STALE),
        ({"late": True}, Refusal.LATE),
        ({"truncated": True}, Refusal.TRUNCATED),
        ({"finish_reason": Response.LENGTH}, Refusal.TRUNCATED),
    ],
)
def test_a_doubtful_answer_moves_nothing(
    autoware: FakeAutoware, ros_context: Context, answer: dict, refusal: Refusal
) -> None:
    autoware.adapter(ros_context, **DEPOT)
    autoware.answer("drive/1", **{"text": '{"command": "resume"}', **answer})
    autoware.until(lambda: autoware.count(refusal) == 1)
    assert autoware.diagnostics[-1].status[0].level == DiagnosticStatus.WARN
    assert autoware.diagnostics[-1].status[0].message.startswith(f"drive/1: {refusal}: ")
    autoware.until(lambda: autoware.diagnostics[-1].status[0].level == DiagnosticStatus.OK)
    assert autoware.called == []
    assert autoware.count("done") == 0


def test_an_answer_to_somebody_else_is_not_looked_at(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.adapter(ros_context)
    for id in ("chat-1", "", "driver", "DRIVE/1"):
        autoware.answer(id, '{"command": "resume"}')
    autoware.overruns.publish(Overrun(id="chat-2", reason=Overrun.KILLED))
    autoware.answer("drive/1", '{"command": "stop"}')
    autoware.until(lambda: autoware.count("done") == 1)
    assert autoware.called == [STOP]
    assert {autoware.count(refusal) for refusal in Refusal} == {0}


def test_an_overrun_is_counted_once(autoware: FakeAutoware, ros_context: Context) -> None:
    autoware.adapter(ros_context)
    for reason in (Overrun.LATE, Overrun.KILLED):
        autoware.overruns.publish(Overrun(id="drive/1", reason=reason, detail="deadline: reached"))
    autoware.until(lambda: autoware.count(Refusal.OVERRUN) == 1)
    assert autoware.called == []


def test_an_answer_is_obeyed_once(autoware: FakeAutoware, ros_context: Context) -> None:
    autoware.adapter(ros_context)
    for _ in range(2):
        autoware.answer("drive/1", '{"command": "resume"}')
    autoware.until(lambda: autoware.count(Refusal.REPEATED) == 1)
    assert autoware.called == [AUTONOMOUS]


def test_an_earlier_instruction_does_not_undo_a_later_one_but_may_stop(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.adapter(ros_context)
    autoware.answer("drive/2", '{"command": "stop"}', age=0.2)
    autoware.answer("drive/1", '{"command": "resume"}', age=1.0)
    autoware.until(lambda: autoware.count(Refusal.SUPERSEDED) == 1)
    autoware.answer("drive/0", '{"command": "stop"}', age=1.5)
    autoware.until(lambda: autoware.called == [STOP, STOP])


def test_a_failed_service_is_told_with_its_message(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.answers[AUTONOMOUS] = (False, 1, "not available")
    autoware.adapter(ros_context)
    autoware.answer("drive/1", '{"command": "resume"}')
    autoware.until(lambda: autoware.count(Refusal.FAILED) == 1)
    said = [a.status[0].message for a in autoware.diagnostics]
    assert f"{Refusal.FAILED}: {AUTONOMOUS}: not available (code 1)" in said
    assert not autoware.clears


def test_a_stop_is_tried_again_while_autoware_is_between_two_modes(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.answers[STOP] = (False, 2, "in transition")
    autoware.adapter(ros_context)
    autoware.answer("drive/1", '{"command": "stop"}')
    autoware.until(lambda: autoware.called == [STOP, STOP])
    del autoware.answers[STOP]
    autoware.until(lambda: autoware.count("done") == 1)
    assert autoware.count(Refusal.FAILED) == 0


def test_a_stop_is_given_up_when_its_time_is_over(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.answers[STOP] = (False, 2, "in transition")
    autoware.adapter(ros_context, service_timeout=2.0)
    autoware.answer("drive/1", '{"command": "stop"}')
    autoware.until(lambda: autoware.count(Refusal.FAILED) == 1)


def test_a_stop_is_given_up_when_something_else_is_asked_for(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.answers[STOP] = (False, 2, "in transition")
    autoware.adapter(ros_context, service_timeout=60.0)
    autoware.answer("drive/2", '{"command": "stop"}', age=0.3)
    autoware.answer("drive/3", '{"command": "resume"}')
    autoware.until(lambda: autoware.count("done") == 1)
    autoware.until(lambda: autoware.count(Refusal.SUPERSEDED) == 1)
    assert autoware.called[-1] == AUTONOMOUS


def test_a_service_that_is_not_there_is_named(
    interfaces: Path | None, ros_context: Context
) -> None:
    autoware = FakeAutoware(ros_context, absent=(STOP,))
    autoware.adapter(ros_context)
    autoware.answer("drive/1", '{"command": "stop"}')
    autoware.until(lambda: autoware.count(Refusal.ABSENT) == 1)
    assert any(STOP in a.status[0].message for a in autoware.diagnostics)
    autoware.close()


def test_a_text_becomes_an_instruction_with_its_scene(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.mode("AUTONOMOUS")
    adapter = autoware.adapter(ros_context, **DEPOT)
    half = math.sqrt(0.5)

    def tell() -> None:
        # Facing north at (5, 5): what is further north is ahead.
        autoware.drive(speed=12.0, x=5.0, y=5.0, yaw=(half, half))
        autoware.see(("TRUCK", 5.0, 45.0, 9.0), ("BICYCLE", -2.0, 5.0, 4.0))

    autoware.tell_scene(adapter, tell)
    autoware.texts.publish(String(data="slow down behind the truck"))
    autoware.until(lambda: autoware.instructions)
    [instruction] = autoware.instructions
    assert instruction.prompt == "slow down behind the truck"
    assert instruction.system == (
        "ego v12 l2 autonomous ; sector s0 count n1 : o2 s0 truck d40 v9 h27 l2 ; "
        "sector s2 count n1 : o1 s2 cyclist d7 v4 h27 l0 ;"
    )
    assert instruction.id.startswith("drive/")
    assert nanoseconds(instruction.budget) == 10**9
    assert nanoseconds(instruction.header.stamp) > 0
    assert instruction.max_tokens == 32
    forms = json.loads(instruction.response_schema)["oneOf"]
    assert len(forms) == 4
    autoware.answer(instruction.id, '{"command": "velocity_limit", "velocity_mps": 9}')
    autoware.until(lambda: [limit.max_velocity for limit in autoware.limits] == [9.0])


def test_objects_may_come_in_the_vehicle_s_own_frame(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.mode("STOP")
    adapter = autoware.adapter(ros_context, constrain=False)

    def tell() -> None:
        autoware.drive(speed=0.0, x=100.0)
        autoware.see(("PEDESTRIAN", 8.0, 0.0, 1.0), frame="base_link")

    autoware.tell_scene(adapter, tell)
    autoware.texts.publish(String(data="stop"))
    autoware.until(lambda: autoware.instructions)
    assert "pedestrian d8" in autoware.instructions[0].system
    assert autoware.instructions[0].response_schema == ""


def test_a_scene_that_is_no_numbers_is_refused(
    autoware: FakeAutoware, ros_context: Context
) -> None:
    autoware.mode("STOP")
    adapter = autoware.adapter(ros_context)
    for refused, (speed, x) in enumerate([(math.nan, 1.0), (1.0, math.inf)], start=1):

        def tell(speed: float = speed, x: float = x) -> None:
            autoware.drive(speed=speed)
            autoware.see(("CAR", x, 0.0, 1.0))

        autoware.tell_scene(adapter, tell)
        autoware.texts.publish(String(data="stop"))
        autoware.until(lambda n=refused: autoware.count(Refusal.NO_CONTEXT) == n)
    said = [a.status[0].message for a in autoware.diagnostics]
    assert len({m for m in said if "is not finite" in m}) == 2
    assert autoware.instructions == []


def test_without_its_scene_a_text_is_refused(autoware: FakeAutoware, ros_context: Context) -> None:
    adapter = autoware.adapter(ros_context)
    autoware.texts.publish(String(data="stop"))
    autoware.until(lambda: autoware.count(Refusal.NO_CONTEXT) == 1)
    said = [a.status[0].message for a in autoware.diagnostics]
    assert any("nothing has come on /localization/kinematic_state" in m for m in said)
    autoware.mode("STOP")

    def tell() -> None:
        autoware.drive(speed=0.0)
        autoware.see(frame="camera")

    autoware.tell_scene(adapter, tell)
    autoware.texts.publish(String(data="stop"))
    autoware.until(lambda: autoware.count(Refusal.NO_CONTEXT) == 2)
    autoware.until(lambda: any("camera" in a.status[0].message for a in autoware.diagnostics))
    assert autoware.instructions == []
