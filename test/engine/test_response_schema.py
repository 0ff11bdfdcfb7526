# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.errors import SchemaRefused
from timebill_ros.engine.json_schema import MOST_SCHEMA_CHARS
from timebill_ros.engine.response_schema import ResponseSchemas
from timebill_ros.engine.schema_process import SchemaProcess
from timebill_ros.training.embedded.batches import build_tokenizer

from .conftest import COMMON, EOS, byte_tokenizer


@pytest.fixture(scope="module")
def schemas() -> Iterator[ResponseSchemas]:
    """Schemas over single bytes."""
    schemas = ResponseSchemas(byte_tokenizer(), COMMON["vocab_size"], {EOS})
    yield schemas
    schemas.close()


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[]", "must be a JSON object, not list"),
        ('{"type": "strin"}', "strin"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"$ref": "http://elsewhere/schema"}', "not present"),
        ('{"type": "string", "pattern": "("}', "regex parse error"),
        ('{"type": "string", "minLength": 5, "maxLength": 2}', "minLength"),
        ('{"minimum": NaN}', "NaN is no number"),
        ('{"type": "string", "minLength": -1}', "minLength"),
        ("{" * 3 + '"' + "}", "not JSON"),
        (f'{{"title": "{"x" * MOST_SCHEMA_CHARS}"}}', f"exceed {MOST_SCHEMA_CHARS}"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_reason(schemas, schema, fault):
    with pytest.raises(SchemaRefused, match=r"^response_schema: ") as refused:
        schemas.constraint(schema)
    assert fault in str(refused.value)


DRAFT = "https://json-schema.org/draft/2020-12/schema"
NEEDS_B = {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]}
NEEDS_A = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": NEEDS_B, "b": NEEDS_A}, "$ref": "#/$defs/a"},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [{"allOf": [{"$ref": "#"}]}, {"$ref": "#/anyOf/0"}]},
        {"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["x"]},
    ],
)
def test_a_schema_whose_answers_never_end_is_refused(schemas, schema):
    with pytest.raises(SchemaRefused, match="without end"):
        schemas.constraint(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 2}]},
        {"$defs": {"a": NEEDS_B, "b": {"type": "integer"}}, "$ref": "#/$defs/a"},
    ],
)
def test_one_that_may_go_on_but_can_end_is_not(schemas, schema):
    schemas.constraint(json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"allOf": [{"pattern": "^a"}, {"pattern": "^b"}], "type": "string"}, "nsatisfiable"),
        (
            {
                "type": "object",
                "patternProperties": {"^a": {"type": "integer"}, "b$": {"type": "string"}},
                "required": ["ab"],
            },
            "not disjoint",
        ),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "use minimum"),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 1.5}, "use minimum"),
        ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}, "allows '0'"),
        ({"const": 2**53 + 1}, "beyond 2^53"),
        ({"enum": ["x", {"at": [-(2**60)]}]}, "beyond 2^53"),
        ({"type": "integer", "minimum": 1e20}, "beyond 2^53"),
        (
            {"type": "object", "patternProperties": {"^a": {}}, "minProperties": 2},
            "name the members in required",
        ),
    ],
)
def test_what_the_grammar_cannot_keep_is_refused_before_it_is_asked_for(schemas, schema, fault):
    with pytest.raises(SchemaRefused) as refused:
        schemas.constraint(json.dumps(schema))
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "minimum": 0, "maximum": 0.5},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 1.5},
        {"type": "number", "multipleOf": 0.1, "maximum": 10},
        {"enum": [2**53, -(2**53)]},
        {"type": "object", "required": ["a", "b"], "minProperties": 2},
        {"type": "object", "additionalProperties": {"const": 1}, "minProperties": 1},
        {"type": "object", "properties": {"exclusiveMinimum": {"const": 1}, "maximum": {}}},
        {"$schema": DRAFT, "type": "string", "pattern": "^(a|aa)+$"},
    ],
)
def test_what_it_can_keep_is_not(schemas, schema):
    schemas.constraint(json.dumps(schema))


def endless(exponents: range) -> str:
    """Patterns whose intersection has more states than any computer can visit."""
    return json.dumps(
        {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{n}}}"} for n in exponents]}
    )


