# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from timebill_ros.engine.checkpoint import checkpoint_digest, target_fingerprint


@pytest.fixture
def moved(folder_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """The same checkpoint elsewhere, with other times."""
    return Path(
        shutil.copytree(folder_of("qwen2"), tmp_path / "elsewhere", copy_function=shutil.copy)
    )


def test_the_digest_is_of_the_content(folder_of: Callable[[str], Path], moved: Path) -> None:
    assert checkpoint_digest(moved) == checkpoint_digest(folder_of("qwen2"))
    assert checkpoint_digest(moved).startswith(target_fingerprint(moved))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_every_part_counts(moved: Path, name: str) -> None:
    before = target_fingerprint(moved)
    content = bytearray((moved / name).read_bytes())
    content[-1] ^= 1
    (moved / name).write_bytes(content)
    assert target_fingerprint(moved) != before


def test_a_chat_template_changes_the_target(moved: Path) -> None:
    before = target_fingerprint(moved)
    (moved / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert target_fingerprint(moved) != before
