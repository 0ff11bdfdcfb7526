# SPDX-License-Identifier: Apache-2.0
"""Jobs, queue, overrun policies and the server that answers them in time. No rclpy."""
