# SPDX-License-Identifier: Apache-2.0
"""The length predictor's time beside the prefill's, and how much of a prompt it may read."""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from machine import heading

from timebill_ros.budget.fit import ProfilePoints, fit_time_model
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.profile import Profiler, profile_predictor
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings

MODEL = Path(model_folder(Settings()))
PREDICTOR = MODEL.parent / "predictor"
# The embedded predictor is much smaller against its target than the paper's: what a larger one
# might read.
SLOWER = (1, 10, 30, 100)
COLUMNS = ("prompt_tokens", "prefill_s", "predict_s", *(f"n_p_{factor}x" for factor in SLOWER))


def profile(arguments: argparse.Namespace) -> ProfilePoints:
    """Median times of prefill and prediction over their inputs, in one run, on one thread each."""
    predictor = load_predictor(arguments.predictor, threads=arguments.threads)
    checkpoint = load_checkpoint(arguments.model)
    settings = EngineSettings(max_context=arguments.max_context, threads=arguments.threads)
    engine = TransformerEngine(checkpoint, settings)
    words = random.Random(0).choices(range(len(checkpoint.tokenizer)), k=arguments.max_context)

    def predict(tokens: int) -> None:
        predictor.predict("", words[:tokens], None)

    points = Profiler(engine, limit=arguments.limit).measure()
    times = profile_predictor(predict, longest=arguments.max_context, limit=arguments.limit)
    return replace(points, predictor=times)


def longest_inputs(model: TimeModel, prompt_tokens: int) -> list[int]:
    """N_p for predictors that are as slow as this one, and so many times slower."""
    own = model.predictor
    assert own is not None
    slower = (Quadratic(own.a * k, own.b * k, own.c * k) for k in SLOWER)
    return [replace(model, predictor=p).longest_predictor_input(prompt_tokens) for p in slower]


def rows(points: ProfilePoints) -> list[list[float]]:
    """A row per N_x, as ``COLUMNS`` names them."""
    model = fit_time_model(points).model
    return [
        [m.tokens, model.prefill(m.tokens), m.seconds, *longest_inputs(model, m.tokens)]
        for m in points.predictor
    ]


def print_table(measured: Sequence[Sequence[float]]) -> None:
    """Times in ms, the predictor's share of the prefill, and N_p."""
    factors = "  ".join(f"N_p at {factor:3d}x" for factor in SLOWER)
    print(f"   N_x   prefill ms   predict ms   share   {factors}")
    for tokens, prefill, predict, *inputs in measured:
        limits = "  ".join(f"{limit:10.0f}" for limit in inputs)
        print(
            f"{tokens:6.0f}   {1e3 * prefill:10.1f}   {1e3 * predict:10.2f}   "
            f"{predict / prefill:5.1%}   {limits}"
        )


def main() -> None:
    """Measure, print, and write a CSV where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--predictor", type=Path, default=PREDICTOR)
    parser.add_argument("--max-context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of measuring")
    parser.add_argument("--csv", type=Path, help="where to write the table, times in seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = rows(profile(arguments))
    print(heading("Predictor cost"))
    print_table(measured)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(measured)


if __name__ == "__main__":
    main()
