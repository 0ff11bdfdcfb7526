# SPDX-License-Identifier: Apache-2.0
"""The device that a model runs on: whether it can be used, what it is, what memory is free."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch

from timebill_ros.engine.errors import DeviceUnavailable


def usable_device(setting: str, name: str) -> torch.device:
    """The device of that name, which ``setting`` asks for, once something has run on it.

    Raises:
        DeviceUnavailable: this machine has none such.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceUnavailable(setting, name, str(error).splitlines()[0]) from error
    return device


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's model, for the same weights run at another pace on another."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; very many where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return sys.maxsize
    available = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(next(available, sys.maxsize // 1024)) * 1024
