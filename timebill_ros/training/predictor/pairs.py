# SPDX-License-Identifier: Apache-2.0
"""Prompts with the lengths of a target's answers: JSON lines, and beside them what made them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timebill_ros.budget.errors import SettingError
from timebill_ros.predictor.errors import BadLine, EmptySet, HeaderUnusable, SettingsDiffer

_DIGEST_DIGITS = 16


@dataclass(frozen=True)
class Pair:
    """A prompt and the length N of its answer.

    Attributes:
        prompt: the text that the model continued, chat template included: what the node shows to a
            length predictor.
        prompt_tokens: N_x, the target's tokens.
        response_tokens: N, the end token included.
        finish_reason: EOS, STOP, or LENGTH where N_model ended it.
    """

    prompt: str
    prompt_tokens: int
    response_tokens: int
    finish_reason: str

    @property
    def digest(self) -> str:
        """Identifies the prompt, without telling it."""
        return prompt_digest(self.prompt)


@dataclass(frozen=True)
class PairsHeader:
    """What the lengths of a file depend on beside the prompts.

    Attributes:
        target_id: the target's name, for people.
        target: its fingerprint.
        longest_response: N_model, the cap of every answer, tokens.
        decoding: how tokens were chosen and answers ended, by the names of the node's parameters.
    """

    target_id: str
    target: str
    longest_response: int
    decoding: Mapping[str, Any]


def prompt_digest(prompt: str) -> str:
    """SHA-256 of the text, 16 hex digits."""
    return hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_DIGITS]


def header_path(pairs: Path) -> Path:
    """Where the header of a file of pairs is: pairs.jsonl has pairs.header.json."""
    return pairs.with_suffix(".header.json")


def write_header(pairs: Path, header: PairsHeader) -> None:
    """Write the header beside ``pairs``."""
    text = json.dumps(asdict(header), indent=2, ensure_ascii=False) + "\n"
    header_path(pairs).write_text(text, encoding="utf-8")


def read_header(pairs: Path) -> PairsHeader:
    """Read the header of a file of pairs.

    Raises:
        HeaderUnusable: it is missing, not JSON, or lacks a key.
    """
    path = header_path(pairs)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        header = PairsHeader(**{key: content[key] for key in PairsHeader.__dataclass_fields__})
    except FileNotFoundError as error:
        raise HeaderUnusable(path, "it is missing; it names the target of the lengths") from error
    except KeyError as error:
        raise HeaderUnusable(path, f"key {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise HeaderUnusable(path, f"not a JSON object ({error})") from error
    if not _is_count(header.longest_response):
        reason = f"longest_response is {header.longest_response!r}, not an integer >= 1"
        raise HeaderUnusable(path, reason)
    if not isinstance(header.decoding, dict):
        raise HeaderUnusable(path, f"decoding is {header.decoding!r}, not an object")
    return header


def pair_line(pair: Pair) -> str:
    """One line of a file of pairs, with its end."""
    return json.dumps(asdict(pair)) + "\n"


def iterate_pairs(path: Path, header: PairsHeader) -> Iterator[Pair]:
    """The pairs of one file.

    Raises:
        BadLine: a line is not a pair, or its length is beyond N_model.
    """
    with path.open(encoding="utf-8", errors="strict") as file:
        for number, line in enumerate(file, start=1):
            yield _pair(path, number, line, header.longest_response)


def read_pairs(paths: Sequence[Path]) -> tuple[PairsHeader, list[Pair]]:
    """All pairs of files that were collected from one target; a prompt counts once.

    Raises:
        HeaderUnusable, BadLine: see ``read_header`` and ``iterate_pairs``.
        SettingsDiffer: two files have different headers.
        EmptySet: there is no pair.
    """
    header = read_header(paths[0])
    pairs: dict[str, Pair] = {}
    for path in paths:
        check_header(header_path(path), read_header(path), header)
        for pair in iterate_pairs(path, header):
            pairs.setdefault(pair.digest, pair)
    if not pairs:
        raise EmptySet(", ".join(map(str, paths)), "pairs")
    return header, list(pairs.values())


def check_header(path: Path, before: PairsHeader, now: PairsHeader) -> None:
    """Check that lengths of two headers may be mixed; the target's name alone may differ.

    Raises:
        SettingsDiffer: ``path`` holds ``before``, which is of another target or other settings.
    """
    if before.target != now.target:
        names = (f"{header.target_id} ({header.target})" for header in (before, now))
        raise SettingsDiffer(path, "target", *names)
    check_same(path, asdict(before), {**asdict(now), "target_id": before.target_id})


def check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare settings that must not change between two runs or two files.

    Raises:
        SettingsDiffer: they do; names the first key, inside of objects too.
    """
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            check_same(path, old, new)
        elif old != new:
            raise SettingsDiffer(path, key, old, new)


