# SPDX-License-Identifier: Apache-2.0
"""What the rooms below log through Python's logging, in the node's own log."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger

from timebill_ros.runtime.harmless import HarmlessFormatter

PACKAGE_LOGGER = logging.getLogger("timebill_ros")


class NodeLogHandler(logging.Handler):
    """Hands records to a node's logger, at their level."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Hand records to ``logger``."""
        super().__init__()
        self.setFormatter(HarmlessFormatter())
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; one that cannot be told goes to stderr and costs its sender nothing."""
        try:
            self._log(record.levelno, self.format(record))
        except Exception:
            self.handleError(record)

    def _log(self, level: int, text: str) -> None:
        # rclpy ties a severity to the place of the call, so each level needs a line of its own.
        if level >= logging.ERROR:
            self._logger.error(text)
        elif level >= logging.WARNING:
            self._logger.warning(text)
        elif level >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)
