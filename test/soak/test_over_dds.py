# SPDX-License-Identifier: Apache-2.0
"""A bounded part of the soak over DDS."""

from __future__ import annotations

import pytest

from . import over_dds


@pytest.mark.slow
@pytest.mark.e2e
def test_each_of_a_few_hundred_instructions_has_exactly_one_terminal_message() -> None:
    assert over_dds.run(first_seed=0, instructions=6 * over_dds.ROUND) == []
