# SPDX-License-Identifier: Apache-2.0
"""The whole way with the embedded model, on as little as possible."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.bench import command, measure_quality
from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.bench.cases import BenchError, Case
from timebill_ros.budget.quality import (
    QualityCurve,
    QualityFile,
    QualityPoint,
    read_quality,
    write_quality,
)
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor import hidden_predictor
from timebill_ros.predictor.checkpoint import Buckets
from timebill_ros.predictor.hidden_predictor import HiddenStatePredictor
from timebill_ros.training.embedded.generation import CHECKPOINT
from timebill_ros.training.predictor.pairs import prompt_digest

EMBEDDED_WIDTH = json.loads((CHECKPOINT / "config.json").read_text())["hidden_size"]
SMALL = (
    *("--jobs", "3", "--prompt-tokens", "512", "600", "--max-context", "1024"),
    *("--shares", "1", "0.5", "--alphas", "0", "0.5", "--alphas-selected", "0"),
    *("--profile-seconds", "1"),
)
TIMES = {"a": 0.0, "b": 1e-5, "c": 1e-3, "p": 1e-7, "q": 5e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def arguments(folder: Path, *more: str) -> list[str]:
    times = folder / "times.json"
    times.write_text(json.dumps(TIMES))
    cache = ("--profile-cache", str(folder / "cache"))
    return ["--out", str(folder / "run"), *SMALL, *cache, *more]


def compared(folder: Path, *more: str) -> list[str]:
    ratios = ("--alphas", "0", "0.95", "--alphas-selected", "0", "0.95")
    return arguments(folder, "--time-model", str(folder / "times.json"), *ratios, *more)


def test_a_run_writes_rows_tables_and_pictures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("--methods", "vanilla", "timebill-k1", "expected", "hindsight")
    assert command.main(compared(folder, *methods)) == 0
    assert "| expected, both levers |" in capsys.readouterr().out
    run = folder / "run"
    assert {path.name for path in run.iterdir()} == {
        *("answers.jsonl", "rows.csv", "means.csv", "tables.md"),
        *("budgets.png", "pessimism.png"),
    }
    with (run / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 4 methods, 2 policies, 6 budgets, 3 jobs.
    assert len(rows) == 4 * 2 * 6 * 3
    best = {(r["policy"], r["budget"], r["case"]): float(r["score"]) for r in rows[-36:]}
    for row in rows:
        assert float(row["score"]) <= best[row["policy"], row["budget"], row["case"]]


def test_a_second_run_answers_nothing_again(folder: Path) -> None:
    answers = folder / "run" / "answers.jsonl"
    before = answers.read_bytes()
    assert command.main(compared(folder, "--methods", "vanilla")) == 0
    assert answers.read_bytes() == before


def test_jobs_come_as_in_a_trace(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = folder / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,1,1\n1e-4,1,1\n1000,1,1\n")
    methods = ("--methods", "vanilla", "--policies", "kill", "--quantiles", "0.9")
    assert command.main(compared(folder, *methods)) == 0
    apart = (folder / "run" / "means.csv").read_text()
    assert command.main(compared(folder, *methods, "--arrivals", str(trace))) == 0
    assert (folder / "run" / "means.csv").read_text() != apart
    capsys.readouterr()
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nsoon,1,1\n")
    assert command.main(compared(folder, *methods, "--arrivals", str(trace))) == 1
    assert "trace.csv" in capsys.readouterr().err


def test_a_run_of_another_workload_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ("--prompt-tokens", "512", "700")
    assert command.main(compared(folder, *other, "--methods", "vanilla")) == 1
    assert "is of another run: workload was" in capsys.readouterr().err


def test_a_run_of_another_model_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(compared(folder, "--dtype", "bfloat16", "--methods", "vanilla")) == 1
    assert "is of another run: environment was" in capsys.readouterr().err


def test_a_run_is_gone_on_with_for_more_seeds_and_compared_for_fewer_jobs(folder: Path) -> None:
    answers = folder / "run" / "answers.jsonl"
    before = answers.read_text()
    more = ("--seeds", "0", "1", "--jobs", "2", "--methods", "vanilla", "--budgets", "1")
    assert command.main(compared(folder, *more)) == 0
    assert answers.read_text().startswith(before)
    assert len(answers.read_text().splitlines()) == len(before.splitlines()) + 2
    with (folder / "run" / "rows.csv").open() as file:
        cases = {row["case"].partition("-")[0] for row in csv.DictReader(file)}
    assert cases == {"0", "1"}


def test_rounded_weights_are_compared_with_answers_and_times_of_their_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounded = ("--quantised", "int8", "--quantised-time-model", str(folder / "times.json"))
    some = ("--methods", "vanilla", "quantised", "--jobs", "2")
    assert command.main(compared(folder, *rounded, *some)) == 0
    assert "| rounded weights |" in capsys.readouterr().out
    header, *lines = (folder / "run" / "answers_quantised.jsonl").read_text().splitlines()
    assert json.loads(header)["environment"]["weights"] == "int8"
    assert len(lines) == 2
    assert command.main(compared(folder, "--methods", "quantised")) == 1
    assert "needs --quantised" in capsys.readouterr().err


def test_a_cascade_has_answers_of_both_models(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--smaller", "embedded-small", "--smaller-time-model", str(folder / "times.json"))
    some = ("--methods", "vanilla", "expected", "cascade", "--jobs", "2")
    assert command.main(compared(folder, *both, *some)) == 0
    assert "| expected, two models |" in capsys.readouterr().out
    larger, smaller = (
        json.loads((folder / "run" / name).read_text().splitlines()[0])["environment"]["checkpoint"]
        for name in ("answers.jsonl", "answers_smaller.jsonl")
    )
    assert larger != smaller
    assert command.main(compared(folder, "--methods", "cascade")) == 1
    assert "needs --smaller" in capsys.readouterr().err


def test_each_half_plans_by_the_other_s_curves(folder: Path) -> None:
    halves = ("--quality", "halves", "--methods", "vanilla", "expected", "--budgets", "1")
    assert command.main(compared(folder, *halves)) == 0
    with (folder / "run" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert len({(row["policy"], row["method"], row["case"]) for row in rows}) == len(rows)


def test_a_file_without_prompts_of_the_length_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = folder / "short.jsonl"
    prompts.write_text('{"prompt": "Why?", "reference": "So.", "metric": "f1"}\n')
    assert command.main(compared(folder, "--workload", str(prompts))) == 1
    assert "has 512 to 600 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--alphas", "--alphas-selected"])
def test_ratios_that_plans_may_pass_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert command.main(compared(folder, option, "0", "0.9")) == 1
    assert f"{option}: the largest, 0.9, is below alpha_max 0.95" in capsys.readouterr().err


def test_a_budget_below_every_prefill_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(compared(folder, "--budgets", "0.0001", "--methods", "vanilla")) == 1
    assert "0.0001 s is below every prefill" in capsys.readouterr().err


def test_a_file_without_references_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "Why?", "reference": "", "metric": "f1"}\n')
    assert command.main(compared(folder, "--workload", str(prompts))) == 1
    assert "prompts.jsonl:1: 'reference' is empty" in capsys.readouterr().err


def test_eviction_methods_that_references_are_not_scored_by_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--json", str(folder / "refused.json"), "--evict-by", "chunkkv")
    assert measure_quality.main(arguments(folder, *more)) == 1
    assert "evict_by is of the agreement" in capsys.readouterr().err


def test_quality_is_measured_beside_the_curves_that_there_are(folder: Path) -> None:
    path = folder / "quality.json"
    curve = QualityCurve((QualityPoint(0.0, 1.0, 0.0, 0.0),))
    write_quality(path, QualityFile({"random": curve}))
    folder = folder / "quality"
    folder.mkdir()
    assert measure_quality.main(arguments(folder, "--json", str(path))) == 0
    quality = read_quality(path)
    assert set(quality.eviction) == {"random", "snapkv"}
    assert [point.dropped for point in quality.eviction["snapkv"].points] == [0.0, 0.5]
    assert [point.dropped for point in quality.selection["lexical"].points] == [0.0, 0.5]
    assert quality.cut is not None
    assert len(quality.cut.points) == 9


def test_a_part_of_an_answer_is_worth_what_can_stand_of_it() -> None:
    text = "one two. three four. five"
    asked = Case("a", "", "?", (text,), "f1")
    answer = Answer("", 1.0, 100, 100, 10, True, 100.0, text)
    cut = measure_quality.cut_worth([AnsweredCase("a", {}, (answer,))], {"a": asked})
    worth = {point.fraction: point.worth for point in cut.points}
    # 3 characters hold no whole word; 13 the first sentence, 23 both.
    assert worth[0.1] == 0.0
    assert worth[0.5] == pytest.approx(asked.score("one two.") / 100.0, abs=1e-4)
    assert worth[0.9] == pytest.approx(asked.score("one two. three four.") / 100.0, abs=1e-4)


def test_where_no_answer_scores_a_part_tells_nothing() -> None:
    asked = Case("a", "", "?", ("yes",), "f1")
    answer = Answer("", 1.0, 100, 100, 10, True, 0.0, "no")
    with pytest.raises(BenchError, match="no answer scores anything"):
        measure_quality.cut_worth([AnsweredCase("a", {}, (answer,))], {"a": asked})


def state_predictor(folder: Path) -> Path:
    """Of the embedded model's states, fitted to nothing: some length for every prompt."""
    buckets, width = Buckets(16, 400), EMBEDDED_WIDTH
    weight = np.random.default_rng(0).normal(size=(buckets.count, width)).astype(np.float32)
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    bias = np.zeros(buckets.count, np.float32)
    predictor = HiddenStatePredictor(buckets, 2, zeros, ones, weight, bias)
    hidden_predictor.save(folder, predictor, {})
    return folder


