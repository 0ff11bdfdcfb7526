# SPDX-License-Identifier: Apache-2.0
"""Twenty recorded instructions replayed into the running node, and then in virtual time."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin

from timebill_ros.cli.replay import main
from timebill_ros.replay.bag import Bag

from .recording import EMPTY, OVERDUE, SIZE, draw_recording, write_recording
from .subject import PATIENCE, Subject

pytestmark = pytest.mark.e2e

RECORDED_NS = 1_700_000_000 * 10**9  # in 2023
STORAGES = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]


@pytest.fixture(params=STORAGES, ids=lambda storage: storage.name.lower())
def bag(request: pytest.FixtureRequest, node: Subject, tmp_path: Path) -> Path:
    """What was recorded a while ago."""
    write_recording(tmp_path / "in", request.param, node.name, draw_recording(RECORDED_NS))
    return tmp_path / "in"


def replay(node: Subject, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(node.domain))
    limits = ["--wait", str(PATIENCE), "--patience", str(PATIENCE)]
    return main([*arguments, "--node", node.name, *limits])


def outcomes(folder: Path) -> dict[str, str]:
    """Outcome by id, as the table of a replay has them."""
    with (folder / "replay.csv").open(newline="") as file:
        return {row["id"]: row["outcome"] for row in csv.DictReader(file)}


def check_served(ended: dict[str, str]) -> None:
    """As recorded, but for what a slow machine has no time for."""
    assert list(ended) == [f"i{number}" for number in range(SIZE)]
    assert (ended.pop(EMPTY), ended.pop(OVERDUE)) == ("rejected", "expired")
    assert set(ended.values()) <= {"in time", "killed", "expired"}
    assert "in time" in ended.values()


def test_on_the_wall_clock(
    node: Subject, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.serve()
    out = tmp_path / "out"
    assert replay(node, monkeypatch, str(bag), "--rate", "2", "--out", str(out)) == 0
    check_served(outcomes(out))


def test_with_its_own_clock_and_again_without_the_model(
    node: Subject, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.serve(use_sim_time=True)
    out, simulated = tmp_path / "out", tmp_path / "simulated"
    assert replay(node, monkeypatch, str(bag), "--clock", "--out", str(out)) == 0
    check_served(outcomes(out))
    sent = [item.instruction for item in Bag(bag).recorded]
    assert [item.instruction for item in Bag(out / "bag").recorded] == sent
    model = tmp_path / "model.json"
    model.write_text('{"a": 0, "b": 1e-5, "c": 0, "p": 1e-7, "q": 1e-4}')
    again = [str(out / "bag"), "--simulate", "--clock", "--time-model", str(model)]
    again += ["--assume-lengths", "500", "50", "--out", str(simulated), "--expect", "missing==0"]
    assert main(again) == 0
    check_served(outcomes(simulated))
