# SPDX-License-Identifier: Apache-2.0
"""Whatever the weights are: what ends by itself is JSON that satisfies the schema."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.errors import GrammarExhausted
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.response_schema import ResponseSchemas
from timebill_ros.engine.sampling import Sampling
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings

from .conftest import BYTES, EOS, SPECIAL, byte_tokenizer

COMMAND = {
    "oneOf": [
        {
            "type": "object",
            "properties": {
                "command": {"const": "velocity_limit"},
                "velocity_mps": {"type": "integer", "minimum": 0, "maximum": 59},
            },
            "required": ["command", "velocity_mps"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"command": {"enum": ["stop", "resume"]}},
            "required": ["command"],
            "additionalProperties": False,
        },
    ]
}
REPORT = {
    "type": "object",
    "properties": {
        "target": {"type": "string", "pattern": "^o[0-9]{1,3}$"},
        "moving": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 20},
        "steps": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 12},
            "maxItems": 3,
        },
        "near": {"anyOf": [{"type": "null"}, {"type": "number", "minimum": -9.5, "maximum": 9.5}]},
    },
    "required": ["target", "moving"],
    "additionalProperties": False,
}
CHOICE = {"enum": ["left", "left lane", 3, None, True]}
SCHEMAS = {"command": COMMAND, "report": REPORT, "choice": CHOICE}

VALUES = {
    "report": {
        "target": "o88",
        "moving": True,
        "note": 'a truck, öäü \\ " ok',
        "steps": ["hold gap", "keep lane"],
        "near": 4.25,
    },
    "command": {"command": "velocity_limit", "velocity_mps": 12},
    "choice": "left lane",
}


def check(text: str, schema: dict[str, object]) -> None:
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


MERGES = (
    *[('"', ":"), ('":', "Ġ"), ('":Ġ', '"'), ('"', "]"), ('"]', "}"), ('"', "}"), ('"', ",")],
    *[('",', "Ġ"), ('",Ġ', '"'), ("{", '"'), ("Ġ", "["), ("t", "r"), ("tr", "u"), ("u", "e")],
)


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and tokens of several, which span the ends of keys and values."""
    tokens = [*SPECIAL, *BYTES, *(first + second for first, second in MERGES)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[EOS])


@pytest.fixture(scope="module", params=[byte_tokenizer, merging_tokenizer])
def schemas(request: pytest.FixtureRequest) -> ResponseSchemas:
    """Schemas over the tokens of a tokenizer."""
    tokenizer = request.param()
    return ResponseSchemas(tokenizer, len(tokenizer), {EOS})


def request_of(engine, prompt, schema):
    """``prompt`` is tokens."""
    text = "" if schema is None else json.dumps(schema)
    return replace(engine.prepare(Conversation("", "go"), text), prompt_ids=prompt)


def run(engine, prompt, max_tokens, schema):
    engine.begin(request_of(engine, prompt, schema), max_tokens)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return engine.finish_reason, engine.text()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_what_a_random_model_ends_itself_satisfies_the_schema(
    name, temperature, make_engine, prompt_of
):
    ends = []
    for seed in range(6):
        sampling = Sampling(temperature=temperature, seed=seed)
        engine = make_engine(sampling=sampling, stop=['"', "}"])
        finish, text = run(engine, prompt_of(20, seed), 160, SCHEMAS[name])
        ends.append(finish)
        if finish is FinishReason.EOS:
            check(text, SCHEMAS[name])
        else:
            assert finish is FinishReason.LENGTH
            if closed := engine.complete_prefix():
                check(closed, SCHEMAS[name])
    assert FinishReason.EOS in ends


def test_a_schema_holds_for_its_own_request_only(make_engine, prompt_of):
    engine, prompt = make_engine(), prompt_of(20)
    free = []
    for schema in (None, COMMAND, None):
        engine.begin(request_of(engine, prompt, schema), 24)
        while not engine.prefill_chunk():
            pass
        while engine.finish_reason is None:
            engine.step()
        free.append(engine.text())
    assert free[0] == free[2] != free[1]


