# SPDX-License-Identifier: Apache-2.0
"""One request at a time through a server: ask, watch its answer stream in, stop it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import ProfilePoints
from timebill_ros.engine.complete_prefix import complete_prefix
from timebill_ros.engine.errors import (
    EngineError,
    EngineMisuse,
    PromptTooLong,
    SchemaRefused,
    SchemaViolated,
    ServerFault,
)
from timebill_ros.engine.protocol import Capabilities, FinishReason, Progress, Waiting, patiently
from timebill_ros.engine.request import NOTHING_SET, Conversation, PreparedRequest, SamplingOverride
from timebill_ros.engine.served.connection import Connection, PieceStream
from timebill_ros.engine.served.events import MOST_LINE, Piece
from timebill_ros.engine.served.profile import profile_server
from timebill_ros.engine.served.request import (
    HeldToSchema,
    ServedModel,
    TokenEstimate,
    request_body,
)

# How long one piece of work waits for the network, s: so late can a deadline stop it.
_PIECE = 0.005
_DRAIN = 1.0  # s that a stream may take to end by itself, once the response is complete
_LONGEST_TOKEN = 16  # characters
_BYTES_PER_TOKEN = 8192  # of an event, most; servers repeat names and counts in each
_HIGH, _LOW = ("\ud800", "\udbff"), ("\udc00", "\udfff")  # halves of a surrogate pair
_FINISH = {
    "stop": FinishReason.EOS,
    "eos": FinishReason.EOS,
    "length": FinishReason.LENGTH,
}


class ServedEngine:
    """Runs one request after another on a server; see ``Engine``.

    It waits a few milliseconds at a time, and so never past a deadline: ``prefill_chunk`` and
    ``step`` return without a token where none has arrived. Nothing is evicted: alpha is no lever
    here. Tokens are counted by the server where it does, otherwise by the events of its stream.

    Args:
        connection: to the server; closed with the engine.
        model: what it runs.

    Attributes:
        model: as given.
        prompt_tokens: N_x of the present request as the server counted it; None before it has.

    Raises:
        SettingError: the window is no part of the context.
    """

    def __init__(self, connection: Connection, model: ServedModel) -> None:
        if not 0 < model.window < model.max_context:
            bound = f"below the context of {model.max_context} tokens"
            raise SettingError("window", model.window, bound)
        self.model = model
        self.window = model.window
        self.max_context = model.max_context
        self.max_prompt_chars = model.max_context * _LONGEST_TOKEN
        self.device = f"{connection.address.url} ({model.flavor.name})"
        self.capabilities = Capabilities(
            evicts=False, structured=model.flavor.structured, counts_tokens=False
        )
        self._connection = connection
        self._estimate = TokenEstimate()
        self.prompt_tokens: int | None = None
        self._stream: PieceStream | None = None
        self._draining: tuple[PieceStream, PreparedRequest | None] | None = None
        self._request: PreparedRequest | None = None
        self._held: HeldToSchema | None = None
        self._forget()

    def prepare(
        self,
        conversation: Conversation,
        response_schema: str = "",
        sampling: SamplingOverride = NOTHING_SET,
    ) -> PreparedRequest:
        """Check a request and estimate its tokens; the server renders it with its own template.

        Raises:
            PromptTooLong: it cannot fit the context.
            SchemaRefused: the server holds no answers to schemas, or the text is none.
        """
        characters = sum(map(len, conversation.texts))
        if characters > self.max_prompt_chars:
            raise PromptTooLong(characters, "characters", self.max_prompt_chars)
        held = None
        if response_schema:
            if not self.capabilities.structured:
                raise SchemaRefused(
                    f"servers of the flavor {self.model.flavor.name!r} hold no answers to one"
                )
            held = HeldToSchema.read(response_schema)
        return PreparedRequest(
            range(self._estimate(conversation)),
            "\n".join(conversation.texts),
            held,
            sampling=sampling,
            conversation=conversation,
        )

    def reusable(self, request: PreparedRequest) -> int:
        """0: what the server keeps of other prompts, it does not tell."""
        return 0

    def begin(self, request: PreparedRequest, max_tokens: int, *, ignore_eos: bool = False) -> None:
        """Forget the previous request and take this one; nothing is sent yet.

        Raises:
            ContextExceeded, RequestError: the request does not fit.
        """
        self.abort()
        self._learn_from_drained()
        if request.conversation is None or not isinstance(request.constraint, HeldToSchema | None):
            raise EngineMisuse("the request was prepared by another engine")
        request.check_length(max_tokens, self.max_context)
        self._request = request
        self._held = request.constraint
        self._max_tokens = max_tokens
        self._ignore_eos = ignore_eos

    def prefill_chunk(self) -> bool:
        """Wait a moment for response token 1; the first call sends the request.

        Raises:
            ServerUnavailable, ServerFault: there will be no answer.
        """
        if self._request is None or self._tokens:
            raise EngineMisuse("prefill_chunk needs a request whose prompt is not prefilled yet")
        if self._stream is None:
            self._stream = self._send(self._request)
        self._advance()
        return self._tokens > 0

    def evict(self, kept_tokens: int) -> None:
        """Not here: ``capabilities`` say so.

        Raises:
            EngineMisuse: always.
        """
        raise EngineMisuse("a server does not evict for others")

    def step(self) -> None:
        """Wait a moment for the next response token.

        Raises:
            ServerUnavailable, ServerFault: the answer will not be complete.
            SchemaViolated: it is, and does not satisfy its schema.
        """
        if not self._tokens or self._finished is not None:
            raise EngineMisuse("step needs a prefilled prompt and an unfinished response")
        self._advance()

    @property
    def response_tokens(self) -> int:
        """Response tokens so far."""
        return self._tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the response is complete; None while it is not."""
        return self._finished

    def text(self) -> str:
        """Response text so far, whole characters only."""
        text = self._text
        if text[-1:] and _HIGH[0] <= text[-1] <= _HIGH[1]:
            text = text[:-1]  # the other half is still to come
        if any(_HIGH[0] <= character <= _LOW[1] for character in text):
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def complete_prefix(self) -> str:
        """What of it can stand for itself; JSON that satisfies the schema under one."""
        text = self.text()
        if self._held is None:
            return complete_prefix(text)
        return self._held.closed(text)

    def abort(self) -> None:
        """Close the stream, which is how servers learn it, and tell those that want to be told."""
        stream, self._stream = self._stream, None
        if stream is not None and not stream.ended:
            if self._finished is not None:
                stream.close(_DRAIN)
                self._draining = None if self.prompt_tokens else (stream, self._request)
            else:
                stream.close()
                if path := self.model.flavor.abort_path:
                    self._connection.tell(path, {"rid": self._id})
                self._connection.tell("/health")  # the next request finds a connection
        self._forget()

    def close(self) -> None:
        """Close the connection; the engine cannot be used any more."""
        self.abort()
        self._connection.close()

    @property
    def traits(self) -> Mapping[str, str | int]:
        """What its times depend on, by name."""
        return {
            "server": self._connection.address.url,
            "model": self.model.name,
            "flavor": self.model.flavor.name,
            "max_context": self.max_context,
        }

    def measure(self, limit: float, progress: Progress) -> ProfilePoints:
        """Time first tokens and those that follow, network and queues included."""
        return profile_server(self, limit, progress)

    def warm_up(self, waiting: Waiting = patiently) -> None:
        """Ask for one token, so that the first request finds a connection."""
        self.begin(self.prepare(Conversation("", "Say yes.")), 1)
        while not self.prefill_chunk():
            waiting()
        self.abort()

    def settle(self, timeout: float) -> None:
        """Wait at most ``timeout`` s for what the server counted of the complete response."""
        end, stream = time.monotonic() + timeout, self._stream
        while stream is not None and self.prompt_tokens is None:
            piece = stream.take(max(0.0, end - time.monotonic()))
            if piece is None:
                return
            self._count(piece, self._request)

    def _learn_from_drained(self) -> None:
        """What the server counted of the request before, which came after its response."""
        if self._draining is None:
            return
        stream, request = self._draining
        self._draining = None
        try:
            while (piece := stream.take(0.0)) is not None:
                self._count(piece, request)
        except EngineError:
            pass  # its response was complete
        self.prompt_tokens = None

    def _count(self, piece: Piece, request: PreparedRequest | None) -> None:
        """Take in the prompt's length, where the server tells it here."""
        if not piece.prompt_tokens or self.prompt_tokens is not None or request is None:
            return
        self.prompt_tokens = piece.prompt_tokens
        if request.conversation is not None:
            self._estimate.observe(request.conversation, piece.prompt_tokens)

    def _forget(self) -> None:
        self._request = None
        self._held = None
        self._max_tokens = 0
        self._ignore_eos = False
        self._id = ""
        self._text = ""
        self._tokens = 0
        self._ending: FinishReason | None = None
        self._finished: FinishReason | None = None
        self.prompt_tokens = None

    def _send(self, request: PreparedRequest) -> PieceStream:
        self._id = uuid.uuid4().hex
        flavor, expected = self.model.flavor, request.expected
        headers = {} if expected is None else flavor.headers(expected)
        most = MOST_LINE + _BYTES_PER_TOKEN * self._max_tokens
        body = request_body(
            self.model, request, self._max_tokens, self._id, ignore_eos=self._ignore_eos
        )
        return self._connection.stream("/v1/chat/completions", body, headers, most)

    def _advance(self) -> None:
        """Take what has arrived, up to one token more, waiting a moment at most."""
        stream, before = self._stream, self._tokens
        if stream is None:
            raise EngineMisuse("nothing was asked")
        end = time.monotonic() + _PIECE
        while (piece := stream.take(max(0.0, end - time.monotonic()))) is not None:
            if piece.last:
                break
            self._absorb(piece)
            if self._ending is None and self._tokens > before:
                return
            if time.monotonic() >= end:  # pieces that add nothing may come without end
                break
        if self._ending is not None:
            self._end(self._ending)
        elif stream.ended or (piece is not None and piece.last):
            raise ServerFault(f"stream: it ended after {self._tokens} tokens without a reason")

    def _absorb(self, piece: Piece) -> None:
        self._text += piece.text
        counted = self._tokens + piece.tokens
        if piece.response_tokens is not None and (piece.tokens or piece.finish or self._ending):
            counted = max(counted, piece.response_tokens)
        if piece.finish:
            self._ending = self._reason(piece, counted)
            counted = max(1, counted)  # the end itself is a token
        elif counted >= self._max_tokens and self._ending is None:
            self._ending = FinishReason.LENGTH
        self._tokens = min(counted, max(self._max_tokens, self._tokens))
        self._count(piece, self._request)

    def _reason(self, piece: Piece, tokens: int) -> FinishReason:
        """Why the response ended.

        Raises:
            ServerFault: by nothing that completes one.
        """
        reason = _FINISH.get(piece.finish)
        if reason is None:
            known = ", ".join(_FINISH)
            raise ServerFault(f"finish_reason: {piece.finish!r} is none of {known}")
        if reason is FinishReason.LENGTH and tokens == 0:
            raise ServerFault("finish_reason: 'length' of an answer that has not begun")
        return FinishReason.STOP if piece.stop_string else reason

    def _end(self, reason: FinishReason) -> None:
        if self._held is not None and reason is not FinishReason.LENGTH:
            violation = self._held.check.violation(self.text())
            if violation:
                raise SchemaViolated(violation)
        self._finished = reason
