# SPDX-License-Identifier: Apache-2.0
"""Why answers cannot be held to a schema, found before one is asked for.

Runs in a process of its own, see ``schema_process``: it imports no torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

from llguidance import LLMatcher, LLTokenizer

from timebill_ros.engine.errors import SchemaRefused
from timebill_ros.engine.json_schema import (
    EXACT,
    Schema,
    SchemaCheck,
    check_schema,
    compile_grammar,
    fault_of,
    read_schema,
)

_WALKS = 16  # random answers that are tried, of so many bytes each and all together:
_LONGEST_WALK = 200
_ALL_WALKS = 1500
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_HERE = re.compile(r"^#(/.*)?$")  # a reference within the document


def schema_fault(text: str) -> str:
    """Why no answer can be held to the schema that ``text`` is; "" where nothing speaks against it.

    What llguidance gets wrong is refused by rule; beyond that some random answers of the grammar
    are checked. May take long: patterns can be such that compiling them never ends.
    """
    try:
        schema = read_schema(text)
        if not has_finite_answer(schema):
            return "every answer would have to contain another one, without end"
        for rule in (_number_too_large, _excluded_bound, _repeated_names):
            for part in _parts(schema):
                if fault := rule(part):
                    return fault
        tokens = LLTokenizer("byte")
        matcher = compile_grammar(tokens, schema)
        check_schema(schema)
        return _walks_fault(tokens, matcher, SchemaCheck(schema))
    except SchemaRefused as refused:
        return refused.reason
    except RecursionError:
        return "it is nested too deeply"


def has_finite_answer(schema: Schema) -> bool:
    """Whether an answer can end, for all that required members and references say of it."""
    finite: set[str] = set()  # references that are known to lead to one
    while True:
        reached = {ref for ref in _references(schema) if _ends(_target(schema, ref), finite)}
        if reached <= finite:
            return _ends(schema, finite)
        finite |= reached


def _ends(part: Any, finite: set[str]) -> bool:
    """Whether a value of ``part`` can end, where those of the references in ``finite`` can."""
    if not isinstance(part, dict):
        return True
    ref = part.get("$ref")
    if isinstance(ref, str) and _HERE.match(ref) and ref not in finite:
        return False
    if not all(_ends(each, finite) for each in _listed(part, "allOf")):
        return False
    for name in ("anyOf", "oneOf"):
        if (choices := _listed(part, name)) and not any(_ends(each, finite) for each in choices):
            return False
    if part.get("type") == "object":
        return all(_ends(_member(part, name), finite) for name in _listed(part, "required"))
    if part.get("type") == "array" and part.get("minItems", 0):
        first = _listed(part, "prefixItems")[: part["minItems"]]
        others = [part.get("items")] * (len(first) < part["minItems"])
        return all(_ends(each, finite) for each in (*first, *others))
    return True


def _member(part: Schema, name: Any) -> Any:
    """The schema of an object's member, as far as it is given by name."""
    members = part.get("properties", {})
    return members.get(name, part.get("additionalProperties")) if isinstance(members, dict) else {}


def _parts(part: Any) -> Iterator[Schema]:
    """Every object within a schema; more than its subschemas, but each of those."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _parts(each)


def _listed(part: Schema, name: str) -> list[Any]:
    value = part.get(name)
    return value if isinstance(value, list) else []


def _references(schema: Schema) -> set[str]:
    found = (part.get("$ref") for part in _parts(schema))
    return {ref for ref in found if isinstance(ref, str) and _HERE.match(ref)}


def _target(schema: Schema, ref: str) -> Any:
    """What a reference within the document points to; True where it points nowhere."""
    target: Any = schema
    for step in ref.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and name in target:
            target = target[name]
        elif isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        else:
            return True
    return target


def _number_too_large(part: Schema) -> str:
    """llguidance rounds integers beyond 2^53, and cuts bounds to 64 bits."""
    numbers = [part.get(name) for name in _BOUNDS]
    for value in (part.get("const"), *_listed(part, "enum")):
        numbers += _numbers(value)
    for number in numbers:
        if _is_number(number) and abs(number) > EXACT:
            return f"{number} is beyond 2^53, where numbers are not exact"
    return ""


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    else:
        yield value


def _excluded_bound(part: Schema) -> str:
    """Of an interval (e, e + x] with e whole and x < 1, llguidance allows e itself."""
    lower = part.get("exclusiveMinimum")
    uppers = [part.get("maximum"), part.get("exclusiveMaximum")]
    if part.get("type") == "integer" or not _is_number(lower) or lower != int(lower):
        return ""
    if not any(_is_number(upper) and upper < lower + 1 for upper in uppers):
        return ""
    return (
        f"an exclusiveMinimum of {lower} below a maximum of less than {lower + 1} cannot be kept; "
        "use minimum"
    )


def _repeated_names(part: Schema) -> str:
    """llguidance counts a name that the schema leaves open as often as it is written."""
    least = part.get("minProperties")
    is_open = part.get("additionalProperties", True) is not False or "patternProperties" in part
    required = len(_listed(part, "required"))
    if not _is_number(least) or least <= max(1, required) or not is_open:
        return ""
    return (
        f"minProperties {least} cannot be kept where names are open: one could be repeated; "
        "name the members in required"
    )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _walks_fault(tokens: LLTokenizer, matcher: LLMatcher, check: SchemaCheck) -> str:
    """What is wrong with some random answers."""
    walked = 0
    for seed in range(_WALKS):
        if walked > _ALL_WALKS:
            break
        walk = _Walk(tokens, matcher, random.Random(seed))
        answer = walk.answer()
        walked += walk.bytes
        if walk.fault:
            return walk.fault
        if answer is not None and (violation := check.violation(answer)):
            return f"the grammar allows {answer[:60]!r}, which does not satisfy it: {violation}"
    return ""


class _Walk:
    """One way through a grammar, byte by byte, that likes to end what it began."""

    def __init__(self, tokens: LLTokenizer, matcher: LLMatcher, chance: random.Random) -> None:
        self.fault = ""
        self.bytes = 0
        self._tokens = tokens
        self._matcher = matcher.deep_copy()
        self._chance = chance

    def answer(self) -> str | None:
        """The text; None if it became too long, or found a fault."""
        text = bytearray()
        in_string = False
        while len(text) < _LONGEST_WALK:
            token = self._next(b'"' if in_string else b"}]")
            if token is None:
                return None
            if token == self._tokens.eos_token:
                return text.decode(errors="replace")
            if not self._matcher.consume_token(token):
                self.fault = f"its grammar gave up: {fault_of(self._matcher)}; simplify it"
                return None
            text.append(token)
            self.bytes += 1
            in_string ^= token == ord('"') and not text.endswith(b'\\"')
        return None

    def _next(self, enders: bytes) -> int | None:
        bits = int.from_bytes(self._matcher.compute_bitmask(), "little")
        allowed = [token for token in range(self._tokens.vocab_size) if bits >> token & 1]
        if self._matcher.is_error():
            self.fault = f"its grammar gave up: {fault_of(self._matcher)}; simplify it"
            return None
        if not allowed:
            self.fault = "an answer can come to where nothing may follow; simplify it"
            return None
        ends: list[int] = [token for token in (self._tokens.eos_token, *enders) if token in allowed]
        if ends and self._chance.random() < 0.5:
            return ends[0]
        plain = [t for t in allowed if t == self._tokens.eos_token or (32 <= t < 127 and t != 92)]
        return self._chance.choice(plain or allowed)
