# SPDX-License-Identifier: Apache-2.0
"""What can go wrong before any time is spent."""

from __future__ import annotations


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
