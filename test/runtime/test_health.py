# SPDX-License-Identifier: Apache-2.0
"""Levels after exact sequences of outcomes, and of memory, with Linux's files and without."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.health import (
    MISS_RATIO,
    DeadlineHealth,
    Level,
    Memory,
    Report,
    memory_now,
    memory_report,
    queue_report,
)
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response, Stage, Timing
from timebill_ros.runtime.settings import Settings

JOB = Job("a", Conversation("", "stop"), 0, 10)
PLAN = Plan("timebill", 0.0, True, 100, (), 16, 80, 0.1, 0.2)
# One letter per outcome.
OUTCOMES: dict[str, Outcome] = {
    ".": Response(JOB, "", FinishReason.EOS, False, 3, PLAN, 0.1, Timing(slack=0.25)),
    "L": Response(JOB, "", FinishReason.EOS, True, 3, PLAN, 0.1, Timing(slack=-0.5)),
    "t": Response(JOB, "", FinishReason.DEADLINE, False, 3, PLAN, 0.1, Timing(slack=0.01)),
    **{
        letter: Overrun(JOB, reason, Stage.QUEUED, "", Timing())
        for letter, reason in {
            "k": Reason.KILLED,
            "l": Reason.LATE,
            "s": Reason.SKIPPED,
            "e": Reason.EXPIRED,
            "r": Reason.REJECTED,
            "c": Reason.CANCELED,
            "f": Reason.FAILED,
        }.items()
    },
}
STRICT = Settings(firm_misses=1, firm_window=3, miss_ratio_warn=0.2, miss_ratio_error=0.5)


def after(outcomes: str, settings: Settings = STRICT) -> Report:
    health = DeadlineHealth()
    for letter in outcomes:
        health.add(OUTCOMES[letter])
    return health.report(settings)


@pytest.mark.parametrize(
    ("outcomes", "level", "message"),
    [
        ("", Level.OK, "meeting deadlines"),
        (".", Level.OK, "meeting deadlines"),
        ("k", Level.WARN, "1 of the last 3 missed, no more may"),
        ("k..", Level.WARN, "1 of the last 3 missed, no more may"),
        ("k...", Level.OK, "meeting deadlines"),
        ("k.k", Level.ERROR, "2 of the last 3 missed, 1 may"),
        ("k..k", Level.WARN, "1 of the last 3 missed, no more may"),
        ("k.k...", Level.OK, "meeting deadlines"),
        ("kkk", Level.ERROR, "3 of the last 3 missed, 1 may"),
    ],
)
def test_misses_are_counted_in_any_k_consecutive_instructions(
    outcomes: str, level: Level, message: str
) -> None:
    report = after(outcomes)
    assert (report.level, report.message) == (level, message)


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [
        ("k...k....", Level.OK),  # 2 of 9: too few to speak of a share
        ("k...k...k....", Level.WARN),  # 3 of 13
        ("k...k.......", Level.OK),  # 2 of 12
        ("kkkkkk......", Level.WARN),  # 6 of 12: not more than half
        ("kkkkkkk......", Level.ERROR),  # 7 of 13
        ("kkk" + 12 * ".", Level.OK),  # 3 of 15: not more than a fifth
        ("kkkk" + 14 * ".", Level.WARN),  # 4 of 18
    ],
)
def test_the_share_of_misses_counts_from_ten_instructions_on(outcomes: str, level: Level) -> None:
    assert after(outcomes).level is level


def test_only_the_last_hundred_instructions_count() -> None:
    assert after("k" * 50 + "." * 100).values[MISS_RATIO] == "0.000"
    assert after("k" * 50 + "." * 99).values[MISS_RATIO] == "0.010"


def test_what_is_a_miss() -> None:
    assert after("rclt.").values[MISS_RATIO] == "0.000"
    for missed in "Lksef":
        assert after(missed).values[MISS_RATIO] == "1.000"


def test_the_figures_say_what_became_of_all() -> None:
    assert after("t").values["outcomes: truncated"] == "1"
    assert after("..lLkkr").values == {
        "miss ratio": "0.600",
        "misses of the last 3": "3",
        "misses in a row": "3",
        "last slack [s]": "0.0000",
        "mean rho": "1.000",
        "mean alpha": "0.000",
        "outcomes: in time": "2",
        "outcomes: killed": "2",
        "outcomes: late": "1",
        "outcomes: rejected": "1",
    }
    assert after("k.").values["misses in a row"] == "0"
    assert after(".").values["last slack [s]"] == "0.2500"


def test_no_miss_allowed_is_no_warning_by_itself() -> None:
    none = Settings(firm_misses=0)
    assert after("....", none).level is Level.OK
    assert after("...k", none).level is Level.ERROR


@pytest.mark.parametrize(
    ("peak", "level"), [(0, Level.OK), (2, Level.OK), (3, Level.WARN), (4, Level.ERROR)]
)
def test_a_queue_warns_from_three_quarters_on_and_fails_when_full(peak: int, level: Level) -> None:
    report = queue_report(depth=0, peak=peak, capacity=4)
    assert report.level is level
    assert report.values == {"queue depth": "0", "queue peak": str(peak), "queue capacity": "4"}


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.5, Level.OK), (0.1, Level.OK), (0.09, Level.WARN), (0.03, Level.WARN), (0.02, Level.ERROR)],
)
def test_memory_warns_while_there_is_still_some(share: float, level: Level) -> None:
    report = memory_report(Memory(present=412.4, peak=500.0, available_share=share))
    assert report.level is level
    assert report.values["present memory [MiB]"] == "412"
    assert report.values["peak memory [MiB]"] == "500"


def test_a_system_that_does_not_tell_is_no_alarm() -> None:
    report = memory_report(Memory(present=412.4, peak=500.0, available_share=None))
    assert report.level is Level.OK


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("firm_misses", {"firm_misses": 10, "firm_window": 10}),
        ("miss_ratio_warn", {"miss_ratio_warn": 0.6, "miss_ratio_error": 0.5}),
    ],
)
def test_bounds_that_contradict_each_other_are_named(name: str, settings: dict) -> None:
    with pytest.raises(SettingError, match=f"^{name} must be"):
        Settings(**settings)


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


def test_what_the_last_plans_gave_up_is_told_in_the_mean() -> None:
    health = DeadlineHealth()
    assert "mean rho" not in health.report(Settings()).values
    whole, selected = OUTCOMES["."], replace(PLAN, rho=0.25, alpha=0.5)
    for outcome in (whole, replace(OUTCOMES["k"], plan=selected), OUTCOMES["e"]):
        health.add(outcome)
    values = health.report(Settings()).values
    assert (values["mean rho"], values["mean alpha"]) == ("0.625", "0.250")
