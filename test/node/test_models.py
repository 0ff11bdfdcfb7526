# SPDX-License-Identifier: Apache-2.0
"""A node with several models: which one answered is told wherever a plan is."""

from __future__ import annotations

import pytest
from rcl_interfaces.msg import ParameterType

from .bench import FAILURE, Bench


@pytest.mark.parametrize(
    ("models", "place"),
    [(["embedded", "embedded-small"], 0.0), (["embedded-small", "embedded"], 1.0)],
    ids=["larger first", "smaller first"],
)
def test_with_ample_time_the_better_model_answers(
    bench: Bench, models: list[str], place: float
) -> None:
    """By their curves, whatever their order; how soon it is does not matter in ten minutes."""
    bench.active(models=models, max_tokens=20)
    bench.send("a", budget=600.0)
    bench.until(lambda: bench.terminal() == ["a"] and bool(bench.debug["model"]))
    (response,) = bench.responses
    assert response.plan.model == "embedded"
    assert response.plan.planner == "expected"
    assert bench.debug["model"] == [place]

    def told() -> dict[str, str]:
        statuses = [s for array in bench.diagnostics for s in array.status]
        return {pair.key: pair.value for status in statuses for pair in status.values}

    bench.until(lambda: told().get("answered by local, embedded") == "1")
    assert told()["answered by local, embedded-small"] == "0"


def test_model_and_models_together_are_refused_by_name(bench: Bench) -> None:
    node = bench.node(models=["embedded", "embedded-small"], model="embedded-small")
    assert node.trigger_configure() == FAILURE
    bench.until(
        lambda: any(
            "model must be left as it is where models names" in status.message
            for array in bench.diagnostics
            for status in array.status
        )
    )


def test_models_are_an_array_of_names_and_empty_ones_are_none(bench: Bench) -> None:
    node = bench.active(models=["", "embedded-small"])
    assert node.describe_parameter("models").type == ParameterType.PARAMETER_STRING_ARRAY
    bench.send("a", budget=600.0)
    bench.until(lambda: bench.terminal() == ["a"])
    assert bench.responses[0].plan.model == "embedded-small"
