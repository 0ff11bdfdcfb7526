# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with what a comparison is asked to do."""

from __future__ import annotations


class BenchError(ValueError):
    """A comparison that cannot be made as asked; says why."""


class BadWorkload(BenchError):
    """A file of prompts that cannot be scored."""


class OtherRun(BenchError):
    """A folder whose answers are of another model, workload or version."""
