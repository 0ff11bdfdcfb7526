# SPDX-License-Identifier: Apache-2.0
"""JSON schemas that responses are held to, compiled for one tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import llguidance.hf
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from timebill_ros.engine.errors import SchemaRefused
from timebill_ros.engine.grammar_constraint import GrammarConstraint
from timebill_ros.engine.schema_check import SchemaCheck, read_schema
from timebill_ros.engine.schema_grammar import compile_grammar
from timebill_ros.engine.schema_process import SchemaProcess

_KEPT_SCHEMAS = 16
_KEPT_FAULTS = 64  # so that a refused schema costs nothing when it comes again


@dataclass(frozen=True)
class _Compiled:
    """A schema as grammar and as check, to be copied and shared."""

    matcher: LLMatcher
    check: SchemaCheck


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
        self._process = SchemaProcess()
        self._fault_of = lru_cache(_KEPT_FAULTS)(self._process.fault)
        self._compiled = lru_cache(_KEPT_SCHEMAS)(self._compile)

    @property
    def supported(self) -> bool:
        """Whether responses of this model can be held to a schema at all."""
        return self._fault is None

    def constraint(self, schema: str) -> GrammarConstraint:
        """A response that has not begun, held to a JSON schema. On any thread.

        A schema that is new is examined and compiled first, which takes some ten milliseconds as a
        rule, and one or two seconds of a busy machine at most.

        Raises:
            SchemaRefused: the text is no JSON schema, has no answer, uses what the grammar cannot
                express or keep, is too long or takes too long, or the model's tokenizer does not
                allow it.
        """
        tokens, compiled = self._tokens_or_fault(), self._compiled(schema)
        return GrammarConstraint(
            compiled.check, tokens, compiled.matcher.deep_copy(), self.vocabulary
        )

    def start(self) -> None:
        """Be ready for the first schema."""
        if self.supported:
            self._process.start()

    def close(self) -> None:
        """End the process that examines schemas."""
        self._process.close()

    def tokens(self, text: str) -> list[int]:
        """The tokens of a response that reads ``text``. Raises ``SchemaRefused``."""
        return self._tokens_or_fault().tokenize_str(text)

    def _tokens_or_fault(self) -> LLTokenizer:
        if self._fault is not None:
            raise SchemaRefused(self._fault)
        return self._tokens

    def _compile(self, text: str) -> _Compiled:
        if fault := self._fault_of(text):
            raise SchemaRefused(fault)
        schema = read_schema(text)
        blank = '" "? ' if self._leading_space else ""
        return _Compiled(compile_grammar(self._tokens, schema, blank), SchemaCheck(schema))
