# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import threading

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from timebill_ros.engine import hub
from timebill_ros.engine.errors import CheckpointNotFound
from timebill_ros.engine.hub import hub_folder

NAME = "someone/some-model"


class Hub:
    """Stands in for the hub and its cache."""

    def __init__(self, folder, cached, online):
        self.folder, self.cached, self.online = folder, cached, online
        self.asked = []

    def __call__(self, name, *, local_files_only=False, **options):
        assert name == NAME
        if local_files_only:
            if not self.cached:
                raise LocalEntryNotFoundError("not cached")
            return str(self.folder)
        self.asked.append(options)
        return self.online()


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch, folder):
    def make(*, cached, online=lambda: pytest.fail("asked the hub")):
        made = Hub(folder, cached, online)
        monkeypatch.setattr(hub, "snapshot_download", made)
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(folder))
        return made

    return make


def test_what_the_cache_has_is_used_without_asking(stand_in, folder):
    stand_in(cached=True)
    assert hub_folder(NAME) == folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_the_cache_has_in_part_is_asked_for(stand_in, folder, name):
    (folder / name).unlink()
    asked = stand_in(cached=True, online=lambda: str(folder)).asked
    assert hub_folder(NAME) == folder
    assert len(asked) == 1


@pytest.mark.parametrize("indexed", [True, False])
def test_missing_shards_are_asked_for(stand_in, folder, indexed):
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    if indexed:
        weights = {"weight_map": {"a": names[0], "b": names[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    (folder / names[0]).touch()
    asked = stand_in(cached=True, online=lambda: str(folder)).asked
    hub_folder(NAME)
    assert len(asked) == 1
    (folder / names[1]).touch()
    hub_folder(NAME)
    assert len(asked) == 1


def test_only_safe_files_are_downloaded(stand_in, folder):
    asked = stand_in(cached=False, online=lambda: str(folder)).asked
    assert hub_folder(NAME) == folder
    [options] = asked
    patterns = options["allow_patterns"]
    assert not any("bin" in pattern or "py" in pattern for pattern in patterns)


def test_a_hub_out_of_reach_is_told(stand_in):
    def unreachable():
        raise LocalEntryNotFoundError("no connection")

    stand_in(cached=False, online=unreachable)
    with pytest.raises(CheckpointNotFound, match=f"{NAME}.*not available from the hub"):
        hub_folder(NAME)


def test_a_name_that_is_none_is_told(monkeypatch):
    with pytest.raises(CheckpointNotFound, match="HFValidationError"):
        hub_folder("no model: at all")


@pytest.fixture
def silent(stand_in):
    """A hub that takes connections and never answers."""
    never = threading.Event()
    stand_in(cached=False, online=never.wait)
    yield
    never.set()


def test_a_hub_that_never_answers_is_given_up(silent):
    with pytest.raises(CheckpointNotFound, match="it sent nothing for 0 s"):
        hub_folder(NAME, silence=0.0)


def test_waiting_for_it_can_be_ended(silent):
    def end():
        raise InterruptedError("the node is ending")

    with pytest.raises(InterruptedError):
        hub_folder(NAME, end, silence=1e9)


def test_it_may_take_its_time_while_something_comes(stand_in, folder):
    """Every look finds one more byte, until the whole is there."""
    whole = threading.Event()
    looks = 0

    def waiting():
        nonlocal looks
        looks += 1
        path = folder / "models--someone--some-model" / "blob"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * looks)
        if looks == 3:
            whole.set()

    stand_in(cached=False, online=lambda: whole.wait() and str(folder))
    assert hub_folder(NAME, waiting, silence=0.0) == folder
    assert looks >= 3
