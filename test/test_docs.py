# SPDX-License-Identifier: Apache-2.0
"""The pages: links that lead somewhere, commands that exist and take what they are given."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from timebill_ros.__main__ import MODULES
from timebill_ros.cli.replay import main as replay
from timebill_ros.msg import Instruction
from timebill_ros.node.parameter_specs import SPECS

from .page_commands import commands, fenced
from .rooms import sources

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DEADLINES = ROOT / "docs" / "deadlines.md"
PACKAGE, INSTRUCTION = "timebill_ros", "timebill_ros/msg/Instruction"
# A parameter that a loop of the page sets; the deadlines page's test puts its values in.
UNKNOWN = "overrun_policy:=1"
COMMANDS = [(page.name, words) for page in PAGES for words in commands(page)]


def shown(*beginning: str, where: Callable[[list[str]], bool] = lambda words: True) -> list[object]:
    """What follows this beginning in the pages' commands; those that ``where`` takes."""
    size = len(beginning)
    return [
        pytest.param(words[size:], id=f"{page}: {' '.join(words)}")
        for page, words in COMMANDS
        if tuple(words[:size]) == beginning and words[size:] and where(words[size:])
    ]


class Parsed(Exception):
    """The command took its arguments, and was about to begin."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end once their own parser has taken their arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_args(*given: object) -> None:
        parse(*given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_glossary_names_what_the_code_has() -> None:
    rows = re.findall(
        r"^\|[^|]+\|([^|]*)\|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE
    )
    names = {name for cell in rows for name in re.findall(r"`(?:msg\.)?(\w+)`", cell)}
    code = "\n".join(path.read_text() for path in [*sources(ROOT), *(ROOT / "msg").glob("*.msg")])
    assert len(names) > 30
    assert names - set(re.findall(r"\w+", code)) == set()


def test_the_contributor_s_page_names_files_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`([\w.]+/[\w./]*)`", text))
    places = (ROOT, ROOT / "timebill_ros")
    assert named
    assert not [name for name in named if not any((place / name).exists() for place in places)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_import_what_there_is(page: Path) -> None:
    for block in fenced(page, "python"):
        code = ast.parse(block)
        imports = [node for node in code.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page.name, "exec"), {})


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("words", shown("timebill_ros", where=lambda words: words[0] != "NAME"))
def test_every_executable_takes_its_arguments(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *arguments = words
    module = importlib.import_module(MODULES[name])
    if arguments:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed):
            module.main()


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("words", shown(where=lambda words: words[0].startswith(f"{PACKAGE}.")))
def test_every_module_takes_its_arguments(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.util.find_spec(words[0])
    if words[1:]:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(Parsed):
            importlib.import_module(words[0]).main()


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("words", shown("python", where=lambda words: words[0].endswith(".py")))
def test_every_script_takes_its_arguments(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ROOT / words[0]
    assert script.exists()
    if words[1:]:
        monkeypatch.syspath_prepend(script.parent)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("words", shown("make"))
def test_every_target_is_in_the_makefile(words: list[str]) -> None:
    assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", shown("ros2", "launch", "timebill_ros"))
def test_every_launch_file_has_the_arguments(words: list[str]) -> None:
    file, *arguments = words
    text = (ROOT / "launch" / file).read_text(encoding="utf-8")
    for name, _, value in (argument.partition(":=") for argument in arguments):
        assert name == "--show-args" or f'"{name}"' in text
        if name == "preset":
            assert (ROOT / "config" / "presets" / f"{value}.param.yaml").exists()


@pytest.mark.parametrize("words", shown("ros2", "topic", "pub", where=lambda w: INSTRUCTION in w))
def test_every_published_instruction_has_fields_of_the_message(words: list[str]) -> None:
    fields = Instruction.get_fields_and_field_types()
    assert yaml.safe_load(words[-1]).keys() <= fields.keys()


@pytest.mark.parametrize("words", shown("ros2", "param", "set", "/llm"))
def test_every_parameter_that_is_set_is_live(words: list[str]) -> None:
    assert SPECS[words[0]].live


def replayed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """How many instructions ended how, as a replay in virtual time prints it."""
    assert replay(arguments) == 0
    counts = re.findall(r"^  (.+?) +(\d+)\b", capsys.readouterr().out, re.MULTILINE)
    return {name: int(count) for name, count in counts}


@pytest.mark.parametrize(
    "words",
    shown("timebill_ros", "replay", where=lambda w: "--time-model" in w and UNKNOWN not in w),
)
def test_replays_in_virtual_time_run_as_written(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    if "--out" in words:
        words = [*words, "--out", str(tmp_path)]
    assert replayed(words, capsys)["in time"] > 0


def test_the_deadlines_page_tells_what_its_replays_give(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = DEADLINES.read_text(encoding="utf-8")
    (first, loop) = [w[2:] for w in commands(DEADLINES) if w[:2] == ["timebill_ros", "replay"]]
    told = re.search(r"Here (\d+) of 60 are answered in time, with `(--budget 1.0)` (\d+)", text)
    assert told
    assert replayed(first, capsys)["in time"] == int(told[1])
    assert replayed([*first, *told[2].split()], capsys)["in time"] == int(told[3])
    number = r"(\d+)(?:, of which (\d+) cut short)?"
    rows = re.findall(rf"^\| (\w+) \| {number} \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert [policy for policy, *_ in rows] == ["kill", "skip_next", "anytime"]
    for policy, *figures in rows:
        counts = replayed([*loop[:-1], f"overrun_policy:={policy}"], capsys)
        names = ("in time", "of them cut short", "late", "killed", "skipped")
        assert [counts.get(name, 0) for name in names] == [int(f or 0) for f in figures]


def test_the_test_that_a_page_shows_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (snippet,) = fenced(ROOT / "docs" / "replay-tests.md", "python")
    names: dict[str, object] = {}
    exec(snippet, names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()
