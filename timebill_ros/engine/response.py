# SPDX-License-Identifier: Apache-2.0
"""From a step's logits to the response: its tokens, its text, its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.complete_prefix import complete_prefix
from timebill_ros.engine.errors import NonFiniteLogits
from timebill_ros.engine.grammar_constraint import GrammarConstraint
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.sampling import Sampler, Sampling
from timebill_ros.engine.text import ResponseText


class Response:
    """The response of one request after another.

    Args:
        tokenizer: the model's.
        sampling: how tokens are chosen.
        stop: strings that end a free response; see ``begin``.
        eos_tokens: tokens that end every response.

    Attributes:
        tokens: so far, the end-of-sequence token included.
        finish_reason: why it is complete; None while it is not.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        stop: Sequence[str],
        eos_tokens: Collection[int],
    ) -> None:
        self._sampler = Sampler(sampling)
        self._text = ResponseText(tokenizer)
        self._stop = stop
        self._eos_tokens = eos_tokens
        self.begin(0)

    def begin(
        self,
        max_tokens: int,
        constraint: GrammarConstraint | None = None,
        *,
        ignore_eos: bool = False,
    ) -> None:
        """Forget the previous response and start one of at most ``max_tokens``.

        Stop strings, which could cut it anywhere, do not count under a ``constraint``.
        With ``ignore_eos`` only ``max_tokens`` ends it.
        """
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._max_tokens = max_tokens
        self._constraint = constraint
        self._ignore_eos = ignore_eos
        self._sampler.begin()
        self._text.reset(self._stop if constraint is None else ())

    def take(self, logits: Tensor) -> None:
        """Choose the next token from logits [V].

        Raises:
            NonFiniteLogits: they are not numbers.
            GrammarExhausted: the schema's grammar grew beyond its bounds.
            SchemaViolated: the response has ended, but does not satisfy its schema.
        """
        constraint = self._constraint
        token = self._sampler.pick(logits if constraint is None else constraint.restrict(logits))
        if token is None:
            raise NonFiniteLogits(len(self.tokens))
        if constraint is not None:
            constraint.accept(token)
        self.tokens.append(token)
        ended = None
        if token in self._eos_tokens:
            ended = FinishReason.EOS
            if constraint is not None:
                constraint.confirm(self._text.text)
        else:
            self._text.append(token)
            if self._text.stopped:
                ended = FinishReason.STOP
        # Decided after the work, so that measuring with ignore_eos measures all of it.
        if self._ignore_eos:
            ended = None
        if ended is None and len(self.tokens) == self._max_tokens:
            ended = FinishReason.LENGTH
        self.finish_reason = ended

    @property
    def text(self) -> str:
        """So far: whole characters, no special tokens, cut before a stop string.

        While the response goes on, without what may become a stop string: no text is ever taken
        back.
        """
        return self._text.certain if self.finish_reason is None else self._text.text

    def complete_prefix(self) -> str:
        """The part of it that can stand for itself; "" where there is none.

        Under a schema: JSON that satisfies it, see ``GrammarConstraint.closed``. Otherwise up to
        the last end of a sentence, line or record, or else the whole words.
        """
        return complete_prefix(self.text) if self._constraint is None else self._constraint.closed()
