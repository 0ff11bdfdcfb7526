# SPDX-License-Identifier: Apache-2.0
"""One warm connection to a server, on a thread of its own; whoever waits for it waits bounded.

A socket's time-out is no deadline: a server that sends a byte now and then never meets it. So the
bytes are read on the connection's own thread, and the engine's thread takes finished pieces from a
queue, waiting a few milliseconds at a time. To give a request up it only says so.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from timebill_ros.engine.errors import EngineError, ServerFault, ServerUnavailable
from timebill_ros.engine.protocol import Waiting, patiently
from timebill_ros.engine.served.events import EventDecoder, Piece, error_text

_LOG = logging.getLogger(__name__)

_CONNECT = 5.0  # s, most that connecting may take
_IDLE = 300.0  # s that an idle connection is kept
_MOST_BODY = 1 << 20  # bytes of an answer that is no stream
_MOST_ERROR = 4096  # bytes of an error's body that are read
_CLOSING = 5.0  # s
_HEARTBEAT = 0.1  # s between two looks whether an answer is waited for still


@dataclass(frozen=True)
class Address:
    """Where a server is, and what lets us in.

    Attributes:
        url: the server's root, with a path where it has one.
        key: the secret, sent as a bearer token and shown nowhere; "" for none.
        request_timeout: s, most that one request may take, whatever its deadline.
    """

    url: str
    key: str = field(default="", repr=False)
    request_timeout: float = 60.0


class PieceStream:
    """The pieces of one response, as they arrive.

    Args:
        loop: the event loop of the thread that reads them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: queue.SimpleQueue[Piece | EngineError | None] = queue.SimpleQueue()
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def take(self, timeout: float) -> Piece | None:
        """The next piece, waiting at most ``timeout`` s; None where none has come by then.

        Raises:
            ServerUnavailable, ServerFault: the server is not there, or sent what it must not.
        """
        if self._ended:
            return None
        try:
            found = self._pieces.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(found, Piece):
            return found
        self._ended = True
        if found is not None:
            raise found
        return None

    @property
    def ended(self) -> bool:
        """Whether all that came was taken, and nothing more will come."""
        return self._ended

    def close(self, grace: float = 0.0) -> None:
        """Stop reading, at once or after at most ``grace`` s; the server sees its stream close."""
        if grace > 0.0:
            self._loop.call_soon_threadsafe(self._loop.call_later, grace, self._cancel)
        else:
            self._loop.call_soon_threadsafe(self._cancel)

    def put(self, item: Piece | EngineError | None) -> None:
        """Hand over a piece, the error that ends the stream, or None for its end."""
        self._pieces.put(item)

    def follow(self, task: asyncio.Task[None]) -> None:
        """``task`` reads this stream."""
        self._task = task

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class Connection:
    """Talks to one server; its methods may be called from any thread.

    TLS is verified by the system's certificates (``SSL_CERT_FILE`` names others), redirects are
    refused, and no proxy is asked: requests go to the address and nowhere else.
    """

    def __init__(self, address: Address) -> None:
        """Nothing is sent yet."""
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="served", daemon=True)
        headers = {"User-Agent": "timebill_ros", "Accept-Encoding": "identity"}
        if address.key:
            headers["Authorization"] = f"Bearer {address.key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            verify=ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(None, connect=min(_CONNECT, address.request_timeout)),
            limits=httpx2.Limits(max_connections=8, keepalive_expiry=_IDLE),
        )
        self._background: set[asyncio.Task[None]] = set()
        self._thread.start()

    def stream(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], most_bytes: int
    ) -> PieceStream:
        """Post a request; its pieces come to the stream that is returned at once."""
        pieces = PieceStream(self._loop)

        def start() -> None:
            pieces.follow(self._spawn(self._read(pieces, path, body, headers, most_bytes)))

        self._loop.call_soon_threadsafe(start)
        return pieces

    def get(self, path: str, waiting: Waiting = patiently) -> dict[str, Any]:
        """The JSON object at ``path``; blocks for as long as a request may take.

        Raises:
            ServerUnavailable, ServerFault: there is none.
            Exception: whatever ``waiting`` raised.
        """
        future: Future[dict[str, Any]] = asyncio.run_coroutine_threadsafe(
            self._get(path), self._loop
        )
        try:
            while wait([future], _HEARTBEAT).not_done:
                waiting()
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def tell(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Send something whose answer does not matter (a GET without a ``body``); returns at once.

        It also opens the connection that the next request finds warm.
        """

        async def send() -> None:
            try:
                method = "GET" if body is None else "POST"
                async with self._response(method, path, json=body) as response:
                    await _body(response, _MOST_BODY)
            except EngineError as error:
                _LOG.debug("%s: %s", path, error)

        self._loop.call_soon_threadsafe(lambda: self._spawn(send()))

    def close(self) -> None:
        """Close whatever is open."""

        async def end() -> None:
            for task in tuple(self._background):
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._client.aclose()

        if not self._thread.is_alive():
            return
        try:
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(_CLOSING)
        except TimeoutError:
            _LOG.warning("the connection to the server did not close in time")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _read(
        self,
        pieces: PieceStream,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        most_bytes: int,
    ) -> None:
        try:
            decoder = EventDecoder(most_bytes)
            async with self._response("POST", path, json=body, headers=headers) as response:
                # To its end, though the response may be complete before: so the connection is kept.
                async for received in response.aiter_raw():
                    for piece in decoder.feed(received):
                        pieces.put(piece)
            pieces.put(None)
        except EngineError as error:
            pieces.put(error)

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._response("GET", path) as response:
            content = await _body(response, _MOST_BODY)
        try:
            found = httpx2.Response(200, content=content).json()
        except ValueError:
            raise ServerFault(f"{path}: the answer is not JSON") from None
        if not isinstance(found, dict):
            raise ServerFault(f"{path}: the answer is no JSON object")
        return found

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, **content: Any
    ) -> AsyncIterator[httpx2.Response]:
        """The open response of a request that succeeded; every fault is one of our own errors."""
        try:
            async with asyncio.timeout(self.address.request_timeout):
                url = self.address.url + path
                async with self._client.stream(method, url, **content) as response:
                    if response.status_code != httpx2.codes.OK:
                        raise await self._refused(response)
                    yield response
        except TimeoutError:
            timeout = self.address.request_timeout
            raise ServerUnavailable(f"request_timeout: no end within {timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise ServerUnavailable(self._hidden(f"{type(error).__name__}: {error}")) from None
        except ServerFault as fault:
            raise ServerFault(self._hidden(fault.reason)) from None

    async def _refused(self, response: httpx2.Response) -> EngineError:
        """What a status other than 200 means; never with the secret that some servers repeat."""
        status = response.status_code
        if response.is_redirect:
            return ServerFault(f"HTTP {status}: it redirects, which is not followed")
        try:
            content = await _body(response, _MOST_ERROR)
            said: object = httpx2.Response(200, content=content).json()
        except (ValueError, ServerFault):
            said = response.reason_phrase
        told = self._hidden(f"HTTP {status}: {error_text(said)}")
        busy = status == httpx2.codes.TOO_MANY_REQUESTS or httpx2.codes.is_server_error(status)
        return ServerUnavailable(told) if busy else ServerFault(told)

    def _hidden(self, text: str) -> str:
        return text.replace(self.address.key, "***") if self.address.key else text


async def _body(response: httpx2.Response, most: int) -> bytes:
    """The body of at most ``most`` bytes."""
    content = b""
    async for received in response.aiter_raw():
        content += received
        if len(content) > most:
            raise ServerFault(f"the answer is longer than {most} bytes")
    return content
