# SPDX-License-Identifier: Apache-2.0
"""How far the node's worst cases hold: answers within the predicted WCET and the deadline.

The same tasks of every family and length are sent with the same budgets for each caution: pessimism
k or risk for the length, each with the profile's times as they are and for a time risk of one in
twenty. A budget is a share of the worst case that the node plans for the task at k = 5 without
eviction, drawn evenly, so that some need none, some need it and some cannot be met.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from machine import heading
from served import Served, again, draw_instruction, duration, execution, served

from timebill_ros.budget.time_model import TimeModel
from timebill_ros.msg import Instruction, Overrun, Response

PROMPT_TOKENS = (100, 3000)
BUDGET_SHARES = (0.3, 1.3)
LENGTHS: tuple[dict[str, float], ...] = (
    {"pessimism": 1.0, "risk": 0.0},
    {"pessimism": 5.0, "risk": 0.0},
    {"pessimism": 5.0, "risk": 0.05},
    {"pessimism": 5.0, "risk": 0.01},
)
TIME_RISKS = (0.0, 0.05)
HEADER = (
    f"{'':>9}{'time':>6}{'plans':>7}{'mean':>7}{'of these':>10}{'N >':>9}{'ended within':>21}"
    f"{'MAPE of the time for':>26}\n"
    f"{'length':>9}{'risk':>6}{'made':>7}{'alpha':>7}{'feasible':>10}{'N_W':>9}{'WCET':>11}{'deadline':>10}"
    f"{'predicted N':>14}{'actual N':>12}"
)


def main() -> None:
    """Answer the same requests under each caution, and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    tasks = [draw_instruction(rng, f"t{n}", PROMPT_TOKENS) for n in range(arguments.requests)]
    shares = rng.uniform(*BUDGET_SHARES, len(tasks))
    rows = []
    with served(
        {
            **{"model": arguments.model, "max_context": 4096, "planner": "timebill"},
            **{"pessimism": 5.0, "time_risk": 0.0},
        }
    ) as node:
        worst = [duration(node.ask(task).plan.wcet) for task in tasks]
        for length, time_risk in itertools.product(LENGTHS, TIME_RISKS):
            node.reconfigure({**length, "time_risk": time_risk})
            name = f"risk {length['risk']:g}" if length["risk"] else f"k {length['pessimism']:g}"
            asked = [
                again(task, f"{task.id} {name} {time_risk:g}", share * wcet)
                for task, share, wcet in zip(tasks, shares, worst, strict=True)
            ]
            rows.append(row(name, time_risk, answer(node, asked), node.time_model()))
    print(heading("Worst cases"))
    print(
        f"{len(tasks)} requests of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} prompt tokens, budgets "
        f"of {BUDGET_SHARES[0]:g} to {BUDGET_SHARES[1]:g} times the worst case at k = 5"
    )
    print(HEADER)
    print("\n".join(rows))


def answer(node: Served, instructions: Sequence[Instruction]) -> list[Response | Overrun]:
    """What ended each instruction, one after the other."""
    return [node.ask(instruction) for instruction in instructions]


def row(
    name: str, time_risk: float, messages: Sequence[Response | Overrun], model: TimeModel
) -> str:
    """One row of the table.

    The shares are over the feasible plans: of those, killed ones ended within neither, and those
    that had outgrown N_W broke the plan's first assumption. The errors are over the answers; for
    the actual length, the time that the model gives for it after the prefill as measured, as in
    the plan.
    """
    planned = [message for message in messages if message.plan.planner]
    feasible = [message for message in planned if message.plan.feasible]
    answers = [message for message in planned if isinstance(message, Response)]
    in_time = [message for message in feasible if isinstance(message, Response)]
    outgrown = [m for m in feasible if m.response_tokens > m.plan.planned_tokens]
    within = [message for message in in_time if execution(message) <= duration(message.plan.wcet)]
    predicted = [duration(message.plan.predicted_time) for message in answers]
    actual = [spent_and_decode(message, model) for message in answers]
    times = np.array([execution(message) for message in answers])
    errors = [float(np.mean(np.abs(np.array(t) / times - 1.0))) for t in (predicted, actual)]
    return (
        f"{name:>9}{time_risk:6g}{len(planned):7}{np.mean([m.plan.alpha for m in planned]):7.2f}"
        f"{len(feasible):10}{len(outgrown) / len(feasible):9.1%}"
        f"{len(within) / len(feasible):11.1%}{len(in_time) / len(feasible):10.1%}"
        f"{errors[0]:14.1%}{errors[1]:12.1%}"
    )


def spent_and_decode(response: Response, model: TimeModel) -> float:
    """s that equation (9) gives for the length that the response really has."""
    plan, timing = response.plan, response.timing
    rest = model.evict_and_decode(plan.prompt_tokens, plan.kept_tokens, response.response_tokens)
    return duration(timing.prefill) + rest


if __name__ == "__main__":
    main()