def test_a_schema_that_would_never_be_compiled_is_refused_and_the_next_one_is_taken(schemas):
    with pytest.raises(SchemaRefused, match="to compile; simplify it"):
        schemas.constraint(endless(range(1, 30)))
    schemas.constraint('{"enum": ["left"]}')


def test_schemas_that_would_never_be_compiled_end_no_process_that_others_would_wait_for(
    monkeypatch,
):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(1) or popen(*a, **k))
    process = SchemaProcess()
    for last in (30, 31, 32):
        assert "to compile; simplify it" in process.fault(endless(range(1, last)))
    assert process.fault('{"enum": ["left"]}') == ""
    process.close()
    assert len(started) == 1


def test_many_optional_members_are_refused_by_their_number(schemas):
    members = {f"member{n}": {} for n in range(3000)}
    with pytest.raises(SchemaRefused, match=r"simplify it|too big|too large"):
        schemas.constraint(json.dumps({"type": "object", "properties": members}))


def test_schemas_may_come_on_several_threads(schemas):
    texts = [json.dumps({"enum": [n, "x"]}) for n in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(schemas.constraint, texts * 2))
    assert len(found) == 16


def test_the_reason_is_told_without_the_grammar_around_it(schemas):
    with pytest.raises(SchemaRefused) as refused:
        schemas.constraint('{"type": "array", "uniqueItems": true}')
    assert str(refused.value) == 'response_schema: Unimplemented keys: ["uniqueItems"]'


def test_equal_schemas_are_compiled_once_and_shared_by_no_response(schemas):
    schema = json.dumps({"enum": ["left", "right"]})
    first, second = schemas.constraint(schema), schemas.constraint(schema)
    for token in schemas.tokens('"left"'):
        first.accept(token)
    second.accept(schemas.tokens('"')[0])
    assert (first.closed(), second.closed()) == ('"left"', "")


def test_logits_may_be_wider_than_the_vocabulary():
    wide = ResponseSchemas(byte_tokenizer(), COMMON["vocab_size"] + 61, {EOS})
    held = wide.constraint('{"enum": [1]}')
    assert held.restrict(torch.zeros(COMMON["vocab_size"] + 61)).isfinite().sum() == 1


def test_every_end_token_ends_an_answer():
    schemas = ResponseSchemas(byte_tokenizer(), COMMON["vocab_size"], {0, EOS})
    held = schemas.constraint('{"enum": [true]}')
    for token in schemas.tokens("true"):
        held.accept(token)
    allowed = held.restrict(torch.zeros(COMMON["vocab_size"])).isfinite()
    assert allowed.nonzero().flatten().tolist() == [0, EOS]


def test_a_model_that_never_ends_an_answer_is_held_to_none():
    schemas = ResponseSchemas(byte_tokenizer(), COMMON["vocab_size"], set())
    assert not schemas.supported
    with pytest.raises(SchemaRefused, match="end-of-sequence"):
        schemas.constraint("{}")


def test_a_tokenizer_whose_bytes_are_unknown_serves_free_responses_only():
    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "yes": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    schemas = ResponseSchemas(tokenizer, len(tokenizer), {tokenizer.eos_token_id})
    assert not schemas.supported
    with pytest.raises(SchemaRefused, match="tokenizer does not tell its tokens' bytes"):
        schemas.constraint("{}")


def test_a_tokenizer_of_words_may_begin_with_the_space_that_its_decoder_drops():
    tokenizer = build_tokenizer(['{"command":', '"stop"}'], 64)
    schemas = ResponseSchemas(tokenizer, len(tokenizer), {tokenizer.eos_token_id})
    schema = {
        "type": "object",
        "properties": {"command": {"const": "stop"}},
        "required": ["command"],
        "additionalProperties": False,
    }
    answer = '{"command": "stop"}'
    words = tokenizer.encode(answer, add_special_tokens=False)
    assert len(words) == 2
    held = schemas.constraint(json.dumps(schema))
    for token in words:
        assert held.restrict(torch.zeros(len(tokenizer)))[token] == 0.0
        held.accept(token)
    assert held.closed() == tokenizer.decode(words) == answer
