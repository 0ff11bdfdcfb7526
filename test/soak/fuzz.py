# SPDX-License-Identifier: Apache-2.0
"""Fuzzes what comes from outside: messages, parameters, schemas, a server's answers, and files.

Each case is drawn from a seed of its own. It passes, or is refused with an error of the part's own;
any other exception is a finding, told with its seed, and ``--first-seed SEED --cases 1`` tries that
case again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.errors import SchemaRefused, ServerFault
from timebill_ros.engine.response_schema import ResponseSchemas
from timebill_ros.engine.served.events import EventDecoder
from timebill_ros.msg import ChatMessage, Instruction
from timebill_ros.node.conversions import job_from
from timebill_ros.node.guard import guard_services
from timebill_ros.node.parameter_specs import SPECS
from timebill_ros.node.parameters import MisfitOverride, Parameters
from timebill_ros.node.serialized import refusal_of
from timebill_ros.runtime.admission import Limits, Reception, fault_of
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings

from .damaged_files import BagCases, CheckpointCases, PredictorCases, QualityCases, mutated

_TEXTS = ("", "a", "\n", "\x00", "\x1b[2J", "é" * 50, "x" * 5000, "\u202e", "{}", "nan", "1e400")


class MessageCases:
    """Bytes on the instructions' topic."""

    def __call__(self, rng: random.Random) -> None:
        """They are refused, are no instruction, or become a job that is looked at."""
        said = [
            ChatMessage(role="user", content=rng.choice(_TEXTS)) for _ in range(rng.randrange(4))
        ]
        names = ("id", "system", "prompt", "response_schema", "fallback_text")
        texts = {name: rng.choice(_TEXTS) for name in names}
        odd = (0.0, 1.0, -1.0, 1e30, float("nan"), float("inf"))
        numbers = {name: rng.choices(odd, k=rng.randrange(2)) for name in ("temperature", "top_p")}
        seed = rng.choices((0, 1, 2**32 - 1), k=rng.randrange(2))
        stop = rng.choices(_TEXTS, k=rng.randrange(4))
        message = Instruction(**texts, **numbers, messages=said, seed=seed, stop=stop)
        raw = mutated(rng, serialize_message(message))
        try:
            refused = refusal_of(raw, 10_000)
        except ValueError:
            return
        if refused is not None:
            return
        try:
            read = deserialize_message(raw, Instruction)
        except RuntimeError:  # the middleware's word for what it cannot read
            return
        now = Reception(rng.choice((0, 10**18)), rng.choice((0, 10**9)))
        job = job_from(read, id=read.id or "made", received=now, default_budget=2.0)
        fault_of(job, now, Limits(2.0, 60.0, 10_000))

    def close(self) -> None:
        """Nothing is held."""


