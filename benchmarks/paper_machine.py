# SPDX-License-Identifier: Apache-2.0
"""The paper's Fig. 7 and 8 on a machine like the paper's, in virtual time, and with this engine.

Nothing of it was measured on that machine. Assumed, from published figures:

- Qwen2.5-7B-Instruct in 16 bits: 28 layers of 3,584, 28 heads over 4, feed-forward 18,944, 152,064
  words. An A40: 696 GB/s; 150 TFLOP/s dense, of which a prefill reaches half.
- Plain kernels: keys and values are appended by a copy of the whole cache and repeated for each of
  the 7 heads of a group, in memory, at every step; a step's launches and Python take 25 ms.
  With this engine: neither, and 2 ms, for the step is one captured graph.
- Prompts of 4,000 to 16,000 tokens, evenly on a logarithmic scale; answers log-normal with a median
  of 100 tokens and a sigma of 0.7, N_max 512; a predictor whose error is log-normal with a sigma of
  0.35, and which knows so. Eviction changes lengths only where the quality curve says that it
  makes answers run on to the cap.
- Quality over alpha, the same for every answer, by two curves: "steep", as measured on SmolLM2-135M
  with SnapKV (``budget.quality.PRIOR``), and "gentle", where a tenth of the cache costs 4 %: a
  little dearer than SnapKV's on Mistral-7B (arXiv 2404.14469, Table 1: 2.6 % at 92 % dropped).
- 4-bit weights are read four times as fast; they lose what int4 loses on SmolLM2, or 1 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from machine import heading

from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.bench.grounds import Ground
from timebill_ros.bench.methods import METHODS
from timebill_ros.bench.outcomes import Row, run, whole_time
from timebill_ros.bench.report import draw_budgets, draw_pessimism, tables, write_means
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.quality import PRIOR, LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.reach import Machine, ModelShape, Types, time_model
from timebill_ros.runtime.settings import Settings

QWEN = ModelShape(28, 3584, 28, 4, 128, 18944, 152064, 32768)
A40 = {"bandwidth": 696e9, "flops": 75e12}
ENGINES = {
    "plain": Machine(**A40, step_overhead=25e-3, repeats=True),
    "timebill_ros": Machine(**A40, step_overhead=2e-3),
}
BUDGETS = (5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
PROMPTS, MEDIAN, SIGMA, DOUBT = (4000, 16000), 100, 0.7, 0.35
MOST, BUCKET = 512, 16
ALPHAS = tuple(np.round(np.arange(0.0, 0.96, 0.05), 2))
GENTLE = QualityCurve(
    tuple(
        QualityPoint(dropped, score, 0.0, 0.0)
        for dropped, score in ((0.0, 100.0), (0.5, 100.0), (0.75, 99.0), (0.9, 96.0), (0.95, 92.0))
    )
)
CURVES = {"steep": (PRIOR, 95.1), "gentle": (GENTLE, 99.0)}  # and the score of 4-bit weights
NAMES = [name for name, method in METHODS.items() if not method.selects and name != "no-predictor"]


def main() -> None:
    """Print the tables of both engines, and write their means and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("out/paper_machine"))
    options = parser.parse_args()
    print(heading("The paper's figures on a machine like the paper's, calculated"))
    options.out.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for (engine, machine), curve in product(ENGINES.items(), CURVES):
        name = f"{engine}_{curve}"
        grounds = grounds_on(machine, curve, options.jobs)
        model = grounds[False].time_model
        print(
            f"\n## {engine}, {curve} curve: prefill of 8,000 tokens {model.prefill(8000):.2f} s, "
            f"step {1e3 * model.step(8000):.1f} ms, {model.p * 8e6:.2f} ms of it for the cache\n"
        )
        budgets = budgets_on(grounds[False])
        rows = list(outcomes(grounds, budgets))
        print("\n".join(tables(rows, {})))
        write_means(options.out / "means.csv", rows)
        head, *lines = (options.out / "means.csv").read_text().splitlines()
        written += [f"{engine},{curve},{line}" for line in lines]
        draw_budgets(options.out / f"paper_machine_{name}.png", rows)
        draw_pessimism(options.out / f"paper_machine_{name}_pessimism.png", rows)
    (options.out / "means.csv").unlink()
    table = "\n".join([f"engine,curve,{head}", *written])
    (options.out / "paper_machine.csv").write_text(table + "\n")


def answered(
    jobs: int, curve: QualityCurve
) -> tuple[list[AnsweredCase], dict[str, LengthDistribution]]:
    """Made-up answers whose scores follow the measured curve, and what is predicted of them."""
    rng = np.random.default_rng(0)
    cases, lengths = [], {}
    for number in range(jobs):
        n_x = round(math.exp(rng.uniform(*np.log(PROMPTS))))
        n = int(np.clip(round(MEDIAN * math.exp(SIGMA * rng.normal())), 1, MOST))
        luck = rng.uniform()
        answers = []
        for alpha in ALPHAS:
            ends = n if luck >= float(curve.ran_to_cap(alpha)) else MOST
            kept = math.floor((1.0 - alpha) * n_x + 1e-6)
            score = float(curve.score(alpha))
            answers.append(Answer("", 1.0, n_x, kept, ends, ends < MOST, score, ""))
        cases.append(AnsweredCase(str(number), {}, tuple(answers)))
        lengths[str(number)] = likely(n * math.exp(DOUBT * rng.normal()))
    return cases, lengths


def likely(centre: float) -> LengthDistribution:
    """A log-normal length around ``centre``, in buckets up to the cap."""
    edges = np.arange(0, MOST + 1, BUCKET)
    scaled = (np.log(np.maximum(edges, 1e-9)) - math.log(centre)) / (DOUBT * math.sqrt(2.0))
    below = 0.5 * (1.0 + np.array([math.erf(each) for each in scaled]))
    below[-1] = 1.0
    return LengthDistribution(np.diff(below) / (1.0 - below[0]), BUCKET)


def grounds_on(machine: Machine, curve: str, jobs: int) -> dict[bool, Ground]:
    """What methods are judged on: with the weights as they are (False), and rounded."""
    known, rounded_score = CURVES[curve]
    cases, lengths = answered(jobs, known)
    quality = LeverQuality(known, None, measured=True)
    settings = Settings(max_tokens=MOST, window=64)
    model = time_model(QWEN, machine, Types())
    rounded = [replace(case, answers=(replace(case.whole, score=rounded_score),)) for case in cases]
    return {
        False: Ground(settings, model, quality, None, cases, lengths),
        True: Ground(settings, time_model(QWEN, machine, Types(weights=4.0)), None, None, rounded),
    }


def budgets_on(ground: Ground) -> list[float]:
    """The paper's, or on a faster engine those that leave as many answers in time."""
    cases = ground.cases
    plain = time_model(QWEN, ENGINES["plain"], Types())
    then = [whole_time(plain, case) for case in cases]
    now = [whole_time(ground.time_model, case) for case in cases]
    return [round(float(np.quantile(now, np.mean(np.array(then) <= b))), 2) for b in BUDGETS]


def outcomes(grounds: dict[bool, Ground], budgets: Sequence[float]) -> Iterator[Row]:
    """Every method under every budget and policy."""
    for name in NAMES:
        method = METHODS[name]
        for policy in ("kill", "skip_next"):
            for budget in budgets:
                yield from run(grounds[method.quantised], name, method, budget, policy)


if __name__ == "__main__":
    main()
