# SPDX-License-Identifier: Apache-2.0
"""One instruction that was sent, and what becomes of it: to await, to wait for, or to cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import timebill_ros.msg as msg
from timebill_ros.action import Instruct
from timebill_ros.client.record import Record, missing_record, record_of_message

Done = Callable[["Exchange"], object]


@dataclass(frozen=True)
class Arrival:
    """A message about an instruction, and the instant of ``time.monotonic_ns`` it was taken."""

    message: msg.Response | msg.Overrun
    arrived_ns: int

    @property
    def terminal(self) -> bool:
        """Whether nothing more is heard of the instruction."""
        return not (
            isinstance(self.message, msg.Overrun) and self.message.reason == msg.Overrun.LATE
        )


class Sender(Protocol):
    """What an exchange needs of the client that began it."""

    def wait_for(self, *exchanges: Exchange, timeout: float | None) -> bool:
        """Wait until all of them have ended; False after ``timeout`` s."""

    def cancel(self, exchange: Exchange) -> None:
        """Ask the node to give the instruction up."""


class Exchange:
    """One instruction and every message about it, in order of arrival.

    It ends once: with the node's terminal message, or when the client gives up waiting for one.
    Its methods are those of a future, with a ``Record`` as its result.

    Attributes:
        instruction: as it was sent.
        sent_ns: instant of ``time.monotonic_ns``.
        arrivals: messages so far; one that comes after the end is kept too.
        feedback: how far the answer has grown; None before the first news, and for topics.
    """

    def __init__(self, instruction: msg.Instruction, sent_ns: int, sender: Sender) -> None:
        """Nothing has been heard of it."""
        self.instruction = instruction
        self.sent_ns = sent_ns
        self.arrivals: list[Arrival] = []
        self.feedback: Instruct.Feedback | None = None
        self._sender = sender
        self._lock = threading.Lock()  # callbacks may be added on another thread than they run on
        self._ended = False
        self._callbacks: list[Done] = []

    @property
    def end(self) -> Arrival | None:
        """The first terminal message; None while there is none, and where the client gave up."""
        return next((arrival for arrival in self.arrivals if arrival.terminal), None)

    @property
    def terminal(self) -> msg.Response | msg.Overrun | None:
        """What ``end`` says."""
        end = self.end
        return None if end is None else end.message

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def record(self, prompt_tokens: int = 0) -> Record | None:
        """What became of it, as plain values; None while it has not ended.

        Args:
            prompt_tokens: fills in for an instruction that ended before it was tokenised.
        """
        if (message := self.terminal) is not None:
            return record_of_message(self.instruction, message, prompt_tokens)
        return missing_record(self.instruction) if self._ended else None

    def result(self, timeout: float | None = None) -> Record:
        """Wait until it has ended, and tell what became of it.

        Not inside a callback of the executor that spins the client's node: there, ``await`` the
        exchange or use ``add_done_callback``.

        Args:
            timeout: s; None waits until the node has answered or the client gives up.

        Raises:
            TimeoutError: it has not ended after ``timeout`` s.
            CallbackWaits: called inside such a callback.
        """
        self._sender.wait_for(self, timeout=timeout)
        record = self.record()
        if record is None:
            raise TimeoutError(f"{self.instruction.id} has not ended after {timeout} s")
        return record

    def add_done_callback(self, callback: Done) -> None:
        """Call ``callback`` with the exchange when it has ended: at once, where it has already."""
        with self._lock:
            if not self._ended:
                self._callbacks.append(callback)
                return
        callback(self)

    def cancel(self) -> None:
        """Ask the node to give it up; the end comes as a message like any other.

        Returns at once. A canceled instruction ends with ``Ending.CANCELED`` and the text so far;
        one whose answer was on its way ends with that. Does nothing where it has ended.

        Raises:
            NotCancelable: it was sent by topic.
        """
        if not self._ended:
            self._sender.cancel(self)

    def __await__(self) -> Generator[None, None, Record]:
        """Inside a coroutine that an rclpy executor runs: what became of it."""
        while (record := self.record()) is None:
            yield  # rclpy resumes a coroutine whenever its executor has had something to do
        return record

    def take(self, arrival: Arrival) -> None:
        """Keep a message; for the client."""
        self.arrivals.append(arrival)
        if arrival.terminal:
            self.finish()

    def finish(self) -> None:
        """End it, with or without a terminal message; for the client. Once only."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