def _pair(path: Path, number: int, line: str, longest_response: int) -> Pair:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise BadLine(path, number, f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise BadLine(path, number, "not a JSON object")
    for key, kind in (("prompt", str), ("finish_reason", str)):
        if not isinstance(content.get(key), kind):
            raise BadLine(path, number, f"{key} is {content.get(key)!r}, not text")
    for key in ("prompt_tokens", "response_tokens"):
        if not _is_count(content.get(key)):
            raise BadLine(path, number, f"{key} is {content.get(key)!r}, not an integer >= 1")
    pair = Pair(**{key: content[key] for key in Pair.__dataclass_fields__})
    if pair.response_tokens > longest_response:
        raise BadLine(
            path,
            number,
            f"response_tokens {pair.response_tokens} is beyond longest_response (N_model) "
            f"{longest_response} of {header_path(path).name}",
        )
    return pair


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_PROMPTS = "prompts.csv"
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Split:
    """Three parts of a set of pairs, without overlap."""

    train: tuple[Pair, ...]
    calibration: tuple[Pair, ...]
    held_out: tuple[Pair, ...]

    def parts(self) -> Iterator[tuple[str, tuple[Pair, ...]]]:
        """Every part with its name."""
        yield "train", self.train
        yield "calibration", self.calibration
        yield HELD_OUT, self.held_out


def split_pairs(
    pairs: Sequence[Pair], seed: int, *, calibration: float = 0.1, held_out: float = 0.1
) -> Split:
    """Draw the parts, of which two have the given shares, at least one pair each.

    The same pairs are split the same way in whatever order they come.

    Raises:
        SettingError: the shares leave nothing to train on.
        EmptySet: there are fewer than three pairs.
    """
    for name, share in (("calibration", calibration), ("held_out", held_out)):
        if not 0.0 < share < 1.0:
            raise SettingError(name, share, "above 0 and below 1")
    if calibration + held_out >= 1.0:
        raise SettingError("held_out", held_out, f"below what calibration {calibration:g} leaves")
    if len(pairs) < 3:
        raise EmptySet(f"a set of {len(pairs)}", "pairs for all of train, calibration and held_out")
    ordered = sorted(pairs, key=lambda pair: pair.digest)
    order = np.random.default_rng(seed).permutation(len(ordered))
    shuffled = [ordered[index] for index in order]
    first = max(1, round(calibration * len(pairs)))
    second = first + max(1, round(held_out * len(pairs)))
    second = min(second, len(pairs) - 1)
    return Split(
        train=tuple(shuffled[second:]),
        calibration=tuple(shuffled[:first]),
        held_out=tuple(shuffled[first:second]),
    )


def write_prompts(folder: Path, split: Split) -> None:
    """Keep with a predictor which prompts it has met, as digests."""
    with (folder / _PROMPTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt_digest", "part"))
        writer.writerows((pair.digest, name) for name, part in split.parts() for pair in part)


def seen_prompts(folder: Path) -> frozenset[str] | None:
    """Digests of the prompts that a predictor was trained or calibrated on; None if not kept."""
    try:
        with (folder / _PROMPTS).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return None
    return frozenset(row["prompt_digest"] for row in rows if row["part"] != HELD_OUT)
