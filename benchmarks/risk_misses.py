# SPDX-License-Identifier: Apache-2.0
"""How often answers came late whose plan was feasible, against the risk that was set.

    timebill_ros bench --out RUN --methods expected-risk-0.05 expected-risk-0.2 --policies kill
    python benchmarks/risk_misses.py RUN/rows.csv

reads the rows of a comparison. Times are virtual there, so a miss is one of the length that was
planned for. In real time, with a node that really answers:

    python benchmarks/risk_misses.py --answer 200

Each task has a share of the time that it took without a deadline, drawn evenly: most need a lever,
and a plan that just fits is the rule. A miss there is one of the length or of the times, so that at
most ``risk`` and ``time_risk`` together may miss.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from machine import heading
from served import again, draw_instruction, execution, served

from timebill_ros.bench.intervals import interval_of_share
from timebill_ros.bench.methods import METHODS
from timebill_ros.msg import Response

PROMPT_TOKENS = (300, 3000)
SHARES = (0.4, 1.2)
TIME_RISK = 0.05
ANSWERED = ("expected-risk-0.05", "expected-risk-0.2", "timebill-risk-0.05", "timebill-risk-0.2")


def table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Markdown: for each method with a risk and policy a line per budget, and one for all."""
    heads = ("plan", "policy", "budget", "may miss", "said feasible", "missed of these", "95 %")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    groups = dict.fromkeys((row["method"], row["policy"]) for row in rows)
    for method, policy in groups:
        own = [row for row in rows if (row["method"], row["policy"]) == (method, policy)]
        risk = METHODS[method].settings.get("risk")
        if risk is None:
            continue
        risk += float(own[0].get("time_risk", 0.0))
        for budget in dict.fromkeys([*(row["budget"] for row in own), ""]):
            asked = [row for row in own if budget in ("", row["budget"])]
            told = [row["outcome"] != "in time" for row in asked if row["feasible"] == "True"]
            name = f"{float(budget):.3g} s" if budget else "all"
            cells = [METHODS[method].title, policy, name, f"{risk:.0%}"]
            cells.append(f"{len(told)} of {len(asked)}")
            if not told:
                cells += ["", ""]
            else:
                low, high = interval_of_share(sum(told), len(told))
                cells += [f"{sum(told) / len(told):.1%}", f"{low:.1%} to {high:.1%}"]
            yield f"| {' | '.join(cells)} |"


def answered(count: int, model: str) -> Iterator[dict[str, str]]:
    """Rows of a node that answers ``count`` tasks under each method, after each without a hurry."""
    rng = np.random.default_rng(0)
    parameters = {"model": model, "max_context": 4096, "time_risk": TIME_RISK}
    with served(parameters) as node:
        for number in range(count):
            task = draw_instruction(rng, f"{number}", PROMPT_TOKENS)
            took = execution(node.ask(task))
            for name in ANSWERED:
                node.node.set_parameters({"risk": 0.0, **METHODS[name].settings})
                hurried = again(task, f"{number} {name}", rng.uniform(*SHARES) * took)
                ended = node.ask(hurried)
                yield {
                    **{"method": name, "policy": "kill", "budget": "", "time_risk": f"{TIME_RISK}"},
                    "outcome": "in time" if isinstance(ended, Response) else "missed",
                    "feasible": str(ended.plan.feasible),
                }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", type=Path, nargs="?", help="rows.csv of timebill_ros bench")
    parser.add_argument(
        "--answer", type=int, default=200, metavar="TASKS", help="where no rows are named"
    )
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    if options.rows is None:
        rows = list(answered(options.answer, options.model))
        print(heading("Misses against the risk"))
    else:
        with options.rows.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
