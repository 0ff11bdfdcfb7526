# SPDX-License-Identifier: Apache-2.0
"""JSON schemas that responses are held to, compiled for one tokenizer."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache

import llguidance.hf
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from timebill_ros.engine.errors import SchemaRefused
from timebill_ros.engine.grammar_constraint import GrammarConstraint, fault_of

MOST_SCHEMA_CHARS = 65_536
"""Longest schema that is compiled; its time grows with its length, and others wait meanwhile."""

_KEPT_SCHEMAS = 16
# One line as ``json.dumps`` writes it: the shortest readable form, and no room for endless blanks.
_LAYOUT = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}


class ResponseSchemas:
    """Compiles JSON schemas to grammars over a model's tokens; the last few are kept.

    Args:
        tokenizer: the model's.
        vocabulary: width of the model's logits.
        eos_tokens: tokens that end a response.

    Attributes:
        vocabulary: as given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos_tokens: Collection[int]
    ) -> None:
        self.vocabulary = vocabulary
        self._fault: str | None = None
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            self._fault = "the model's tokenizer is not of the fast kind, which schemas need"
        elif not eos_tokens:
            self._fault = "the model names no end-of-sequence token, so that no answer could end"
        else:
            try:
                self._tokens = llguidance.hf.from_tokenizer(
                    tokenizer,
                    n_vocab=max(vocabulary, len(tokenizer)),
                    eos_token=sorted(eos_tokens),
                )
            except ValueError as error:
                self._fault = f"the model's tokenizer does not tell its tokens' bytes: {error}"
            else:
                # Some write a space before a text's first word, and drop it in decoding.
                first = tokenizer.encode("{", add_special_tokens=False)
                self._leading_space = self._tokens.decode_bytes(first).startswith(b" ")
        self._compiled = lru_cache(_KEPT_SCHEMAS)(self._compile)

    @property
    def supported(self) -> bool:
        """Whether responses of this model can be held to a schema at all."""
        return self._fault is None

    def constraint(self, schema: str) -> GrammarConstraint:
        """A response that has not begun, held to a JSON schema.

        Raises:
            SchemaRefused: the text is no JSON schema, uses what the grammar cannot express, is too
                long, or the model's tokenizer does not allow it.
        """
        tokens = self._tokens_or_fault()
        return GrammarConstraint(tokens, self._compiled(schema).deep_copy(), self.vocabulary)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a response that reads ``text``. Raises ``SchemaRefused``."""
        return self._tokens_or_fault().tokenize_str(text)

    def _tokens_or_fault(self) -> LLTokenizer:
        if self._fault is not None:
            raise SchemaRefused(self._fault)
        return self._tokens

    def _compile(self, schema: str) -> LLMatcher:
        if len(schema) > MOST_SCHEMA_CHARS:
            raise SchemaRefused(f"its {len(schema)} characters exceed {MOST_SCHEMA_CHARS}")
        try:
            content = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise SchemaRefused(f"it is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise SchemaRefused(f"it must be a JSON object, not {type(content).__name__}")
        blank = '" "? ' if self._leading_space else ""
        grammar = f"start: {blank}json\njson: %json {json.dumps(content | _LAYOUT)}"
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise SchemaRefused(fault_of(matcher))
        # Found when the first token is chosen, it would have cost the request its prefill.
        matcher.compute_bitmask()
        if matcher.is_error():
            fault = fault_of(matcher)
            raise SchemaRefused(f"its grammar allows no first token: {fault}; simplify the schema")
        return matcher
