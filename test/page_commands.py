# SPDX-License-Identifier: Apache-2.0
"""The commands that a Markdown page shows, as a shell would read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

# Their values are not known here: a number will do for a number and for a name.
_VARIABLE = re.compile(r"\$\(\(.*?\)\)|\$\{?\w+\}?")
_ASSIGNMENT = re.compile(r"do|\w+=.*")
_BIN = re.compile(r".*/bin/")
_OPERATORS = set("();<>|&")
_RUNNERS = (
    ("ros2", "run"),
    ("accelerate", "launch", "-m"),
    ("python", "-P", "-m"),
    ("python", "-m"),
)


def commands(page: Path) -> list[list[str]]:
    """The words of every simple command in indented blocks, code spans and a workflow's steps.

    However one of this package is run (`ros2 run`, `python -m`, by its path), it begins with its
    name, such as ``timebill_ros`` or ``timebill_ros.workload.tasks``.
    """
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [words for line in _lines(text) for words in _simple(_VARIABLE.sub("1", line))]


def fenced(page: Path, language: str) -> list[str]:
    """The fenced blocks in that language."""
    return _fenced(page.read_text(encoding="utf-8"), language)


def _fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _lines(text: str) -> Iterator[str]:
    for workflow in _fenced(text, "yaml"):
        for job in yaml.safe_load(workflow)["jobs"].values():
            yield from (step["run"] for step in job["steps"] if "run" in step)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^    (.+)$", prose, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", prose)


def _simple(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, without redirections; none where a quote does not end."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for token in [*lexer, ";"]:
            if not set(token) <= _OPERATORS:
                words.append(token)
                continue
            if words := _without_runner(words):
                yield words
            words = []
    except ValueError:
        return


def _without_runner(words: list[str]) -> list[str]:
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    for runner in _RUNNERS:
        if tuple(words[: len(runner)]) == runner:
            words = words[len(runner) :]
    return [_BIN.sub("", words[0]), *words[1:]] if words else []
