# SPDX-License-Identifier: Apache-2.0
"""What the methods are compared on: prompts with references and the metric of each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timebill_ros.engine.request import Conversation
from timebill_ros.workload.score import METRICS as METRICS_OF_FAMILIES
from timebill_ros.workload.score import edit_similarity, rouge_l, token_f1
from timebill_ros.workload.tasks import sample_family, sample_task


class BenchError(ValueError):
    """A comparison that cannot be made as asked; says why."""


class BadWorkload(BenchError):
    """A file of prompts that cannot be scored."""


class OtherRun(BenchError):
    """A folder whose answers are of another model, workload or version."""


Metric = Callable[[str, str], float]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

# Training draws from small seeds; these were never seen.
_HELD_OUT_SEED = 2_000_003


def last_number(answer: str, reference: str) -> float:
    """1 where the last number of both is the same, as mathematics is scored."""
    given, wanted = (_NUMBER.findall(text) for text in (answer, reference))
    same = bool(given and wanted) and _value(given[-1]) == _value(wanted[-1])
    return float(same)


def number_share(answer: str, reference: str) -> float:
    """The share of the answer's numbers that are the reference's, as LongBench counts them."""
    given, wanted = (re.findall(r"\d+", text) for text in (answer, reference))
    return given.count(wanted[0]) / len(given) if given and wanted else 0.0


def code_line(answer: str, reference: str) -> float:
    """Edit similarity of the answer's first line that is neither comment nor fence."""
    lines = answer.lstrip("\n").split("\n")
    code = (line for line in lines if not any(mark in line for mark in ("`", "#", "//")))
    return edit_similarity(next(code, ""), reference)


def _of_first_line(metric: Metric) -> Metric:
    return lambda answer, reference: metric(answer.lstrip("\n").partition("\n")[0], reference)


METRICS: Mapping[str, Metric] = {
    "f1": token_f1,
    "rouge_l": rouge_l,
    "edit": edit_similarity,
    "last_number": last_number,
    "number_share": number_share,
    "code_line": code_line,
    "f1_first_line": _of_first_line(token_f1),
    "rouge_l_first_line": _of_first_line(rouge_l),
}
"""From 0 to 1 for an answer and a reference, by the names that a workload's file uses."""

_METRIC_NAMES = {metric: name for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Case:
    """One prompt with the answer that is wanted.

    Attributes:
        id: unique in its workload.
        system, prompt: what the model is asked.
        references: answers that score 100.
        metric: one of ``METRICS``.
        max_tokens: N_max, if it is less than the run's; 0 for that.
    """

    id: str
    system: str
    prompt: str
    references: tuple[str, ...]
    metric: str
    max_tokens: int = 0

    @property
    def conversation(self) -> Conversation:
        """As the engine takes it."""
        return Conversation(self.system, self.prompt)

    def score(self, answer: str) -> float:
        """0 to 100, by the reference that the answer is nearest to."""
        metric = METRICS[self.metric]
        return 100.0 * max(metric(answer, reference) for reference in self.references)


def embedded_cases(count: int, seeds: Sequence[int], prompt_tokens: tuple[int, int]) -> list[Case]:
    """Held-out tasks of the embedded workload, ``count`` of each seed.

    Families are drawn as the workload mixes them, prompt lengths evenly on a logarithmic scale.
    """
    cases = []
    shortest, longest = np.log(prompt_tokens)
    for seed in seeds:
        rng = np.random.default_rng([_HELD_OUT_SEED, seed])
        for number in range(count):
            family = sample_family(rng)
            length = round(np.exp(rng.uniform(shortest, longest)))
            task = sample_task(rng, family, length, held_out=True)
            metric = _METRIC_NAMES[METRICS_OF_FAMILIES[family]]
            name = f"{seed}-{number}-{family}"
            cases.append(Case(name, task.system, task.instruction, (task.reference,), metric))
    return cases


def read_cases(path: Path, *, scored: bool = True) -> list[Case]:
    """The cases of a file of JSON lines: ``prompt``, ``reference``, ``metric``; ``id``, ``system``.

    ``reference`` is a text, or a list of texts of which the nearest counts. Lines whose ``metric``
    is empty are free text, which nothing scores: they need no reference, and are left out unless
    ``scored`` is False.

    Raises:
        BadWorkload: what is wrong, by line and field.
    """
    lines = read_text(path).splitlines()
    read = [
        _case(f"{path}:{number}", str(number), line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    cases = [case for case in read if case.metric or not scored]
    if not cases:
        raise BadWorkload(f"{path} holds no prompts{' that can be scored' if scored else ''}")
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise BadWorkload(f"{path}: id {case.id!r} occurs twice")
        seen.add(case.id)
    return cases


def digest(cases: Sequence[Case]) -> str:
    """Tells one workload from another."""
    told = [{name: value for name, value in asdict(case).items() if value} for case in cases]
    content = json.dumps(told, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_text(path: Path) -> str:
    """The text of a workload's file.

    Raises:
        BadWorkload: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise BadWorkload(f"{path}: {failure}") from failure


def json_object(text: str, place: str) -> dict[str, Any]:
    """The JSON object that stands at a place of a workload's file.

    Raises:
        BadWorkload: it is none.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise BadWorkload(f"{place}: no JSON: {failure}") from failure
    if not isinstance(fields, dict):
        raise BadWorkload(f"{place}: no JSON object")
    return fields


def _case(place: str, id: str, line: str) -> Case:
    return _checked(place, {"id": id, "system": "", "metric": ""} | json_object(line, place))


def _checked(place: str, values: Mapping[str, Any]) -> Case:
    for name in ("id", "system", "prompt", "metric"):
        if not isinstance(values.get(name), str):
            raise BadWorkload(f"{place}: {name!r} must be a text")
    references = values.get("reference", "" if values["metric"] == "" else None)
    if isinstance(references, str):
        references = [references]
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        raise BadWorkload(f"{place}: 'reference' must be a text, or a list of texts")
    if values["metric"] not in METRICS and values["metric"]:
        raise BadWorkload(
            f"{place}: 'metric' must be one of {', '.join(METRICS)}, not {values['metric']!r}"
        )
    wanted = tuple(reference for reference in references if reference.strip())
    if values["metric"]:
        for name, found in (("prompt", values["prompt"].strip()), ("reference", wanted)):
            if not found:
                raise BadWorkload(f"{place}: {name!r} is empty, nothing could be scored")
    return Case(values["id"], values["system"], values["prompt"], wanted, values["metric"])


def _value(number: str) -> float:
    return float(number.replace(",", ""))