def test_lengths_are_told_by_the_states_of_every_prompt_that_was_answered(folder: Path) -> None:
    head = state_predictor(folder / "head")
    some = ("--predictor", str(head), "--methods", "timebill-k1", "expected", "--budgets", "1")
    assert command.main(compared(folder, *some)) == 0
    (kept,) = (folder / "run").glob("lengths_*.jsonl")
    _, *lines = kept.read_text().splitlines()
    told = {case["case"]: case["told"] for case in map(json.loads, lines)}
    assert len(told) == 3
    for one, half in told.values():
        assert (one["share"], half["share"]) == (1.0, 0.5)
        assert one["probabilities"] != half["probabilities"]
    with (folder / "run" / "rows.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "timebill-k1"]
    for row in rows:
        likeliest = int(np.argmax(told[row["case"]][0]["probabilities"])) + 1
        assert int(row["predicted_tokens"]) == min(16 * likeliest, 400)
    before = kept.read_bytes()
    assert command.main(compared(folder, *some)) == 0
    assert kept.read_bytes() == before


def test_prompts_that_the_predictor_has_met_are_refused_or_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, run = state_predictor(folder / "met"), folder / "unmet"
    prompts = folder / "two.jsonl"
    asked = [" ".join(["tell"] * count) for count in (550, 560)]
    lines = [{"prompt": prompt, "reference": "x", "metric": "f1"} for prompt in asked]
    prompts.write_text("\n".join(map(json.dumps, lines)) + "\n")
    engine = TransformerEngine(load_checkpoint(CHECKPOINT), EngineSettings(max_context=1024))
    requests = [engine.prepare(Conversation("", prompt)) for prompt in asked]
    met, other = (prompt_digest(request.text) for request in requests)
    tokens = requests[1].prompt_tokens
    (head / "prompts.csv").write_text(f"prompt_digest,part\n{met},train\n{other},held_out\n")
    files = ("--workload", str(prompts), "--predictor", str(head), "--methods", "vanilla")
    arguments = compared(folder, *files, "--budgets", "1", "--out", str(run))
    assert command.main(arguments) == 1
    assert "was trained or calibrated on 1 of the 2 prompts" in capsys.readouterr().err
    assert not (run / "answers.jsonl").exists()
    assert set((run / "prompts.txt").read_text().split()) == {met, other}
    assert command.main([*arguments, "--leave-out-met"]) == 0
    cases = (run / "answers.jsonl").read_text().splitlines()[1:]
    assert [json.loads(case)["answers"][0]["prompt_tokens"] for case in cases] == [tokens]
