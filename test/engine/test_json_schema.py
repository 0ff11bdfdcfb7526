# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.engine.json_schema import SchemaCheck

COUNT = {"type": "integer", "minimum": 1}
DRAFT_4 = "http://json-schema.org/draft-04/schema#"


@pytest.mark.parametrize(
    ("schema", "text", "violation"),
    [
        (COUNT, "3", ""),
        (COUNT, "0", "less than the minimum"),
        (COUNT, '"x"', "not of type"),
        (COUNT, "{", "not JSON"),
        (COUNT, "[" * 100_000, "cannot be checked"),
        ({"type": "array", "items": COUNT}, "[1, 0]", r"^\$\[1\]: "),
        ({"type": "number", "multipleOf": 0.1}, "1.4", ""),
        ({"type": "number", "multipleOf": 0.1}, "1.45", "not a multiple"),
        ({"type": "number", "multipleOf": 0.5}, "4E+46257790287398905", ""),
        ({"multipleOf": 2}, '"text"', ""),
        ({"pattern": "^a"}, '"b"', "does not match"),
        ({"pattern": "(^|x)(a|aa)+$"}, f'"{"a" * 60}!"', "takes too long|does not match"),
        ({"patternProperties": {"^a": COUNT}}, '{"b": 0}', ""),
        ({"patternProperties": {"^a": COUNT}}, '{"ab": 0}', r"^\$\.ab: "),
        ({"minProperties": 2}, '{"a": 1, "a": 2}', "enough properties"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "1", "cannot be checked"),
        ({"$schema": DRAFT_4, "minimum": 0, "exclusiveMinimum": True}, "0", "minimum"),
    ],
)
def test_a_text_satisfies_its_schema_or_is_told_why_not(schema, text, violation):
    found = SchemaCheck(schema).violation(text)
    assert re.search(violation or "^$", found)


def test_alternatives_that_multiply_end():
    names = [f"a{n}" for n in range(40)]
    defs = {
        name: {"allOf": [{"$ref": f"#/$defs/{after}"}] * 2}
        for name, after in zip(names, [*names[1:], "end"], strict=True)
    }
    check = SchemaCheck({"$defs": defs | {"end": COUNT}, "$ref": "#/$defs/a0"})
    assert "keywords apply" in check.violation("1")


SCHEMAS = [
    COUNT,
    {"enum": ["a", 1, None]},
    {"type": "string", "pattern": "^a+$", "maxLength": 3},
    {"type": "object", "properties": {"a": COUNT}, "required": ["a"]},
    {"patternProperties": {"^a": {"type": "boolean"}}, "additionalProperties": False},
    {"oneOf": [{"type": "integer"}, {"minimum": 2}]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(value=VALUES, schema=st.sampled_from(SCHEMAS))
def test_it_says_what_jsonschema_says(value, schema):
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (SchemaCheck(schema).violation(json.dumps(value)) == "") is valid
