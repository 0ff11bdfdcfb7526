# SPDX-License-Identifier: Apache-2.0
"""Loading the model that the package ships, with settings at their limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.conversation import Conversation
from timebill_ros.engine.profile import least_context
from timebill_ros.runtime import loading
from timebill_ros.runtime.loading import Loaded, load
from timebill_ros.runtime.settings import Settings


class Reader:
    """A predictor that keeps what it was given to read."""

    bucket_size = 16

    def __init__(self) -> None:
        self.inputs: list[tuple[str, Sequence[int]]] = []

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        self.inputs.append((text, prompt_ids))
        return LengthDistribution(np.array([1.0]), self.bucket_size)


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


def test_a_predictor_is_measured_on_words_and_tokens_of_the_same_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    monkeypatch.setattr(loading, "load_predictor", lambda *_, **__: reader)
    engine = loaded(tmp_path, max_context=1500, window=64).engine
    lengths = {len(ids) for _, ids in reader.inputs}
    assert len(lengths) >= 5
    for text, ids in reader.inputs:
        assert len(engine.encode(Conversation("", text))) == pytest.approx(len(ids), rel=0.05)
