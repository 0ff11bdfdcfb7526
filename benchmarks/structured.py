# SPDX-License-Identifier: Apache-2.0
"""Answers of the embedded model with and without their JSON schema: validity, exactness, cost.

Each task, in wording and layout that the model was not trained on, is answered both ways in turn,
greedily and without eviction. What the schema adds to a token is taken from pairs of equal answers,
whose decoding differs in nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from functools import partial
from importlib import resources

import jsonschema
import numpy as np
from machine import heading

from timebill_ros.budget.fit import fit_time_model
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.profile import Profiler
from timebill_ros.engine.profile_work import structured_answer
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings
from timebill_ros.workload.score import exact_match
from timebill_ros.workload.tasks import Family, Task, sample_task

SCHEMAS = {Family.DRIVE: "driving_command", Family.PLAN: "plan"}
MAX_TOKENS = 256
PROMPT_TOKENS = (500, 2000)


@dataclass(frozen=True)
class Answer:
    """One answer: ``seconds`` of decoding its tokens but the first."""

    text: str
    tokens: int
    seconds: float
    finish: FinishReason


def answer(engine: TransformerEngine, task: Task, schema: str) -> Answer:
    """Run one task to its end."""
    request = engine.prepare(Conversation(task.system, task.instruction), schema)
    engine.begin(request, MAX_TOKENS)
    while not engine.prefill_chunk():
        pass
    start = time.perf_counter_ns()
    while engine.finish_reason is None:
        engine.step()
    seconds = (time.perf_counter_ns() - start) * 1e-9
    return Answer(engine.text(), engine.response_tokens, seconds, engine.finish_reason)


def valid(text: str, schema: str) -> bool:
    """Whether the text parses and satisfies the schema."""
    try:
        jsonschema.validate(json.loads(text), json.loads(schema))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def main() -> None:
    """Print one row per family, without and with its schema, and the cost of a token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200, help="of each family")
    parser.add_argument("--seed", type=int, default=900_000)
    options = parser.parse_args()
    engine = TransformerEngine(
        load_checkpoint(model_folder(Settings())), EngineSettings(max_context=4096)
    )
    folder = resources.files("timebill_ros.workload") / "schemas"
    rng = np.random.default_rng(options.seed)
    print(heading("Structured answers"))
    print(f"{'':20}{'ended':>8}{'valid':>8}{'exact':>8}{'tokens':>8}{'ms/token':>10}")
    added = []
    for family, name in SCHEMAS.items():
        schema = (folder / f"{name}.schema.json").read_text(encoding="utf-8")
        rows: dict[str, list[tuple[Answer, Task]]] = {"free": [], "held": []}
        for _ in range(options.tasks):
            task = sample_task(rng, family, int(rng.integers(*PROMPT_TOKENS)), held_out=True)
            free, held = answer(engine, task, ""), answer(engine, task, schema)
            rows["free"].append((free, task))
            rows["held"].append((held, task))
            if free.text == held.text and free.tokens == held.tokens > 1:
                added.append((held.seconds - free.seconds) / (held.tokens - 1))
        for kind, pairs in rows.items():
            ended = np.mean([a.finish is FinishReason.EOS for a, _ in pairs])
            parsed = np.mean([valid(a.text, schema) for a, _ in pairs])
            exact = np.mean([exact_match(a.text, task.reference) for a, task in pairs])
            tokens = statistics.mean(a.tokens for a, _ in pairs)
            per_token = statistics.median(
                a.seconds / (a.tokens - 1) for a, _ in pairs if a.tokens > 1
            )
            print(
                f"{family.value + ', ' + kind:20}{ended:>8.1%}{parsed:>8.1%}{exact:>8.1%}"
                f"{tokens:>8.1f}{per_token * 1e3:>10.3f}"
            )
    profiler = Profiler(engine, limit=20.0, structured=partial(structured_answer, engine))
    model = fit_time_model(profiler.measure()).model
    print(f"a schema adds to a token: profiled {model.q_structured * 1e6:.0f} us", end="")
    if added:
        print(f", in {len(added)} pairs of equal answers {statistics.median(added) * 1e6:.0f} us")
    else:
        print(", no pair of equal answers")


if __name__ == "__main__":
    main()