@pytest.mark.parametrize("name", ["driving_command", "plan"])
def test_the_embedded_model_speaks_json_under_the_shipped_schemas(name, shipped_schema):
    checkpoint = load_checkpoint(model_folder(Settings()))
    schemas = ResponseSchemas(
        checkpoint.tokenizer, checkpoint.model.config.vocab_size, checkpoint.eos_tokens
    )
    schema = shipped_schema(name)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        held = schemas.constraint(json.dumps(schema))
        tokens: list[int] = []
        while not checkpoint.eos_tokens & set(tokens):
            # Random, with a preference for what ends a text, so that strings do.
            logits = torch.rand(checkpoint.model.config.vocab_size, generator=generator)
            ends = [token for mark in '"]}' for token in schemas.tokens(mark)]
            logits[[*ends, *checkpoint.eos_tokens]] += 0.9
            tokens.append(int(held.restrict(logits).argmax()))
            held.accept(tokens[-1])
        check(checkpoint.tokenizer.decode(tokens, skip_special_tokens=True), schema)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_only_what_the_schema_allows_may_come_next(name, schemas):
    held = schemas.constraint(json.dumps(SCHEMAS[name]))
    logits = torch.zeros(schemas.vocabulary)
    for token in schemas.tokens(json.dumps(VALUES[name], ensure_ascii=False)):
        restricted = held.restrict(logits)
        assert restricted[token] == 0.0
        assert (restricted == -torch.inf).any()
        if name != "choice":  # where the shorter choice ends, the longer one may go on
            assert restricted[EOS] == -torch.inf
        held.accept(token)
    assert held.restrict(logits).argmax() == EOS


def test_a_token_that_was_not_allowed_breaks_the_response(schemas):
    held = schemas.constraint(json.dumps(COMMAND))
    with pytest.raises(GrammarExhausted, match="response_schema"):
        held.accept(EOS)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_prefix_closes_to_nothing_or_to_what_satisfies_the_schema(name, schemas):
    schema, text = SCHEMAS[name], json.dumps(VALUES[name], ensure_ascii=False)
    held = schemas.constraint(json.dumps(schema))
    closed = []
    for token in schemas.tokens(text):
        held.accept(token)
        closed.append(held.closed())
        if closed[-1]:
            check(closed[-1], schema)
    assert closed[-1] == text
    assert sorted(closed, key=len) == closed, "more tokens never make less of an answer"


@pytest.mark.parametrize(
    ("written", "closed"),
    [
        ('{"target": "o88", "moving": tr', ""),
        ('{"target": "o88", "moving": true', '{"target": "o88", "moving": true}'),
        ('{"target": "o88", "moving": true, "no', '{"target": "o88", "moving": true}'),
        ('{"target": "o88", "moving": true, "note": ', '{"target": "o88", "moving": true}'),
        (
            '{"target": "o88", "moving": true, "note": "a truck ahe',
            '{"target": "o88", "moving": true, "note": "a truck"}',
        ),
        (
            '{"target": "o88", "moving": true, "steps": ["hold gap", "keep',
            '{"target": "o88", "moving": true, "steps": ["hold gap"]}',
        ),
        (
            '{"target": "o88", "moving": true, "steps": [], "near": 4',
            '{"target": "o88", "moving": true, "steps": []}',
        ),
    ],
)
def test_what_is_not_whole_is_left_out(written, closed, schemas):
    held = schemas.constraint(json.dumps(REPORT))
    for token in schemas.tokens(written):
        held.accept(token)
    assert held.closed() == closed


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"enum": ["left", "left lane"]}, '"left la'),
        ({"type": "string", "pattern": "^o[0-9]+( o[0-9]+)*$"}, '"o12 o3'),
    ],
)
def test_half_a_choice_or_name_is_no_answer(schema, written, schemas):
    held = schemas.constraint(json.dumps(schema))
    for token in schemas.tokens(written):
        held.accept(token)
    assert held.closed() == ""


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab ö"\\', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON_VALUES, share=st.floats(0, 1))
def test_closing_leaves_valid_json_of_any_value(value, share, schemas):
    held = schemas.constraint("{}")
    tokens = schemas.tokens(json.dumps(value, ensure_ascii=False))
    for token in tokens[: round(share * len(tokens))]:
        held.accept(token)
    closed = held.closed()
    if closed:
        json.loads(closed)
    if share == 1.0 and not isinstance(value, int):
        assert json.loads(closed) == value
