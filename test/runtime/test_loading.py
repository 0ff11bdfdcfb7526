# SPDX-License-Identifier: Apache-2.0
"""Loading the model that the package ships, with settings at their limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.profile import least_context
from timebill_ros.runtime.loading import Loaded, load
from timebill_ros.runtime.settings import Settings


def loaded(folder: Path, *, max_context: int, window: int) -> Loaded:
    settings = Settings(
        max_context=max_context,
        window=window,
        profile_cache=str(folder),
        profile_seconds=1.0,
    )
    return load(settings, lambda share, doing: None)


@pytest.mark.parametrize(("max_context", "window"), [(16, 64), (64, 64), (512, 512)])
def test_a_context_that_is_too_small_for_the_window_is_named(
    tmp_path: Path, max_context: int, window: int
) -> None:
    message = f"max_context must be >= {least_context(window)} for a window of {window}"
    with pytest.raises(SettingError, match=message) as caught:
        loaded(tmp_path, max_context=max_context, window=window)
    assert caught.value.setting == "max_context"


@pytest.mark.parametrize("window", [1, 64, 512])
def test_the_least_context_loads(tmp_path: Path, window: int) -> None:
    engine = loaded(tmp_path, max_context=least_context(window), window=window).engine
    assert engine.max_context == least_context(window)
