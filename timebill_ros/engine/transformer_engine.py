# SPDX-License-Identifier: Apache-2.0
"""One request at a time through a transformers model: prefill, evict, decode."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.attention import QueryWindow
from timebill_ros.engine.attention_shape import AttentionShape
from timebill_ros.engine.checkpoint import Checkpoint
from timebill_ros.engine.conversation import Conversation
from timebill_ros.engine.decoder import make_decoder
from timebill_ros.engine.errors import (
    ContextExceeded,
    EngineMisuse,
    PromptEmpty,
    RequestError,
)
from timebill_ros.engine.eviction import PromptEviction
from timebill_ros.engine.eviction_methods.by_name import make_eviction_method
from timebill_ros.engine.finish import FinishReason
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.prompt import encode_prompt, most_characters, render_prompt
from timebill_ros.engine.response import Response
from timebill_ros.engine.response_schema import ResponseSchemas
from timebill_ros.engine.sampling import Sampling


class TransformerEngine:
    """Runs one request after another, on one thread, over a cache that is allocated once.

    Args:
        checkpoint: the loaded model.
        max_context: prompt and response tokens that fit together.
        window: observation window, the last prompt tokens that are never evicted; it should cover
            the instruction at the prompt's end.
        eviction_method: which tokens stay, by name; see ``eviction_methods.by_name``.
        kernel: width of the pooling that smooths attention scores, odd.
        chunk: prompt tokens per ``prefill_chunk``: how soon a deadline can stop prefill.
        threads: CPU threads of one operation.
        sampling: how tokens are chosen, greedily by default. The checkpoint's own sampling defaults
            do not apply.
        stop: strings that end the response and are no part of its text.
        lean: use the lean decoder where it supports the model, else the modules' own forward.

    Raises:
        SettingError: a parameter is out of range.
        UnsupportedModel: the model's attention does not reach over ``max_context``, or does not run
            over the engine's cache, or lacks what ``eviction_method`` needs.

    Attributes:
        max_prompt_chars: a prompt of more characters cannot fit ``max_context``; cheap to check
            before it is encoded.
        cache: keys and values of the request.
        decoder: what runs the model.
        eviction: the prompt's scores, and what of it is still cached.
        device: where the model runs.
        vocabulary: width V of the logits.
        schemas: what responses can be held to.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_context: int,
        window: int = 16,
        eviction_method: str = "snapkv",
        kernel: int = 5,
        chunk: int = 512,
        threads: int = 1,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        lean: bool = True,
    ) -> None:
        checkpoint.check_context(max_context)
        _require("chunk", chunk, 1)
        _require("window", window, 1, chunk)
        _require("threads", threads, 1)
        if "" in stop:
            raise SettingError("stop", list(stop), "without empty strings")
        method = make_eviction_method(eviction_method, kernel=kernel, model=checkpoint.model)
        self.window = window
        self.max_context = max_context
        self.max_prompt_chars = most_characters(checkpoint.tokenizer, max_context)
        self.chunk = chunk
        self.threads = threads
        self.device = checkpoint.device
        self._checkpoint = checkpoint
        self.sampling = sampling or Sampling()
        self.stop = tuple(stop)
        tokenizer, eos_tokens = checkpoint.tokenizer, checkpoint.eos_tokens
        self._response = Response(tokenizer, self.sampling, self.stop, eos_tokens)
        self.vocabulary = int(checkpoint.model.config.vocab_size)
        self.schemas = ResponseSchemas(tokenizer, self.vocabulary, eos_tokens)
        self._prompt = torch.empty(0, dtype=torch.long)
        with torch.inference_mode():
            shape = AttentionShape.of(checkpoint.model)
            self.cache = KVCache(shape, max_context)
            self._queries = QueryWindow(shape, window)
            self.decoder = make_decoder(checkpoint, self.cache, self._queries, lean=lean)
        self.eviction = PromptEviction(self.cache, self._queries, window, method)

    @property
    def response_ids(self) -> Sequence[int]:
        """The response's tokens so far, the end-of-sequence token included."""
        return self._response.tokens

    @property
    def response_tokens(self) -> int:
        """N so far, the end-of-sequence token included."""
        return len(self._response.tokens)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the response is complete; None while it is not."""
        return self._response.finish_reason

    def encode(self, conversation: Conversation) -> list[int]:
        """The rendered prompt's tokens, see ``encode_prompt`` for what it raises."""
        return encode_prompt(self._checkpoint.tokenizer, conversation)

    def render(self, conversation: Conversation) -> str:
        """The text that the model is to continue, see ``render_prompt`` for what it raises."""
        return render_prompt(self._checkpoint.tokenizer, conversation)

    def begin(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        response_schema: str = "",
        *,
        ignore_eos: bool = False,
    ) -> None:
        """Forget the previous request and take this one; runs nothing yet.

        With a ``response_schema`` the response is one JSON text that satisfies it once the model
        ends it, whatever the sampling; stop strings, which could cut it, do not count then. With
        ``ignore_eos`` only ``max_tokens`` ends the response, for measuring.

        Raises:
            PromptEmpty, ContextExceeded, SchemaRefused, RequestError: the request cannot be run.
        """
        self._forget()
        _check_request(prompt_ids, max_tokens, self.max_context, self.vocabulary)
        held = self.schemas.hold(response_schema) if response_schema else None
        self._bind_thread()
        self._prompt = torch.tensor(prompt_ids, device=self.device)
        self._response.begin(max_tokens, held, ignore_eos=ignore_eos)
        self.eviction.begin(len(prompt_ids))

    @torch.inference_mode()
    def prefill_chunk(self) -> bool:
        """Run the next chunk of the prompt; True once response token 1 exists.

        The remainder comes first: so every later chunk is full, and the last one holds the whole
        observation window.
        """
        done, total = self.cache.position, len(self._prompt)
        if done >= total:
            raise EngineMisuse("prefill_chunk needs a request whose prompt is not prefilled yet")
        size = (total - done) % self.chunk or self.chunk
        last = done + size == total
        logits = self.decoder.prefill(
            self._prompt[done : done + size], self._queries if last else None
        )
        if last:
            self._response.take(logits)
        return last

    @torch.inference_mode()
    def evict(self, kept_tokens: int) -> None:
        """Shrink the prompt's part of the cache to ``kept_tokens`` per head, for good.

        May be called again while decoding, with fewer tokens.

        Raises:
            SettingError: below the observation window, or above what is cached.
        """
        if not self.response_tokens:
            raise EngineMisuse("evict needs a prefilled prompt")
        self.eviction.evict(kept_tokens)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # its time is the eviction's own

    @torch.inference_mode()
    def step(self) -> None:
        """Generate one more response token. Returns with it on the host, so the device is idle.

        Raises:
            NonFiniteLogits: the model's output is not a number.
            GrammarExhausted: the response schema's grammar grew beyond its bounds.
        """
        if not self.response_tokens or self.finish_reason is not None:
            raise EngineMisuse("step needs a prefilled prompt and an unfinished response")
        self._response.take(self.decoder.step(self._response.tokens[-1]))

    def text(self) -> str:
        """The response so far: whole characters, no special tokens, cut before a stop string."""
        return self._response.text

    def complete_prefix(self) -> str:
        """What of an unfinished response can stand for itself, see ``Response``."""
        return self._response.complete_prefix()

    def close(self) -> None:
        """Give back the cache and the model; the engine cannot be used any more."""
        del self.decoder, self.eviction, self._queries, self.cache, self._checkpoint
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _forget(self) -> None:
        self._prompt = self._prompt[:0]
        self._response.begin(0)
        self.cache.reset()
        self._queries.reset()

    def _bind_thread(self) -> None:
        # OpenMP keeps its number of threads per calling thread: a thread takes over the number last
        # set anywhere when it first uses torch, and only its own calls change it from then on.
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


def _require(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bound = f">= {least}" if most is None else f"from {least} to {most}"
        raise SettingError(name, value, bound)


def _check_request(
    prompt_ids: Sequence[int], max_tokens: int, max_context: int, vocabulary: int
) -> None:
    if not prompt_ids:
        raise PromptEmpty
    if max_tokens < 1:
        raise RequestError(f"max_tokens is {max_tokens}, but must be >= 1")
    if len(prompt_ids) + max_tokens > max_context:
        raise ContextExceeded(len(prompt_ids), max_tokens, max_context)
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocabulary:
        raise RequestError(f"prompt tokens must be from 0 to {vocabulary - 1}")
