# SPDX-License-Identifier: Apache-2.0
"""One request at a time through a transformers model: prefill, evict, decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import Measurement, ProfilePoints
from timebill_ros.engine.attention import AttentionShape, HiddenStates, ObservationWindow
from timebill_ros.engine.checkpoint import Checkpoint, checkpoint_digest
from timebill_ros.engine.decoder import make_decoder
from timebill_ros.engine.device import device_name, free_memory
from timebill_ros.engine.errors import EngineMisuse, PromptEmpty, RequestError
from timebill_ros.engine.eviction import PromptEviction, make_eviction_method
from timebill_ros.engine.kv_cache import KeptPrefixes, KVCache
from timebill_ros.engine.profile import Profiler
from timebill_ros.engine.profile_work import structured_answer, time_drawing
from timebill_ros.engine.projection import WeightKinds
from timebill_ros.engine.prompt import PromptEncoder
from timebill_ros.engine.protocol import Capabilities, FinishReason, Progress, Waiting, patiently
from timebill_ros.engine.request import NOTHING_SET, Conversation, PreparedRequest, SamplingOverride
from timebill_ros.engine.response import ResponseSoFar
from timebill_ros.engine.response_schema import GrammarConstraint, ResponseSchemas
from timebill_ros.engine.sampling import Sampling
from timebill_ros.engine.settings import EngineSettings

_WARM_UP_STEPS = 8


class TransformerEngine:
    """Runs one request after another, on one thread, over a cache that is allocated once.

    Args:
        checkpoint: the loaded model.
        settings: what can be chosen; each as a number above 0.

    Raises:
        SettingError: a setting is out of range.
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

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings) -> None:
        max_context, window = settings.max_context, settings.window
        settings.check()
        checkpoint.check_context(max_context)
        method = make_eviction_method(
            settings.eviction_method, kernel=settings.kernel, model=checkpoint.model
        )
        self.window = window
        self.max_context = max_context
        self._prompts = PromptEncoder(checkpoint.tokenizer, max_context)
        self.max_prompt_chars = self._prompts.max_chars
        self.chunk = settings.chunk
        self.threads = settings.threads
        self.device = str(checkpoint.device)
        self._checkpoint = checkpoint
        self._weights = settings.weights or WeightKinds()
        self.sampling, self.stop = settings.sampling, settings.stop
        tokenizer, eos_tokens = checkpoint.tokenizer, checkpoint.eos_tokens
        self._response = self.new_response()
        self.vocabulary = int(checkpoint.model.config.vocab_size)
        self.schemas = ResponseSchemas(tokenizer, self.vocabulary, eos_tokens)
        self.capabilities = Capabilities(
            evicts=True, structured=self.schemas.supported, counts_tokens=True
        )
        self._prompt = torch.empty(0, dtype=torch.long)
        self._request = PreparedRequest([])
        self._measuring = False
        with torch.inference_mode():
            shape = AttentionShape.of(checkpoint.model)
            _check_memory(shape, max_context, settings.prefix_tokens)
            self.cache = KVCache(shape, max_context)
            self._prefixes = KeptPrefixes(self.cache, settings.prefix_tokens)
            self._observation = ObservationWindow(shape.layers, window)
            self.decoder = make_decoder(
                checkpoint, self.cache, self._observation, lean=settings.lean, weights=self._weights
            )
        self.eviction = PromptEviction(self.cache, self._observation, method)
        self._kernel = settings.kernel

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

    def new_response(self) -> ResponseSoFar:
        """A response that is chosen and ended as this engine's are."""
        checkpoint = self._checkpoint
        return ResponseSoFar(checkpoint.tokenizer, self.sampling, self.stop, checkpoint.eos_tokens)

    def without_middle(self, text: str, most: int) -> str:
        """A text of at most ``most`` tokens: the first and the last half of them."""
        return self._prompts.without_middle(text, most)

    def prepare(
        self,
        conversation: Conversation,
        response_schema: str = "",
        sampling: SamplingOverride = NOTHING_SET,
    ) -> PreparedRequest:
        """Render, tokenise and compile a request, on any thread.

        With a ``response_schema`` the response will be one JSON text that satisfies it once the
        model ends it, whatever the sampling; stop strings, which could cut it, do not count then.

        Raises:
            RequestError: the conversation is empty, too long, or none for this template.
            SchemaRefused: responses cannot be held to the schema.
        """
        text, prompt_ids = self._prompts.encode(conversation)
        constraint = self.schemas.constraint(response_schema) if response_schema else None
        return PreparedRequest(prompt_ids, text, constraint, sampling)

    def reusable(self, request: PreparedRequest) -> int:
        """Prompt tokens that its prefill will not run again, as an earlier prompt had them too.

        All of the observation window is run, for its queries are not kept.
        """
        most = max(0, request.prompt_tokens - self.window)
        return min(self._prefixes.common(request.prompt_ids), most)

    def begin(self, request: PreparedRequest, max_tokens: int, *, ignore_eos: bool = False) -> None:
        """Forget the previous request and take this one; runs nothing yet.

        With ``ignore_eos`` only ``max_tokens`` ends the response, for measuring; nothing of earlier
        prompts is reused then, nor is this one kept.

        Raises:
            PromptEmpty, ContextExceeded, RequestError: the request cannot be run.
        """
        self.abort()
        prompt_ids, constraint = request.prompt_ids, request.constraint
        if not prompt_ids:
            raise PromptEmpty
        request.check_length(max_tokens, self.max_context)
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < self.vocabulary:
            raise RequestError(f"prompt tokens must be from 0 to {self.vocabulary - 1}")
        if not isinstance(constraint, GrammarConstraint | None):
            raise EngineMisuse("the request was prepared by another engine")
        if constraint is not None:
            constraint = constraint.fresh()  # so that the request may be begun again
        self._bind_thread()
        self._prompt = torch.tensor(prompt_ids, device=self.device)
        self._request = request
        self._measuring = ignore_eos
        self._response.begin(max_tokens, constraint, request.sampling, ignore_eos=ignore_eos)
        self.eviction.begin(len(prompt_ids))

    @torch.inference_mode()
    def rehearse(self, prompt_tokens: int, cached_tokens: int, max_tokens: int) -> None:
        """Take a request as if ``cached_tokens`` of its prompt were prefilled, for measuring.

        What a chunk, a step or an eviction takes depends on how many tokens are cached, not on
        which: so each can be timed at any length without the prefill. The response is worthless.

        Raises:
            ContextExceeded, RequestError: the request cannot be run.
        """
        self.begin(PreparedRequest([0] * prompt_tokens), max_tokens, ignore_eos=True)
        self.cache.pretend(cached_tokens)

    @torch.inference_mode()
    def prefill_chunk(self) -> bool:
        """Run the next chunk of the prompt; True once response token 1 exists.

        What can be reused of earlier prompts is there before the first. The remainder comes next:
        so every later chunk is full, and the last one holds the whole observation window.
        """
        if not self._measuring and not self.cache.position:
            self._prefixes.restore(self._request.prompt_ids, self.reusable(self._request))
        done, total = self.cache.position, len(self._prompt)
        if done >= total:
            raise EngineMisuse("prefill_chunk needs a request whose prompt is not prefilled yet")
        size = (total - done) % self.chunk or self.chunk
        last = done + size == total
        logits = self.decoder.prefill(
            self._prompt[done : done + size], self._observation if last else None
        )
        if last:
            self._response.take(logits)
            if not self._measuring:
                self._prefixes.keep(self._request.prompt_ids)
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
        if self._checkpoint.device.type == "cuda":
            torch.cuda.synchronize(self._checkpoint.device)  # its time is the eviction's own

    def eviction_by(self, name: str) -> PromptEviction:
        """What evicts from the present prompt by another method, for measuring; see ``evict``."""
        model = self._checkpoint.model
        return self.eviction.by(make_eviction_method(name, kernel=self._kernel, model=model))

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
        """The response so far: whole characters, no special tokens, cut before a stop string.

        While it goes on, without what may become a stop string: what was shown is never taken back.
        """
        return self._response.text

    def complete_prefix(self) -> str:
        """What of an unfinished response can stand for itself, see ``ResponseSoFar``."""
        return self._response.complete_prefix()

    def watch(self, layer: int) -> None:
        """Record from now on what this layer, counted from 1, makes of the latest token."""
        self.decoder.hidden = HiddenStates((layer,))

    def hidden_state(self) -> NDArray[np.float32] | None:
        """What the watched layer made of the latest token, [h]; None before the prompt's end."""
        if self.decoder.hidden is None or not self.response_tokens:
            return None
        state: NDArray[np.float32] = self.decoder.hidden.states()[0, 0].cpu().numpy()
        return state

    def abort(self) -> None:
        """Forget the request; the memory stays."""
        self._prompt = self._prompt[:0]
        self._request = PreparedRequest([])
        self._response.begin(0)
        self.cache.reset()
        self._observation.reset()

    def close(self) -> None:
        """Give back the cache and the model; the engine cannot be used any more."""
        self.schemas.close()
        del self.decoder, self.eviction, self._observation, self.cache, self._prefixes
        del self._checkpoint
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def traits(self) -> Mapping[str, str | int]:
        """What its times depend on beside the machine, by name."""
        return {
            "checkpoint": checkpoint_digest(self._checkpoint.folder),
            "device": device_name(self._checkpoint.device),
            "dtype": str(self._checkpoint.dtype),
            "weights": str(self._weights),
            "decoder": type(self.decoder).__name__,
            "threads": self.threads,
            "chunk": self.chunk,
            "window": self.window,
            "eviction_method": repr(self.eviction.method),
            "max_context": self.max_context,
        }

    def measure(self, limit: float, progress: Progress) -> ProfilePoints:
        """Time prefill, eviction and steps for ``limit`` seconds at most, see ``Profiler``.

        Greedily and without stop strings, whatever is set: so one profile serves all settings.
        """
        structured = partial(structured_answer, self) if self.capabilities.structured else None
        profiler = Profiler(self, limit=limit, structured=structured, progress=progress)
        checkpoint, own = self._checkpoint, self._response
        self._response = ResponseSoFar(checkpoint.tokenizer, Sampling(), (), checkpoint.eos_tokens)
        try:
            points = profiler.measure()
        finally:
            self._response = own
            self.abort()
        added = time_drawing(self.vocabulary, checkpoint.device)
        return replace(points, drawn=(Measurement(self.vocabulary, added),))

    def warm_up(self, waiting: Waiting = patiently) -> None:
        """Run every stage once, so that the first request finds allocators and caches warm."""
        prompt = [0] * min(2 * self.chunk, self.max_context - _WARM_UP_STEPS)
        self.begin(PreparedRequest(prompt), _WARM_UP_STEPS, ignore_eos=True)
        while not self.prefill_chunk():
            waiting()
        self.evict(max(self.window, len(prompt) // 2))
        while self.finish_reason is None:
            waiting()
            self.step()
        self.abort()
        self.schemas.start()

    def _bind_thread(self) -> None:
        # OpenMP keeps its number of threads per calling thread: a thread takes over the number last
        # set anywhere when it first uses torch, and only its own calls change it from then on.
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


def _check_memory(shape: AttentionShape, max_context: int, prefix_tokens: int) -> None:
    """Refuse what cannot fit: an allocator's error would name no setting."""
    per_token, free = KVCache.bytes_per_token(shape), free_memory(shape.device)
    for name, tokens in (("max_context", max_context), ("prefix_tokens", prefix_tokens)):
        if tokens * per_token > free:
            bound = (
                f"at most {free // per_token}: a token takes {per_token / 1e3:.0f} kB of cache, "
                f"and {free / 1e9:.1f} GB are free"
            )
            raise SettingError(name, tokens, bound)
        free -= tokens * per_token
