# SPDX-License-Identifier: Apache-2.0
"""Schemas and the policy anytime, from message to message."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
from builtin_interfaces.msg import Time

from timebill_ros.msg import Overrun, Response

from .bench import HELD, Bench, Hold

# Its strings never end here, so that only the empty list can be closed.
ENDLESS = '{"type": "array", "items": {"type": "string", "minLength": 100000}}'


@pytest.mark.parametrize("name", ["driving_command", "plan"])
def test_an_answer_satisfies_the_instruction_s_schema(bench: Bench, name: str) -> None:
    folder = resources.files("timebill_ros.workload") / "schemas"
    schema = (folder / f"{name}.schema.json").read_text(encoding="utf-8")
    bench.active()
    bench.send("held", prompt="stop the vehicle", response_schema=schema)
    bench.until(lambda: bench.terminal() == ["held"])
    (response,) = bench.responses
    assert response.finish_reason in (Response.EOS, Response.LENGTH)
    if response.finish_reason == Response.EOS:
        jsonschema.validate(json.loads(response.text), json.loads(schema))


def test_a_schema_that_does_not_compile_is_rejected_and_costs_no_other_instruction(
    bench: Bench,
) -> None:
    bench.active()
    bench.send("broken", response_schema='{"type": "strin"}')
    bench.send("cut", response_schema='{"type": ')
    bench.send("free")
    bench.until(lambda: len(bench.terminal()) == 3)
    refused = {o.id: o for o in bench.overruns}
    assert {o.reason for o in bench.overruns} == {Overrun.REJECTED}
    assert "strin" in refused["broken"].detail
    assert refused["cut"].detail.startswith("response_schema: it is not JSON")
    assert [r.id for r in bench.responses] == ["free"]


def test_anytime_answers_before_the_deadline_with_what_can_be_closed(bench: Bench) -> None:
    bench.active(overrun_policy="anytime", use_sim_time=True)
    bench.show(clock=100.0)
    hold = Hold(bench)
    bench.send("endless", response_schema=ENDLESS, max_tokens=900, deadline=Time(sec=110))
    bench.until(lambda: hold.steps == HELD)
    bench.show(clock=109.995)
    hold.let_go()
    bench.until(lambda: bench.terminal() == ["endless"])
    (response,) = bench.responses
    assert (response.finish_reason, response.truncated) == (Response.DEADLINE, True)
    assert (response.text, response.late) == ("[]", False)
