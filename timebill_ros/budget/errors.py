# SPDX-License-Identifier: Apache-2.0
"""What can go wrong before any time is spent."""

from __future__ import annotations

from pathlib import Path


class SettingError(ValueError):
    """A parameter that nothing can work with.

    Attributes:
        setting: the parameter's name, as the node declares it.
    """

    def __init__(self, setting: str, value: object, bound: str) -> None:
        """Build the message from the parameter, its value and what it must be."""
        super().__init__(f"{setting} must be {bound}, not {value!r}")
        self.setting = setting


class ProfileFitError(ValueError):
    """Profiled points from which no plausible time model follows."""


class QualityFileError(ValueError):
    """A file that does not hold quality curves."""

    def __init__(self, path: Path, reason: str) -> None:
        """Build the message from the file and what is wrong with it."""
        super().__init__(f"{path} holds no quality curves: {reason}")
        self.path = path
