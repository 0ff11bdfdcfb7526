# SPDX-License-Identifier: Apache-2.0
"""The settings that a node would have that was started with these arguments."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from timebill_ros.node.parameters import Parameters
from timebill_ros.replay.recording import BadInput
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.settings import Settings


def settings_of(ros_arguments: Sequence[str]) -> Settings:
    """Read them as the node does: declared, checked, from files and single assignments.

    Args:
        ros_arguments: what follows --ros-args.

    Raises:
        BadInput: a file that cannot be read, or a value that does not fit, by name.
    """
    context = Context()
    try:
        rclpy.init(
            args=["--ros-args", *ros_arguments],
            context=context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = Node("llm", context=context, start_parameter_services=False)
        try:
            settings = Parameters(node).read()
            decisions(settings)  # for what only they check
            return settings
        finally:
            node.destroy_node()
    # rclpy's own errors have no common type: a parser's, a parameter's, a setting's.
    except Exception as failure:
        raise BadInput(f"parameters: {failure}") from failure
    finally:
        context.try_shutdown()
