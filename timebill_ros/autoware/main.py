# SPDX-License-Identifier: Apache-2.0
"""The executable ``autoware_adapter``."""

from __future__ import annotations

import sys

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException

from timebill_ros.autoware.adapter_node import AutowareAdapter
from timebill_ros.autoware.interfaces import InterfacesMissing
from timebill_ros.budget.errors import SettingError


def main(args: list[str] | None = None) -> int:
    """Run the adapter until it is interrupted; 1 where it cannot start."""
    rclpy.init(args=args)
    try:
        node = AutowareAdapter()
    except (InterfacesMissing, SettingError, ParameterException) as failure:
        print(f"autoware_adapter: {failure}", file=sys.stderr)
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
