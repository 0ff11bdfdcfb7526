# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by their hub id: from the local cache first, from the hub within a bounded time."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from timebill_ros.engine.errors import CheckpointNotFound

_LOG = logging.getLogger(__name__)

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
_INDEX = "model.safetensors.index.json"
# How long a hub may send nothing, s: a robot without a network should hear so soon.
_SILENCE = 20.0
_METADATA_TIMEOUT = 5.0  # s
_POLL = 0.1  # s


def hub_folder(
    model: str, waiting: Callable[[], None] = lambda: None, *, silence: float = _SILENCE
) -> Path:
    """The folder of a hub id in the hub's cache, downloaded into it where it is not there whole.

    What is in the cache is used as it is, without asking the hub: a robot starts alike with and
    without a network.

    Args:
        model: the hub id.
        waiting: called several times a second while the hub is waited for; may raise to end it.
        silence: s within which the hub must have sent something, each time.

    Raises:
        CheckpointNotFound: the hub does not know it, cannot be reached, or fell silent.
    """
    try:
        cached = Path(snapshot_download(model, local_files_only=True))
    except HFValidationError as error:
        raise _not_available(model, type(error).__name__) from error
    except LocalEntryNotFoundError:
        return _download(model, waiting, silence)
    return cached if _is_whole(cached) else _download(model, waiting, silence)


def _download(model: str, waiting: Callable[[], None], silence: float) -> Path:
    """Download on a thread that nobody has to wait for: a call into the hub cannot be ended."""
    _LOG.info("the hub's cache has no whole %r: asking the hub for it", model)
    done: list[Path | Exception] = []

    def download() -> None:
        try:
            path = snapshot_download(
                model, allow_patterns=list(_FILES), etag_timeout=_METADATA_TIMEOUT
            )
            done.append(Path(path))
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            done.append(error)

    thread = threading.Thread(target=download, name="hub download", daemon=True)
    thread.start()
    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
    received, last = _size(folder), time.monotonic()
    while thread.is_alive():
        thread.join(_POLL)
        waiting()
        if (now_received := _size(folder)) != received:
            received, last = now_received, time.monotonic()
        elif thread.is_alive() and time.monotonic() - last > silence:
            raise _not_available(model, f"it sent nothing for {silence:g} s")
    (result,) = done
    if isinstance(result, Exception):
        raise _not_available(model, type(result).__name__) from result
    return result


def _not_available(model: str, reason: str) -> CheckpointNotFound:
    return CheckpointNotFound(
        model, f"no such directory, and not available from the hub ({reason})"
    )


def _size(folder: Path) -> int:
    """Bytes of all files below, as far as they can be seen."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:  # just moved to its final name
            continue
    return total


def _is_whole(folder: Path) -> bool:
    """Whether configuration, tokenizer and all of the weights are there.

    A download that was interrupted leaves a folder with some of the files.
    """
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not ((folder / "config.json").is_file() and weights and any(folder.glob("tokenizer*"))):
        return False
    index = folder / _INDEX
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return True  # Not for the hub to mend: loading tells what is wrong with it.
        return named <= weights
    numbered = [match for name in weights if (match := _SHARD.search(name))]
    return not numbered or len(numbered) == int(numbered[0][1])
