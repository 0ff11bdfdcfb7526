# SPDX-License-Identifier: Apache-2.0
"""timebill_ros: a ROS 2 node that answers language-model instructions within their deadline."""
