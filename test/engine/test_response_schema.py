# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.errors import SchemaRefused
from timebill_ros.engine.response_schema import MOST_SCHEMA_CHARS, ResponseSchemas
from timebill_ros.training.embedded.batches import build_tokenizer

from .conftest import COMMON, EOS, byte_tokenizer


@pytest.fixture(scope="module")
def schemas() -> ResponseSchemas:
    """Schemas over single bytes."""
    return ResponseSchemas(byte_tokenizer(), COMMON["vocab_size"], {EOS})


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
        ('{"$ref": "#"}', "no first token: NoExtensionBias; simplify"),
        (f'{{"title": "{"x" * MOST_SCHEMA_CHARS}"}}', f"exceed {MOST_SCHEMA_CHARS}"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_reason(schemas, schema, fault):
    with pytest.raises(SchemaRefused, match=r"^response_schema: ") as refused:
        schemas.constraint(schema)
    assert fault in str(refused.value)


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
