# SPDX-License-Identifier: Apache-2.0
"""LongBench as its repository lays it out: prompts, caps and metrics of each data set.

``data/NAME.jsonl`` holds ``input``, ``context`` and ``answers`` by line,
``config/dataset2prompt.json`` the templates and ``config/dataset2maxlen.json`` the caps (Bai et
al., arXiv 2308.14508; github.com/THUDM/LongBench, the folder LongBench). Its Chinese data sets,
which need a segmenter, and those that name a class of many are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timebill_ros.bench.cases import BadWorkload, Case, json_object, read_text

_LOG = logging.getLogger(__name__)

_CONFIG = Path("config")
_METRICS: Mapping[str, str] = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa"), "f1"),
    "musique": "f1",
    "triviaqa": "f1_first_line",
    **dict.fromkeys(("gov_report", "qmsum", "multi_news"), "rouge_l"),
    "samsum": "rouge_l_first_line",
    **dict.fromkeys(("passage_count", "passage_retrieval_en"), "number_share"),
    **dict.fromkeys(("lcc", "repobench-p"), "code_line"),
}
_MOST_TOKENS = 1_000_000


def is_longbench(folder: Path) -> bool:
    """Whether the folder is laid out as LongBench's."""
    return (folder / _CONFIG).is_dir() and (folder / "data").is_dir()


def read_longbench(folder: Path) -> list[Case]:
    """The cases of every data set that can be scored.

    Raises:
        BadWorkload: what is missing or wrong, by file, line and field.
    """
    prompts = _table(folder / _CONFIG / "dataset2prompt.json", str)
    caps = _table(folder / _CONFIG / "dataset2maxlen.json", int)
    cases: list[Case] = []
    for path in sorted((folder / "data").glob("*.jsonl")):
        name = path.stem
        if (metric := _METRICS.get(name.removesuffix("_e"))) is None:
            _LOG.warning("%s is left out: nothing here scores it", path)
            continue
        base = name.removesuffix("_e")
        for table, file in ((prompts, "dataset2prompt"), (caps, "dataset2maxlen")):
            if base not in table:
                raise BadWorkload(f"{folder / _CONFIG / file}.json: {base!r} is missing")
        cases += _cases(path, prompts[base], caps[base], metric)
    if not cases:
        raise BadWorkload(f"{folder / 'data'} holds no data set that can be scored")
    return cases


def _cases(path: Path, template: str, cap: int, metric: str) -> Iterator[Case]:
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        fields = json_object(line, place)
        texts = {name: fields.get(name) for name in ("input", "context")}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise BadWorkload(f"{place}: {name!r} must be a text")
        answers = fields.get("answers")
        if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
            raise BadWorkload(f"{place}: 'answers' must be a list of texts")
        if not (wanted := tuple(answer for answer in answers if answer.strip())):
            raise BadWorkload(f"{place}: 'answers' is empty, nothing could be scored")
        # Not by ``format``: braces of the texts are text.
        pieces = re.split(r"\{(context|input)\}", template)
        filled = "".join(str(texts[p]) if odd % 2 else p for odd, p in enumerate(pieces))
        yield Case(f"{path.stem}-{number}", "", filled, wanted, metric, cap)


def _table(path: Path, kind: type) -> dict[str, Any]:
    table = json_object(read_text(path), str(path))
    if not all(isinstance(each, kind) for each in table.values()):
        raise BadWorkload(f"{path}: must name a {kind.__name__} for each data set")
    if kind is int and not all(0 < each <= _MOST_TOKENS for each in table.values()):
        raise BadWorkload(f"{path}: must be from 1 to {_MOST_TOKENS} tokens")
    return table
