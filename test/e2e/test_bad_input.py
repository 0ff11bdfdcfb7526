# SPDX-License-Identifier: Apache-2.0
"""Bad instructions and bad files: each gets its named answer, and the node lives on."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message

from timebill_ros.client.client import InstructionClient
from timebill_ros.client.node_process import NodeProcessError
from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.conversions import duration_msg, time_msg
from timebill_ros.node.topics import OUTCOME_QOS
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings

from .subject import PATIENCE, Subject, ask, ended_by

pytestmark = pytest.mark.e2e

MARK = "#####"  # replaced in the serialized message by bytes that are not UTF-8, as many
BROKEN = b"\xff\xfe\xc3\x28\x80"


@pytest.fixture
def wire(node: Subject, client: InstructionClient) -> Iterator[Publisher]:
    """A publisher that the node hears, for serialized messages; answers are the client's strays."""
    with Session("wire", node.domain) as session:
        topic = f"{node.name}/input/instruction"
        publisher = session.node.create_publisher(Instruction, topic, OUTCOME_QOS)
        assert session.spin_until(lambda: publisher.get_subscription_count() > 0, PATIENCE)
        yield publisher


def answers_now(client: InstructionClient) -> bool:
    exchange = client.send(ask(f"well {len(client.exchanges)}"))
    assert client.wait_for_all(PATIENCE)
    return isinstance(ended_by(exchange), Response)


def test_bad_fields_are_refused_by_name(client: InstructionClient) -> None:
    past = time_msg(1_600_000_000 * 10**9)
    bad = {
        "prompt": ask("empty", prompt=" \n"),
        "prompt: ": ask("long", prompt="stop " * 9000),
        "budget: ": ask("negative", budget=-0.5),
        "budget": ask("absurd", budget=1e7),
        "max_tokens: ": Instruction(id="greedy", prompt="stop", max_tokens=2**32 - 1),
        "deadline: ": Instruction(id="overdue", prompt="stop", deadline=past),
    }
    for instruction in bad.values():
        client.send(instruction)
    assert client.wait_for_all(PATIENCE)
    for field, instruction in bad.items():
        message = ended_by(client.exchanges[instruction.id])
        assert isinstance(message, Overrun)
        assert message.detail.startswith(field)
        expired = instruction.id == "overdue"
        assert message.reason == (Overrun.EXPIRED if expired else Overrun.REJECTED)
    assert answers_now(client)


@pytest.mark.parametrize("field", ["id", "system", "prompt"])
def test_bytes_that_are_not_utf8_are_refused_by_field(
    client: InstructionClient, wire: Publisher, field: str
) -> None:
    texts = {"id": "broken", "prompt": "stop", field: f"st{MARK}p"}
    raw = serialize_message(Instruction(**texts, budget=duration_msg(10.0)))
    wire.publish(raw.replace(MARK.encode(), BROKEN))
    assert client.wait_until(lambda: bool(client.strays), PATIENCE)
    (arrival,) = client.strays
    assert arrival.message.reason == Overrun.REJECTED
    assert arrival.message.detail.startswith(f"{field}: character 2 is U+FFFD")
    assert arrival.message.id == ("broken" if field != "id" else "st" + "\ufffd" * 3 + "(\ufffdp")
    assert answers_now(client)


@pytest.mark.parametrize("length", [0, 3, 4, 20, 60])
def test_a_message_that_breaks_off_harms_nobody(
    client: InstructionClient, wire: Publisher, length: int
) -> None:
    raw = serialize_message(ask("broken off", prompt="stop " * 20))
    wire.publish(raw[:length])
    assert answers_now(client)
    assert not client.strays


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the embedded model's checkpoint, to be spoilt."""
    return Path(shutil.copytree(model_folder(Settings()), tmp_path / "checkpoint"))


def keep_pickles_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": [0.0]}))


def slide(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    layers = ["sliding_attention"] * config["num_hidden_layers"]
    config |= {"use_sliding_window": True, "sliding_window": 64, "layer_types": layers}
    path.write_text(json.dumps(config))


def cut_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (shutil.rmtree, "was not found: no such directory"),
        (keep_pickles_only, "no *.safetensors weights"),
        (slide, "sliding_attention layers"),
        (cut_weights, "cannot be read"),
    ],
)
def test_a_spoilt_checkpoint_fails_configuring_by_name(
    node: Subject, checkpoint: Path, spoil: Callable[[Path], None], named: str
) -> None:
    spoil(checkpoint)
    with pytest.raises(NodeProcessError, match="failed to configure"):
        node.serve(model=str(checkpoint))
    assert node.state() == "unconfigured"
    assert node.says(str(checkpoint))
    assert node.says(named)
    node.serve()
    with node.client() as client:
        assert answers_now(client)


def test_a_truncated_profile_is_measured_again(
    node: Subject, profiles: Path, tmp_path: Path
) -> None:
    node.serve()  # which keeps a profile
    kept = list(profiles.glob("*.json"))
    for path in kept:
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100])
    node.serve(profile_cache=str(tmp_path))
    assert node.says("is not used, measuring again")
    mended = [path for path in tmp_path.glob("*.json") if path.stat().st_size > 100]
    assert mended
    assert all(json.loads(path.read_text())["points"] for path in mended)
