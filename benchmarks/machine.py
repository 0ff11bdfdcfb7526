# SPDX-License-Identifier: Apache-2.0
"""What a figure is worth without: the command, the day and the machine that made it."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path


def heading(title: str) -> str:
    """Title, command, date and machine, as the first lines of a benchmark's output."""
    script = Path(sys.argv[0])
    command = " ".join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]])
    today = datetime.datetime.now(datetime.UTC).date()
    return f"# {title}\n$ {command}\n{today}, {machine()}"


def machine() -> str:
    """Processor, cores this process may use, and Python."""
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, Python {platform.python_version()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
