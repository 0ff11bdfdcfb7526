# SPDX-License-Identifier: Apache-2.0
"""JSON schemas that responses are held to, compiled for one tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from timebill_ros.engine.complete_prefix import ANY_WORDS, MOST_CLOSINGS, Closing, closings
from timebill_ros.engine.errors import GrammarExhausted, SchemaRefused, SchemaViolated
from timebill_ros.engine.json_schema import SchemaCheck, compile_grammar, fault_of, read_schema
from timebill_ros.engine.schema_process import SchemaProcess


class GrammarConstraint:
    """Allows at each step only the tokens that the grammar can still complete.

    The end-of-sequence tokens are allowed where the grammar is satisfied, and nowhere else.

    Args:
        check: says whether a text satisfies the schema; the grammar alone is not trusted.
        tokens: the model's tokenizer as bytes.
        matcher: the grammar at the response's beginning; this response's own.
        vocabulary: width of the logits.
    """

    def __init__(
        self, check: SchemaCheck, tokens: LLTokenizer, matcher: LLMatcher, vocabulary: int
    ) -> None:
        self._check = check
        self._tokens = tokens
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._pieces: list[bytes] = []
        self._bits = allocate_token_bitmask(1, tokens.vocab_size)  # [1, V / 32], a bit per token

    def fresh(self) -> GrammarConstraint:
        """Another one at the response's beginning; to be taken before this one accepts a token."""
        return GrammarConstraint(
            self._check, self._tokens, self._matcher.deep_copy(), self._vocabulary
        )

    def restrict(self, logits: Tensor) -> Tensor:
        """Logits [V] with minus infinity for every token that is not allowed next.

        Raises:
            GrammarExhausted: the grammar grew beyond its bounds.
        """
        fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise GrammarExhausted(fault_of(self._matcher))
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary, bitorder="little")
        allowed = torch.from_numpy(bits).view(torch.bool).to(logits.device)
        return torch.where(allowed, logits, float("-inf"))  # on CPU faster than masked_fill

    def accept(self, token: int) -> None:
        """Go on behind ``token``, which ``restrict`` allowed.

        Raises:
            GrammarExhausted: the grammar grew beyond its bounds.
        """
        if not self._matcher.consume_token(token):
            raise GrammarExhausted(fault_of(self._matcher))
        self._pieces.append(self._tokens.decode_bytes([token]))

    def confirm(self, text: str) -> None:
        """Raise ``SchemaViolated`` unless ``text``, the ended response, satisfies the schema."""
        if violation := self._check.violation(text):
            raise SchemaViolated(violation)

    def closed(self) -> str:
        """The longest valid JSON text that the response so far can be cut and closed to.

        Nothing that was not generated is filled in but quotes and brackets; "" where no such text
        satisfies the schema, or only one from much further back. The response can go on afterwards.
        """
        pieces = list(self._pieces)
        text = b"".join(pieces)
        matcher = self._matcher.deep_copy()
        length = len(text)
        for closing in islice(closings(text), MOST_CLOSINGS):
            # Back to the last token boundary in what is kept.
            while length > closing.kept:
                length -= len(pieces.pop())
                matcher.rollback(1)
            if self._satisfied(matcher, text[length : closing.kept], closing):
                closed = closing.closed(text).lstrip()
                if not self._check.violation(closed):
                    return closed
        return ""

    def _satisfied(self, matcher: LLMatcher, rest: bytes, closing: Closing) -> bool:
        """Whether the schema allows what is kept, of which ``rest`` is not consumed yet, closed."""
        if closing.prose and not all(self._fits(matcher, rest + word) for word in ANY_WORDS):
            return False
        ending = rest + closing.closers
        if not ending:  # a grammar that is satisfied for good takes no token to try
            return matcher.is_accepting()
        return self._fits(matcher, ending, self._tokens.eos_token)

    def _fits(self, matcher: LLMatcher, text: bytes, *end: int) -> bool:
        """Whether ``text``, and an ``end`` token behind it, may come next."""
        tokens = [*self._tokens.tokenize_bytes(text), *end]
        return matcher.validate_tokens(tokens) == len(tokens)


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
