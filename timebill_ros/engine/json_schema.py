# SPDX-License-Identifier: Apache-2.0
"""A JSON schema: reading it, checking texts against it in bounded time, its answers' grammar.

Needs no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from timebill_ros.engine.errors import SchemaRefused

MOST_SCHEMA_CHARS = 65_536
"""Longest schema that is read; what it takes to compile one grows with its length."""

EXACT = 2**53
"""Numbers beyond it are not told apart by those who read JSON's numbers as doubles."""

_MOST_KEYWORDS = 50_000  # looked at in one check: a tenth of a second; ten for each member are few
_PATTERN_SECONDS = 0.1  # searching for one pattern takes microseconds, unless it backtracks
_MOST_SHOWN = 80  # characters of a message that a library wrote

Schema = Mapping[str, Any]
_Keyword = Callable[..., Iterator[ValidationError] | None]


class _TooMuch(Exception):
    """A check costs too much: patterns that backtrack, or alternatives that multiply."""


def read_schema(text: str) -> Schema:
    """The schema that ``text`` is.

    Raises:
        SchemaRefused: it is too long, not JSON, no object, or no valid JSON schema.
    """
    if len(text) > MOST_SCHEMA_CHARS:
        raise SchemaRefused(f"its {len(text)} characters exceed {MOST_SCHEMA_CHARS}")
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise SchemaRefused(f"it is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SchemaRefused(f"it must be a JSON object, not {type(content).__name__}")
    return content


def check_schema(schema: Schema) -> None:
    """Raise ``SchemaRefused`` unless it is valid in its own draft, 2020-12 where it names none."""
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        path = "/".join(map(str, error.absolute_path))
        raise SchemaRefused(f"it is no valid schema: {path}: {_short(error)}") from error
    except RecursionError as error:
        raise SchemaRefused("it is nested too deeply") from error


class SchemaCheck:
    """Checks JSON texts against one schema, each with a bound on what it may cost.

    Patterns are searched for with a limit on time, since Python's own ``re`` may take for ever over
    one; references to other documents are never fetched. Where an object has two members of one
    name, the last one counts, as for nearly all who read JSON.
    """

    def __init__(self, schema: Schema) -> None:
        base = validator_for(schema, default=Draft202012Validator)
        bounded: dict[str, _Keyword] = {
            name: partial(self._counted, check) for name, check in base.VALIDATORS.items()
        }
        bounded |= {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "multipleOf": _multiple_of,
        }
        registry: Registry[Any] = EMPTY_REGISTRY
        self._validator = extend(base, bounded)(schema, registry=registry)
        self._left = 0

    def violation(self, text: str) -> str:
        """Why ``text`` does not satisfy the schema; "" where it does."""
        self._left = _MOST_KEYWORDS
        try:
            error = next(iter(self._validator.iter_errors(json.loads(text))), None)
        except ValueError as failure:
            return f"it is not JSON: {failure}"
        except (_TooMuch, Unresolvable, RecursionError, regex.error) as failure:
            return f"it cannot be checked: {_short(failure)}"
        return "" if error is None else f"{error.json_path}: {_short(error)}"

    def _counted(
        self, check: _Keyword, validator: Validator, wanted: Any, value: Any, schema: Schema
    ) -> Iterator[ValidationError]:
        self._left -= 1
        if self._left < 0:
            raise _TooMuch(f"more than {_MOST_KEYWORDS} keywords apply")
        yield from check(validator, wanted, value, schema) or ()

    def _pattern(
        self, validator: Validator, pattern: str, value: Any, schema: Schema
    ) -> Iterator[ValidationError]:
        if isinstance(value, str) and not _found(pattern, value):
            yield ValidationError(f"{value!r} does not match {pattern!r}")

    def _pattern_properties(
        self, validator: Any, patterns: Mapping[str, Any], value: Any, schema: Schema
    ) -> Iterator[ValidationError]:
        if not isinstance(value, dict):
            return
        for pattern, wanted in patterns.items():
            for name, member in value.items():
                if _found(pattern, name):
                    yield from validator.descend(member, wanted, path=name, schema_path=pattern)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _found(pattern: str, text: str) -> bool:
    try:
        found = regex.search(pattern, text, timeout=_PATTERN_SECONDS, concurrent=True)
    except TimeoutError as error:
        raise _TooMuch(f"a search for {pattern!r} takes too long") from error
    return found is not None


def _multiple_of(
    _validator: Validator, factor: float, value: Any, _schema: Schema
) -> Iterator[ValidationError]:
    """In decimal, where 1.4 is a multiple of 0.1: binary fractions would say no."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > EXACT:
        return
    if Fraction(str(value)) % Fraction(str(factor)):
        yield ValidationError(f"{value!r} is not a multiple of {factor!r}")


def _short(error: Exception) -> str:
    message = error.message if isinstance(error, ValidationError | SchemaError) else str(error)
    return message if len(message) <= _MOST_SHOWN else f"{message[:_MOST_SHOWN]}..."


# One line as ``json.dumps`` writes it: the shortest readable form, and no room for endless blanks.
_LAYOUT = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}
# Below the library's own, which let one schema take seconds and one token a fifth of one.
_LIMITS = LLParserLimits(
    max_grammar_size=10_000,
    initial_lexer_fuel=50_000,
    step_lexer_fuel=20_000,
    step_max_items=10_000,
    max_lexer_states=20_000,
    verbose_errors=False,
)
# What stands around the reason where a schema cannot be compiled.
_LISTING = "\n   1 | "
_PLACE = re.compile(r"^at \d+\(\d+\): failed to compile JSON schema: ")


def compile_grammar(tokens: LLTokenizer, schema: Schema, prefix: str = "") -> LLMatcher:
    """The grammar of the JSON texts that satisfy ``schema``, over a tokenizer's tokens.

    Args:
        tokens: the tokenizer.
        schema: a JSON schema.
        prefix: what may stand before the text, as an expression of the grammar.

    Raises:
        SchemaRefused: the library cannot express it.
    """
    grammar = f"start: {prefix}json\njson: %json {json.dumps({**schema, **_LAYOUT})}"
    matcher = LLMatcher(tokens, grammar, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise SchemaRefused(fault_of(matcher))
    # Found when the first token is chosen, it would have cost the request its prefill.
    matcher.compute_bitmask()
    if matcher.is_error():
        raise SchemaRefused(f"its grammar allows no first token: {fault_of(matcher)}; simplify it")
    return matcher


def fault_of(matcher: LLMatcher) -> str:
    """What a grammar gave up at, without its state and the listing of the grammar around it."""
    told = str(matcher.get_error()).split("<state>")[0].split(_LISTING)[0]
    return _PLACE.sub("", told).strip()
