# SPDX-License-Identifier: Apache-2.0
"""The adapter between the language model's node and Autoware.

Its parameters come after --ros-args, as in: --ros-args --params-file adapter.yaml
"""

from __future__ import annotations

import sys

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args

from timebill_ros.autoware.adapter_node import AutowareAdapter
from timebill_ros.autoware.interfaces import InterfacesMissing
from timebill_ros.budget.errors import SettingError
from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.harmless import harmless_line


def main(args: list[str] | None = None) -> int:
    """Run the adapter until it is interrupted; 1 where it cannot start."""
    parser = command_parser("autoware_adapter", __doc__)
    parser.parse_args(remove_ros_args(args)[1:])
    rclpy.init(args=args)
    try:
        node = AutowareAdapter()
    except (InterfacesMissing, SettingError, ParameterException) as failure:
        print(f"autoware_adapter: {harmless_line(str(failure))}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
