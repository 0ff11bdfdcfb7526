# SPDX-License-Identifier: Apache-2.0
"""The command, over a small random model on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from test.engine.conftest import COMMON, save_checkpoint
from test.replay.recordings import recorded, write
from timebill_ros.msg import ChatMessage, Instruction
from timebill_ros.replay.recording import Recorded
from timebill_ros.training.commands import collect
from timebill_ros.training.predictor.pairs import read_pairs

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "plain", LlamaConfig(**COMMON))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint(tmp_path_factory.mktemp("models") / "chat", LlamaConfig(**COMMON))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "pairs.jsonl"


def run(output: Path, model: Path, *arguments: object) -> int:
    common = ["--model", model, "--threads", 1, "--max-tokens", 5]
    return collect.main([str(argument) for argument in (output, *common, *arguments)])


def lines(path: Path, *objects: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def prompts(output: Path) -> list[str]:
    return [pair.prompt for pair in read_pairs([output])[1]]


def test_a_file_is_collected_and_gone_on_with(
    plain: Path, output: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = lines(output.parent / "in.jsonl", {"prompt": "a", "system": "s"}, {"prompt": "b"})
    assert run(output, plain, "--prompts", source, "--count", 1, "--temperature", 0.5) == 0
    assert capsys.readouterr().out == f"{output}: 1 answered\n"
    assert "no chat template" in caplog.text
    assert run(output, plain, "--prompts", source, "--temperature", 0.5) == 0
    assert capsys.readouterr().out == f"{output}: 1 known already, 1 answered\n"
    header, pairs = read_pairs([output])
    assert [pair.prompt for pair in pairs] == ["s\na", "b"]
    assert (header.target_id, header.longest_response) == (str(plain), 5)
    assert header.decoding["temperature"] == 0.5


def test_parts_make_the_whole(plain: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", *({"prompt": f"p{n}"} for n in range(5)))
    outputs = [tmp_path / f"pairs{part}.jsonl" for part in (1, 2)]
    for part, output in enumerate(outputs, start=1):
        assert run(output, plain, "--prompts", source, "--part", f"{part}/2") == 0
    assert prompts(outputs[0]) == ["p0", "p2", "p4"]
    assert sorted(pair.prompt for pair in read_pairs(outputs)[1]) == [f"p{n}" for n in range(5)]


def test_a_bag_is_collected(chat: Path, output: Path) -> None:
    turns = [ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", content="yes")]
    items = [
        recorded("stop", 0.0, lengths=None, system="s"),
        recorded("go", 1.0, lengths=None, messages=turns),
    ]
    assert run(output, chat, "--bag", write(output.parent / "bag", items)) == 0
    assert prompts(output) == [
        "<system>s<user>stop<assistant>",
        "<user>hi<assistant>yes<user>go<assistant>",
    ]


def test_a_public_set_is_collected_from_a_local_file(plain: Path, output: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed (requirements/train.txt)")
    turn = [{"role": "user", "content": "why?"}]
    row = {"conversation_a": turn, "conversation_b": turn, "winner": "tie"}
    source = lines(output.parent / "arena.jsonl", row)
    assert run(output, plain, "--dataset", source) == 0
    assert prompts(output) == ["why?"]


def empty_bag_turns(path: Path) -> Path:
    turn = ChatMessage(role="user", content="hi")
    message = Instruction(id="a", prompt="go", messages=[turn])
    return write(path, [Recorded(1, message)])


def test_what_is_wrong_is_told(
    plain: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = output.parent
    blank = lines(folder / "blank.jsonl")
    chatty = lines(folder / "chatty.jsonl", {"messages": [{"role": "user", "content": "hi"}]})
    broken = folder / "broken.jsonl"
    broken.write_text('{"prompt": "a"}\n{"promp": "b"}\n')
    strange = lines(folder / "strange.jsonl", {"question": "why?"})
    long = lines(folder / "long.jsonl", {"prompt": "x" * 600})
    bag = empty_bag_turns(folder / "bag")
    for arguments, told in (
        (("--prompts", blank), "blank.jsonl: no prompts"),
        (("--prompts", long), "long.jsonl: no prompts that the model can answer"),
        (("--prompts", chatty), "line 1: field messages needs a target with a chat template"),
        (("--prompts", broken), "line 2: field prompt is missing"),
        (("--prompts", folder / "absent.jsonl"), "absent.jsonl"),
        (("--bag", folder), "not a rosbag2 that can be read"),
        (("--bag", bag), "instruction a: field messages needs a target with a chat template"),
        (("--dataset", strange), "has the columns question; known are"),
    ):
        assert run(output, plain, *arguments) == 1, arguments
        assert told in capsys.readouterr().err
        assert not output.exists() or not output.read_text()


def test_other_settings_are_refused(
    plain: Path, chat: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(output.parent / "in.jsonl", {"prompt": "a"})
    assert run(output, plain, "--prompts", source) == 0
    assert run(output, plain, "--prompts", source, "--seed", 3) == 1
    assert "seed 0, but now it is 3" in capsys.readouterr().err
    assert run(output, chat, "--prompts", source) == 1
    told = capsys.readouterr().err
    assert f"says target '{plain} (" in told
    assert f"but now it is '{chat} (" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "one of the arguments --prompts --bag --dataset is required"),
        (("--prompts", "x", "--part", "3/2"), "'3/2' is not a part such as 2/8"),
        (("--prompts", "x", "--count", "0"), "'0' is not a whole number, 1 or more"),
        (("--prompts", "x", "--temperature", "-1"), "temperature must be in 0..10"),
    ],
)
def test_a_bad_argument_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        collect.main(["pairs.jsonl", *arguments])
    assert told in capsys.readouterr().err
