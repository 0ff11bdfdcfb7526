# SPDX-License-Identifier: Apache-2.0
"""How often answers came late whose plan was feasible, against the risk that was set.

    timebill_ros bench --out RUN --methods expected-risk-0.05 expected-risk-0.2 --policies kill
    python benchmarks/risk_misses.py RUN/rows.csv

Reads the rows of a comparison. Times are virtual there, so a miss is one of the length that was
planned for; what a real machine's times add is set by ``time_risk``, see wcet_share.py.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from timebill_ros.bench.methods import METHODS

_Z = 1.96  # of an interval of 95 %


def interval(missed: int, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a share (Wilson, JASA 22, 1927)."""
    share, square = missed / count, _Z * _Z / count
    middle = (share + square / 2.0) / (1.0 + square)
    half = _Z * math.sqrt(share * (1.0 - share) / count + square / (4.0 * count)) / (1.0 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Markdown: for each method with a risk and policy a line per budget, and one for all."""
    heads = ("plan", "policy", "budget", "risk", "said feasible", "missed of these", "95 %")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    groups = dict.fromkeys((row["method"], row["policy"]) for row in rows)
    for method, policy in groups:
        own = [row for row in rows if (row["method"], row["policy"]) == (method, policy)]
        risk = METHODS[method].settings.get("risk")
        if risk is None:
            continue
        for budget in [*dict.fromkeys(row["budget"] for row in own), ""]:
            asked = [row for row in own if budget in ("", row["budget"])]
            told = [row["outcome"] != "in time" for row in asked if row["feasible"] == "True"]
            name = f"{float(budget):.3g} s" if budget else "all"
            cells = [METHODS[method].title, policy, name, f"{risk:.0%}"]
            cells.append(f"{len(told)} of {len(asked)}")
            if not told:
                cells += ["", ""]
            else:
                low, high = interval(sum(told), len(told))
                cells += [f"{sum(told) / len(told):.1%}", f"{low:.1%} to {high:.1%}"]
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", type=Path, help="rows.csv of timebill_ros bench")
    with parser.parse_args().rows.open(newline="", encoding="utf-8") as file:
        print("\n".join(table(list(csv.DictReader(file)))))


if __name__ == "__main__":
    main()
