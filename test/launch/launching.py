# SPDX-License-Identifier: Apache-2.0
"""Runs a launch file with ROS 2's own launch, and notes what happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription, LaunchService
from launch.actions import (
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.event_handlers import OnStateTransition

# Importing launch has every logger made from then on keep its records to itself, away from caplog.
logging.setLoggerClass(logging.Logger)

# Longest wait for a state, and for the graph to show what is there, s.
PATIENCE = 60.0
GRAPH_PATIENCE = 30.0


@dataclass
class Run:
    """What a launch did: the states that its node reached, and how all ended."""

    states: list[str] = field(default_factory=list)
    arrived: bool = False
    exit_codes: list[int] = field(default_factory=list)
    launch_exit_code: int | None = None


def run(
    file: Path,
    arguments: dict[str, str],
    *,
    until: str,
    then: Callable[[LaunchContext], None] = lambda context: None,
    quiet: float = 0.0,
    times: int = 1,
    before: Sequence[Action] = (),
) -> Run:
    """Launch until the node is there, look around, and shut down.

    Args:
        file: the launch file, Python or XML.
        arguments: its arguments.
        until: the state that the node is to reach; "started" before the first one.
        then: called there.
        quiet: how long to go on from the last time there, s.
        times: how often the node is to reach it.
        before: what the launch does before it includes the file.
    """
    seen = Run()
    visits = count(1)

    def reached(context: LaunchContext, state: str) -> list[TimerAction]:
        if state != until:
            return []
        seen.arrived = True
        visit = next(visits)
        if visit <= times:
            then(context)
        if visit != times:
            return []
        return [TimerAction(period=quiet, actions=[Shutdown(reason="the test is done")])]

    def note_state(context: LaunchContext) -> list[TimerAction]:
        seen.states.append(context.locals.event.goal_state)
        return reached(context, seen.states[-1])

    def note_exit(context: LaunchContext) -> None:
        seen.exit_codes.append(context.locals.event.returncode)

    started = OnProcessStart(on_start=[OpaqueFunction(function=reached, args=["started"])])
    changed = OnStateTransition(entities=[OpaqueFunction(function=note_state)])
    ended = OnProcessExit(on_exit=[OpaqueFunction(function=note_exit)])
    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        LaunchDescription(
            [
                *(RegisterEventHandler(handler) for handler in (started, changed, ended)),
                *before,
                IncludeLaunchDescription(
                    AnyLaunchDescriptionSource(str(file)),
                    launch_arguments=arguments.items(),
                ),
                TimerAction(period=PATIENCE, actions=[Shutdown(reason="the test took too long")]),
            ]
        )
    )
    seen.launch_exit_code = service.run()
    return seen


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for the graph, which is discovered in the background."""
    end = time.monotonic() + GRAPH_PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
