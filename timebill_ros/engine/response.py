# SPDX-License-Identifier: Apache-2.0
"""From a step's logits to the response: its tokens, its text, its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.complete_prefix import complete_prefix
from timebill_ros.engine.errors import NonFiniteLogits
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import NOTHING_SET, SamplingOverride
from timebill_ros.engine.response_schema import GrammarConstraint
from timebill_ros.engine.sampling import Sampler, Sampling, overridden

_HALF_CHARACTER = 3  # bytes of UTF-8 at most, hence tokens
_MOST_PENDING = 8  # tokens


class ResponseText:
    """Decodes tokens piece by piece and watches for stop strings.

    A character may span tokens, and a tokenizer may decode a token differently after another one.
    So tokens are decoded together with the ones of the last complete piece, and half a character at
    the end is left out until the rest has come. Special tokens leave no text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self.reset(stop)

    def reset(self, stop: Sequence[str] = ()) -> None:
        """Start a new response, which a string of ``stop`` will end."""
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, self._stop), default=0)
        self._tokens: list[int] = []
        self._text = ""
        self._context = 0  # first token decoded together with the new ones
        self._done = 0  # tokens whose text is in ``_text``
        self.stopped = False

    def append(self, token: int) -> None:
        """Take the next token; sets ``stopped`` when the text comes to contain a stop string."""
        self._tokens.append(token)
        if self._stop:
            self._settle()

    @property
    def text(self) -> str:
        """The text so far, whole characters only, cut before the first stop string."""
        self._settle()
        return self._text if self.stopped else self._before_stop(self._text + self._pending())

    @property
    def certain(self) -> str:
        """The text so far without what may turn out to be the beginning of a stop string."""
        text = self.text
        return text if self.stopped else text[: len(text) - self._possible_stop(text)]

    def _possible_stop(self, text: str) -> int:
        """Characters at the end of ``text`` with which a stop string begins; the most."""
        longest = min(self._longest_stop - 1, len(text))
        for count in range(longest, 0, -1):
            end = text[-count:]
            if any(len(stop) > count and stop.startswith(end) for stop in self._stop):
                return count
        return 0

    def _settle(self) -> None:
        """Move the pending tokens' text into ``_text``, up to the last whole character."""
        if self.stopped or self._done == len(self._tokens):
            return
        last = len(self._tokens)
        for end in range(last, max(self._done, last - _HALF_CHARACTER - 1), -1):
            longer = self._decode(self._tokens[self._context : end])
            if not longer.endswith("\ufffd"):
                break
        else:
            # More than half a character: bytes that never become one. Kept pending, they would be
            # decoded again with every token.
            if last - self._done <= _MOST_PENDING:
                return
        known = self._decode(self._tokens[self._context : self._done])
        text = self._text + longer[len(known) :]
        self._context, self._done = self._done, end
        self._text = self._before_stop(text, len(self._text) - self._longest_stop + 1)
        self.stopped = len(self._text) < len(text)

    def _pending(self) -> str:
        """The whole characters of the tokens that are not in ``_text``.

        Decoders of single bytes give up a whole run of them for the half character at its end, so
        decoding fewer tokens may show more.
        """
        known = len(self._decode(self._tokens[self._context : self._done]))
        last = len(self._tokens)
        ends = range(last, max(self._done, last - _HALF_CHARACTER - 1), -1)
        shown = (self._decode(self._tokens[self._context : end])[known:] for end in ends)
        return max((text.rstrip("\ufffd") for text in shown), key=len, default="")

    def _before_stop(self, text: str, start: int = 0) -> str:
        """``text`` up to the first stop string that begins at ``start`` or later."""
        hits = [at for stop in self._stop if (at := text.find(stop, max(0, start))) >= 0]
        return text[: min(hits)] if hits else text

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class ResponseSoFar:
    """The response of one request after another.

    Args:
        tokenizer: the model's.
        sampling: how tokens are chosen where a request sets nothing else.
        stop: strings that end a free response where a request sets none; see ``begin``.
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
        self._sampling = sampling
        self._sampler = Sampler(sampling)
        self._text = ResponseText(tokenizer)
        self._stop = stop
        self._eos_tokens = eos_tokens
        self.begin(0)

    def begin(
        self,
        max_tokens: int,
        constraint: GrammarConstraint | None = None,
        override: SamplingOverride = NOTHING_SET,
        *,
        ignore_eos: bool = False,
    ) -> None:
        """Forget the previous response and start one of at most ``max_tokens``.

        What ``override`` leaves unset is as the response was made with. Stop strings, which could
        cut it anywhere, do not count under a ``constraint``.
        With ``ignore_eos`` only ``max_tokens`` ends it.
        """
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._max_tokens = max_tokens
        self._constraint = constraint
        self._ignore_eos = ignore_eos
        self._sampler.begin(overridden(self._sampling, override))
        stop = self._stop if override.stop is None else override.stop
        self._text.reset(stop if constraint is None else ())

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
        self.add(token)

    def add(self, token: int) -> None:
        """Go on with a token that was chosen already.

        Raises:
            SchemaViolated: the response has ended, but does not satisfy its schema.
        """
        constraint = self._constraint
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
