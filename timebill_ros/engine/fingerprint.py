# SPDX-License-Identifier: Apache-2.0
"""Telling checkpoints apart by content, and not by name or time."""

from __future__ import annotations

import hashlib
from pathlib import Path

# What decides how a prompt becomes tokens, beside the weights and their configuration.
_SMALL_FILES = ("config.json", "tokenizer*", "chat_template*", "vocab.*", "merges.txt")
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
_FINGERPRINT_DIGITS = 16


def checkpoint_digest(folder: Path) -> str:
    """Hash of a checkpoint's configuration, tokenizer, chat template and weights.

    Small files are read whole; of large ones the beginning, which holds the tensors' names and
    shapes, and samples spread over the rest: reading tens of gigabytes would take longer than
    profiling. How weights are cut into files counts too.
    """
    digest = hashlib.sha256()
    small = {path for pattern in _SMALL_FILES for path in folder.glob(pattern) if path.is_file()}
    for path in [*sorted(small), *sorted(folder.glob("*.safetensors"))]:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        stride = max(_SAMPLE_BYTES, size // _SAMPLES)
        with path.open("rb") as file:
            for offset in range(0, size, stride):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def target_fingerprint(folder: Path) -> str:
    """Identify a target model, 16 hex digits: what its length predictor was trained for."""
    return checkpoint_digest(folder)[:_FINGERPRINT_DIGITS]