class ParameterCases:
    """Requests to the parameter service of a node, answered without an executor."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=99)
        self._node = Node("fuzzed", context=self._context)
        self._parameters = Parameters(self._node)
        guard_services(self._node)
        self._executor = SingleThreadedExecutor(context=self._context)
        (self._set,) = (s for s in self._node.services if s.srv_type is SetParameters)

    def __call__(self, rng: random.Random) -> None:
        """One request of a few parameters: as many results, and settings that can be read."""
        names = [*SPECS, "use_sim_time", "start_type_description_service", "", "none", "\n"]
        wanted = [
            ParameterMsg(name=rng.choice(names), value=self._value(rng))
            for _ in range(rng.randint(1, 5))
        ]
        request = SetParameters.Request(parameters=wanted)
        task = self._executor.create_task(self._set.callback, request, SetParameters.Response())
        task()
        assert len(task.result().results) == len(wanted)
        with contextlib.suppress(SettingError, MisfitOverride):
            self._parameters.read()

    def _value(self, rng: random.Random) -> ParameterValue:
        return ParameterValue(
            type=rng.choice((*range(10), rng.randrange(256))),
            bool_value=rng.random() < 0.5,
            integer_value=rng.choice((0, 1, -1, 64, 2**31, 2**63 - 1, -(2**63))),
            double_value=rng.choice((0.0, 0.5, -1.0, 1e308, float("nan"), float("inf"), 5e-324)),
            string_value=rng.choice((*_TEXTS, "kill", "timebill")).replace("\0", ""),
            string_array_value=rng.choices([t.replace("\0", "") for t in _TEXTS], k=2),
        )

    def close(self) -> None:
        """Leave the domain."""
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


class SchemaCases:
    """Response schemas over the embedded model's tokens."""

    def __init__(self) -> None:
        checkpoint = load_checkpoint(model_folder(Settings()))
        vocabulary = checkpoint.model.config.vocab_size
        self._schemas = ResponseSchemas(checkpoint.tokenizer, vocabulary, checkpoint.eos_tokens)

    def __call__(self, rng: random.Random) -> None:
        """Hold a response to a schema, or to what is none."""
        text = json.dumps(self._schema(rng, 4))
        if rng.random() < 0.3:
            text = mutated(rng, text.encode()).decode("utf-8", "replace")
        with contextlib.suppress(SchemaRefused):
            self._schemas.constraint(text)

    def _schema(self, rng: random.Random, depth: int) -> object:
        """A schema of at most this depth: most keywords fit their type, some do not."""
        if depth == 0 or rng.random() < 0.1:
            return rng.choice((True, False, {}, 1, None, [], {"type": "string"}))
        inner = [self._schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
        number = rng.choice((0, 1, -1, 3, 0.5, 1e308, 2**70))
        return rng.choice(
            (
                {"type": rng.choice(("string", "integer", "number", "null", "strin"))},
                {"type": "object", "properties": dict(zip("abc", inner, strict=False))},
                {"type": "object", "required": ["a"], "additionalProperties": inner[0]},
                {"type": "array", "items": inner[0], "minItems": number, "maxItems": 4},
                {"type": "number", "minimum": number, "exclusiveMaximum": 2},
                {"type": "string", "pattern": rng.choice(("a+", "(", "(a*)*b", "\\d{9999}"))},
                {"anyOf": inner},
                {"allOf": inner},
                {"oneOf": inner},
                {"not": inner[0]},
                {"enum": rng.choices((1, "a", None, 2**70, [], 0.1), k=2)},
                {"$ref": rng.choice(("#", "#/$defs/a", "file:///etc/passwd")), "$defs": {"a": {}}},
            )
        )

    def close(self) -> None:
        """End the process that examines schemas."""
        self._schemas.close()


class StreamCases:
    """What a server streams, cut anywhere."""

    def __call__(self, rng: random.Random) -> None:
        """It is read piece by piece, or is the server's fault."""
        odd = (None, 1, -1, 2**70, 1e400, "a", [], {}, True)
        events = [
            {
                "choices": rng.choice(
                    (
                        [{"delta": {"content": rng.choice((*_TEXTS, *odd))}}],
                        [{"delta": rng.choice(odd), "finish_reason": rng.choice(odd)}],
                        [{"text": rng.choice(_TEXTS), "token_ids": rng.choice(odd)}],
                        rng.choice(odd),
                    )
                ),
                "usage": rng.choice(
                    (*odd, dict.fromkeys(("prompt_tokens", "completion_tokens"), rng.choice(odd)))
                ),
                "error": rng.choice((None, None, *odd)),
            }
            for _ in range(rng.randint(1, 5))
        ]
        raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        raw = mutated(rng, raw) if rng.random() < 0.7 else raw
        decoder, cut = EventDecoder(10_000), rng.randrange(len(raw) + 1)
        with contextlib.suppress(ServerFault):
            for part in (raw[:cut], raw[cut:], b"\n\n"):
                list(decoder.feed(part))

    def close(self) -> None:
        """Nothing is held."""


PARTS: dict[str, Callable[[], Any]] = {
    "messages": MessageCases,
    "parameters": ParameterCases,
    "schemas": SchemaCases,
    "bags": BagCases,
    "checkpoints": CheckpointCases,
    "quality": QualityCases,
    "predictors": PredictorCases,
    "streams": StreamCases,
}


def fuzz(part: str, first_seed: int, seconds: float, cases: int | None) -> list[str]:
    """Try case after case of a part for so long, or so many; the findings."""
    tried, findings, end = 0, [], time.monotonic() + seconds
    subject = PARTS[part]()
    logging.disable(logging.CRITICAL)
    try:
        while tried < cases if cases is not None else time.monotonic() < end:
            seed = first_seed + tried
            try:
                subject(random.Random(seed))
            except Exception:  # noqa: BLE001 - whatever it is, it is a finding
                findings.append(f"{part}, seed {seed}:\n{traceback.format_exc()}")
            tried += 1
    finally:
        logging.disable(logging.NOTSET)
        subject.close()
    print(f"{part}: {tried} cases from seed {first_seed}, {len(findings)} findings", flush=True)
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=600.0, help="for all parts together")
    parser.add_argument("--cases", type=int, help="of each part, however long they take")
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args(arguments)
    share = options.seconds / len(options.parts)
    findings = [
        finding
        for part in options.parts
        for finding in fuzz(part, options.first_seed, share, options.cases)
    ]
    print("\n".join(findings[:20]))
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
