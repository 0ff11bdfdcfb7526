# SPDX-License-Identifier: Apache-2.0
"""The device that a model runs on: whether it can be used, what it is, what memory is free."""

from __future__ import annotations

import logging
import platform
import sys
from pathlib import Path

import torch

from timebill_ros.engine.errors import DeviceUnavailable

_LOG = logging.getLogger(__name__)

# What tells that a CPU multiplies numbers of a type itself, by torch's names.
_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
_ROUNDED = ("bfloat16", "int8", "int4")  # kinds of weights whose kernels multiply bfloat16


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


def warn_if_emulated(setting: str, value: str, device: torch.device) -> None:
    """Log that ``setting`` asks for a type that this CPU has no instructions for; it works still.

    Args:
        setting: the parameter's name.
        value: an element type, or a kind of weights.
        device: where it is to be computed; others than CPUs are not looked at.
    """
    kind = "bfloat16" if value in _ROUNDED else value
    if device.type != "cpu" or kind not in _INSTRUCTIONS:
        return
    there = torch.cpu.get_capabilities()
    if not any(there.get(name) for name in _INSTRUCTIONS[kind]):
        _LOG.warning(
            "%s is %s, but the processor (%s) has no instructions for %s: torch computes it by "
            "others, which may take several times as long as float32; compare with `timebill_ros "
            "profile`, or set %s to auto",
            *(setting, value, device_name(device), kind, setting),
        )


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
