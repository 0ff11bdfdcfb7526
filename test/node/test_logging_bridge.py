# SPDX-License-Identifier: Apache-2.0
"""Records on their way into ROS's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from rclpy.logging import LoggingSeverity, get_logger, set_logger_level

from timebill_ros.node.llm_node import PACKAGE_LOGGER, NodeLogHandler
from timebill_ros.runtime import server


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger whose records reach ROS's and nobody else."""
    set_logger_level("bridge", LoggingSeverity.DEBUG)
    handler = NodeLogHandler(get_logger("bridge"))
    log = logging.Logger("a room")
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)


def told(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What ROS logged: its level and the text."""
    captured = capfd.readouterr()
    lines = (captured.out + captured.err).splitlines()
    return [f"{line.split('[', 2)[1].split(']')[0]} {line.split(']: ')[1]}" for line in lines]


def test_every_level_has_its_own_in_ros_time_and_again(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "level %d", level)
        log.critical("the worst")
    expected = ["DEBUG level 10", "INFO level 20", "WARN level 30", "ERROR level 40"]
    assert sorted(told(capfd)) == sorted([*expected, "ERROR the worst"] * 2)


def test_levels_between_count_as_the_one_below(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    for level in (5, 15, 25, 35, 45):
        log.log(level, str(level))
    expected = ["DEBUG 5", "DEBUG 15", "INFO 25", "WARN 35", "ERROR 45"]
    assert sorted(told(capfd)) == sorted(expected)


def test_an_exception_is_told_with_its_place(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        raise ValueError("NaN")
    except ValueError:
        log.exception("j7 failed")
    captured = capfd.readouterr()
    assert "j7 failed\n  | Traceback" in captured.err
    assert "  | ValueError: NaN" in captured.err


@pytest.mark.parametrize(("message", "values"), [("%d tokens", ("many",)), ("%s and %s", ("one",))])
def test_what_cannot_be_told_costs_its_sender_nothing(
    log: logging.Logger,
    capfd: pytest.CaptureFixture[str],
    message: str,
    values: tuple[str, ...],
) -> None:
    log.error(message, *values)
    assert "Logging error" in capfd.readouterr().err
    log.error("the next")
    assert told(capfd) == ["ERROR the next"]


def test_a_text_of_others_forges_no_line_and_commands_no_terminal(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    forged = "a\n[FATAL] [1.0] [llm]: stop\x1b[2J\udc80"
    try:
        raise ValueError(forged)
    except ValueError:
        log.exception("%s failed", forged)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith(r"a\n[FATAL] [1.0] [llm]: stop\x1b[2J\udc80 failed")
    assert all(line.startswith("  | ") for line in lines[1:])
    assert not any("\x1b" in line for line in lines)


def test_what_a_room_logs_reaches_the_package_s_handlers(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    PACKAGE_LOGGER.addHandler(log.handlers[0])
    logging.getLogger(server.__name__).warning("from the server")
    PACKAGE_LOGGER.removeHandler(log.handlers[0])
    assert told(capfd) == ["WARN from the server"]
