# SPDX-License-Identifier: Apache-2.0
"""Memory from Linux's files, and from systems that have none."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from timebill_ros.runtime.health import memory_now

MEMINFO = "MemTotal:  8000 kB\nMemFree: 100 kB\nMemAvailable: 2000 kB\n\nHugePages_Total: 0\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process of 3 MiB that once had 5, on a machine with pages of 4 KiB."""
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5 * 1024))
    (tmp_path / "self").mkdir()
    (tmp_path / "self/statm").write_text("9999 768 100 1 0 200 0\n")
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


def test_memory_is_read_from_the_system() -> None:
    memory = memory_now()
    assert 1.0 < memory.present <= memory.peak
    assert memory.available_share is not None
    assert 0.0 < memory.available_share < 1.0


def test_pages_and_kilobytes_become_mebibytes(proc: Path) -> None:
    memory = memory_now(proc)
    assert (memory.present, memory.peak, memory.available_share) == (3.0, 5.0, 0.25)


def test_the_peak_is_never_less_than_the_present(proc: Path) -> None:
    # The kernel keeps the two counts apart, and the peak's may lag behind.
    (proc / "self/statm").write_text("9999 1536")
    assert memory_now(proc).peak == memory_now(proc).present == 6.0


def test_macos_counts_bytes_and_tells_the_peak_only(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    peak = SimpleNamespace(ru_maxrss=5 * 1024 * 1024)
    monkeypatch.setattr(resource, "getrusage", lambda _: peak)
    memory = memory_now(proc / "absent")
    assert (memory.present, memory.peak, memory.available_share) == (5.0, 5.0, None)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("meminfo", ""),
        ("meminfo", "MemAvailable: 0 kB\n"),
        ("meminfo", "MemTotal: 8000 kB\n"),
        ("meminfo", "MemTotal: much kB\nMemAvailable: 0 kB\n"),
        ("meminfo", "MemTotal: 0 kB\nMemAvailable: 0 kB\n"),
        ("self/statm", ""),
        ("self/statm", "9999"),
        ("self/statm", "9999 many"),
    ],
)
def test_files_of_another_form_tell_nothing(proc: Path, file: str, text: str) -> None:
    (proc / file).write_text(text)
    memory = memory_now(proc)
    assert (memory.present, memory.peak, memory.available_share) == (5.0, 5.0, None)
