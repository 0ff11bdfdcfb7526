# SPDX-License-Identifier: Apache-2.0
"""A small random target on disk, with and without a chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig

from test.engine.conftest import COMMON, save_checkpoint

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over single bytes, without a chat template."""
    return save_checkpoint(tmp_path_factory.mktemp("target") / "random", LlamaConfig(**COMMON))


@pytest.fixture(scope="session")
def chat_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with a chat template."""
    folder = tmp_path_factory.mktemp("target") / "chat"
    save_checkpoint(folder, LlamaConfig(**COMMON), seed=1)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON lines, strings as they are."""

    def write(*lines: object, name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts))
        return path

    return write
