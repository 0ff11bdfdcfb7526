# SPDX-License-Identifier: Apache-2.0
"""The message types of a bag: as it holds them itself, or as they are installed here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ament_index_python import get_package_share_directory
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_TYPES = "timebill_ros/msg"
INSTRUCTION, RESPONSE, OVERRUN = (f"{_TYPES}/{n}" for n in ("Instruction", "Response", "Overrun"))


def installed_definitions() -> Typestore:
    """ROS 2's own types and the package's, from the definitions that it installs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = _share() / "msg"
    types: dict[str, Any] = {}
    for path in sorted(folder.glob("*.msg")):
        types |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{_TYPES}/{path.stem}")
    store.register(types)
    return store


def _share() -> Path:
    """The package's shared files; in an environment that is not sourced, those of this Python."""
    try:
        return Path(get_package_share_directory("timebill_ros"))
    except (OSError, LookupError):
        return Path(sys.prefix, "share", "timebill_ros")


def definitions_of(connection: Connection) -> Typestore:
    """The types of one topic as its recorder knew them; ours where it kept none (before Iron)."""
    form, text = connection.msgdef
    if form is MessageDefinitionFormat.NONE:
        return installed_definitions()
    store = get_typestore(Stores.EMPTY)
    if form is MessageDefinitionFormat.IDL:
        store.register(get_types_from_idl(text))
    else:
        store.register(get_types_from_msg(text, connection.msgtype))
    return store
