# SPDX-License-Identifier: Apache-2.0
"""How instructions and their outcomes travel; light, for whoever speaks with the node."""

from __future__ import annotations

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

# Single events that nobody repeats: reliable; volatile, as an answer to a node that is gone helps
# nobody. Every instruction is owed an outcome, so a burst is kept whole until the node comes to it.
INSTRUCTION_QOS = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
# A bounded history: a reader that does not keep up must not stop the engine's thread.
OUTCOME_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
