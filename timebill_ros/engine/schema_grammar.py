# SPDX-License-Identifier: Apache-2.0
"""From a JSON schema to the grammar of its answers, by llguidance. Needs no torch."""

from __future__ import annotations

import json
import re

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from timebill_ros.engine.errors import SchemaRefused
from timebill_ros.engine.schema_check import Schema

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
