# SPDX-License-Identifier: Apache-2.0
"""The client: what other nodes and the commands import to ask the node for answers.

Users import these names from here, so that no module's name is part of what they rely on.
"""

from timebill_ros.client.client import CallbackWaits, InstructionClient, NodeAbsent
from timebill_ros.client.exchange import Arrival, Exchange
from timebill_ros.client.record import Ending, Planned, Record
from timebill_ros.client.transports import NotCancelable

__all__ = [
    "Arrival",
    "CallbackWaits",
    "Ending",
    "Exchange",
    "InstructionClient",
    "NodeAbsent",
    "NotCancelable",
    "Planned",
    "Record",
]
