# SPDX-License-Identifier: Apache-2.0
"""The policy anytime through a running node: which answers come in time, and how early.

Reports are asked for with budgets that end somewhere in their decoding, as free text and held to a
schema; nothing is evicted, so that the deadline decides.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import product

import jsonschema
import numpy as np
from machine import heading
from served import again, draw_instruction, duration, execution, served

from timebill_ros.msg import Overrun, Response
from timebill_ros.workload.tasks import Family

SCHEMA = {
    "type": "object",
    "properties": {
        "records": {
            "type": "array",
            "items": {"type": "string", "minLength": 20, "maxLength": 60},
        }
    },
    "required": ["records"],
    "additionalProperties": False,
}
KINDS = {"text": "", "schema": json.dumps(SCHEMA)}
PARAMETERS = {"overrun_policy": "anytime", "planner": "vanilla", "max_tokens": 200}


def describe(name: str, outcomes: Sequence[Response | Overrun]) -> str:
    """One row of the table."""
    responses = [o for o in outcomes if isinstance(o, Response)]
    truncated = [o for o in responses if o.truncated]
    details = Counter(o.detail for o in outcomes if isinstance(o, Overrun))
    missed = sum(n for detail, n in details.items() if "nothing generated" not in detail)
    slack = np.array([duration(o.timing.slack) for o in truncated]) * 1e3
    p1, p50, p99 = np.quantile(slack, [0.01, 0.5, 0.99]) if truncated else [np.nan] * 3
    empty = details.total() - missed
    return (
        f"{name:14}{len(outcomes):>6}{len(responses) - len(truncated):>8}{len(truncated):>11}"
        f"{missed:>10}{empty:>11}{p1:>10.2f}{p50:>8.2f}{p99:>8.2f}"
    )


def main() -> None:
    """Print one row per kind of answer and margin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", type=int, default=60)
    parser.add_argument("--margins", type=float, nargs="+", default=[0.0, 0.005, 0.01])
    options = parser.parse_args()
    print(heading("Anytime"))
    print(
        f"{'':14}{'n':>6}{'whole':>8}{'truncated':>11}{'missed':>10}{'nothing':>11}"
        f"{'slack p1':>10}{'p50':>8}{'p99 ms':>8}"
    )
    rng = np.random.default_rng(0)
    outcomes: dict[str, list[Response | Overrun]] = defaultdict(list)
    with served(PARAMETERS) as node:
        for i in range(options.instructions):
            instruction = draw_instruction(rng, f"whole-{i}", (500, 2000), family=Family.REPORT)
            whole = node.ask(instruction)
            prefill = duration(whole.timing.prefill)
            decode = execution(whole) - prefill
            # At once behind the whole answer, a part of whose time is given: machines drift.
            for margin, (kind, schema) in product(options.margins, KINDS.items()):
                node.node.set_parameters({"anytime_margin": margin})
                name = f"{kind} {margin * 1e3:g} ms"
                budget = 1.2 * prefill + rng.uniform(0.1, 0.9) * decode + 0.02
                short = again(instruction, f"{name}-{i}", budget)
                short.response_schema = schema
                outcomes[name].append(node.ask(short))
                if schema and isinstance(outcomes[name][-1], Response):
                    jsonschema.validate(json.loads(outcomes[name][-1].text), SCHEMA)
    for name, ended in outcomes.items():
        print(describe(name, ended))


if __name__ == "__main__":
    main()
