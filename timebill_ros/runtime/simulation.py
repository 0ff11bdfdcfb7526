# SPDX-License-Identifier: Apache-2.0
"""The same server in virtual time: an engine that only takes time, exact to the nanosecond."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import Capabilities, FinishReason
from timebill_ros.engine.request import NOTHING_SET, Conversation, PreparedRequest, SamplingOverride
from timebill_ros.runtime.clock import NS_PER_S, seconds
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.server import Server

_LONGEST_TOKEN = 16  # characters


class VirtualClock:
    """A clock that moves only when simulated work is done, firing what is due on its way."""

    rate = 1.0

    def __init__(self) -> None:
        """Instant 0, nothing scheduled."""
        self._now_ns = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0

    def now_ns(self) -> int:
        """The present virtual instant, ns."""
        return self._now_ns

    def at(self, instant_ns: int, event: Callable[[], None]) -> None:
        """Have ``event`` called when the clock reaches ``instant_ns``."""
        heapq.heappush(self._due, (instant_ns, self._scheduled, event))
        self._scheduled += 1

    def advance(self, duration_ns: int) -> None:
        """Let ``duration_ns`` pass, calling the events that fall due, each at its instant."""
        end_ns = self._now_ns + duration_ns
        while self._due and self._due[0][0] <= end_ns:
            instant_ns, _, event = heapq.heappop(self._due)
            self._now_ns = max(self._now_ns, instant_ns)
            event()
        self._now_ns = end_ns

    def advance_to_next_event(self) -> bool:
        """Jump to the next event and call it; False where none is scheduled."""
        if not self._due:
            return False
        self.advance(max(0, self._due[0][0] - self._now_ns))
        return True


class ScaledClock:
    """Shows ``start_ns`` when the real clock shows 0, and runs ``rate`` times as fast as it.

    What a node under ``use_sim_time`` sees, while its work takes real time.
    """

    def __init__(self, real: VirtualClock, *, rate: float = 1.0, start_ns: int = 0) -> None:
        """Follow ``real``; the rate is above 0."""
        self.rate = rate
        self._real = real
        self._start_ns = start_ns

    def now_ns(self) -> int:
        """The present instant of this clock, ns."""
        return self._start_ns + math.floor(self._real.now_ns() * self.rate)

    def real_ns(self, instant_ns: int) -> int:
        """The earliest instant of the real clock at which this one shows ``instant_ns`` or more."""
        return math.ceil((instant_ns - self._start_ns) / self.rate)

    def jump(self, by_ns: int) -> None:
        """Show ``by_ns`` more from now on: less, where time is set back."""
        self._start_ns += by_ns


@dataclass(frozen=True)
class SimulatedRequest:
    """What the simulated engine and predictor make of one prompt.

    Attributes:
        prompt_tokens: N_x.
        response_tokens: N, where nothing cuts it off.
        predicted_tokens: upper edge of the bucket that the predictor finds likeliest.
        least_complete: tokens before which nothing of the response can stand for itself.
        lengths: all that the predictor says; None where it is sure of ``predicted_tokens``.
        after_eviction: N once only so many prompt tokens are kept; None where that changes nothing.
        shared_tokens: prompt tokens that an earlier prompt had too, whose prefill takes no time.
    """

    prompt_tokens: int
    response_tokens: int
    predicted_tokens: int
    least_complete: int = 1
    lengths: LengthDistribution | None = None
    after_eviction: Callable[[int], int] | None = None
    shared_tokens: int = 0


class SimulatedEngine:
    """Takes the time that the time model says, and makes as many tokens as the request says."""

    def __init__(
        self,
        clock: VirtualClock,
        time_model: TimeModel,
        requests: Mapping[str, SimulatedRequest],
        *,
        window: int = 16,
        max_context: int = 16384,
        chunk: int = 512,
        slowness: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """An engine without a request.

        Args:
            clock: moves on by the time that work takes.
            time_model: what the work takes.
            requests: what prompts stand for, by the job's prompt.
            window: observation window, the last prompt tokens that are never evicted.
            max_context: most tokens of prompt and response together.
            chunk: prompt tokens that prefill runs a piece.
            slowness: asked for every piece of work, how many times as long as ``time_model`` says
                it takes: a machine whose speed changes.
        """
        self.window = window
        self.max_context = max_context
        self.max_prompt_chars = max_context * _LONGEST_TOKEN
        self.device = "simulated"
        self.capabilities = Capabilities(evicts=True, structured=True, counts_tokens=True)
        self._clock = clock
        self._free_model = self._time_model = time_model
        self._requests = requests
        self._chunk = chunk
        self._slowness = slowness
        self._max_tokens = 0
        self._ignore_eos = False
        self.abort()

    def prepare(
        self,
        conversation: Conversation,
        response_schema: str = "",
        sampling: SamplingOverride = NOTHING_SET,
    ) -> PreparedRequest:
        """As many tokens as the request has, and its prompt alone as text; takes no time."""
        tokens = [0] * self._requests[conversation.prompt].prompt_tokens
        return PreparedRequest(tokens, conversation.prompt, response_schema or None, sampling)

    def reusable(self, request: PreparedRequest) -> int:
        """What its whole prompt shares; nothing where that was shortened."""
        known = self._requests[request.text]
        return known.shared_tokens if request.prompt_tokens == known.prompt_tokens else 0

    def begin(self, request: PreparedRequest, max_tokens: int, *, ignore_eos: bool = False) -> None:
        """Forget the previous request and take this one; a schema only takes its time."""
        free = self._free_model
        self._request = self._requests[request.text]
        self._time_model = free if request.constraint is None else free.structured()
        self._max_tokens = max_tokens
        self._ignore_eos = ignore_eos
        self._kept = len(request.prompt_ids)
        self._prefilled = self._reused = self.reusable(request)
        self._response_tokens = 0
        self._full_length = self._request.response_tokens

    def prefill_chunk(self) -> bool:
        """Let the time of one chunk pass; True after the last."""
        done = min(self._prefilled + self._chunk, self._kept)
        # The chunk's own time is the difference of the whole's: the time model knows only wholes.
        times, reused = self._time_model, self._reused
        before = times.prefill(self._prefilled, reused) if self._prefilled > reused else 0.0
        self._spend(times.prefill(done, reused) - before)
        self._prefilled = done
        if done < self._kept:
            return False
        self._response_tokens = 1
        return True

    def evict(self, kept_tokens: int) -> None:
        """Let the eviction's time pass."""
        self._spend(self._time_model.evict(self._request.prompt_tokens))
        self._kept = kept_tokens
        if self._request.after_eviction is not None:
            self._full_length = self._request.after_eviction(kept_tokens)

    def step(self) -> None:
        """Let one decoding step's time pass; one response token more."""
        self._spend(self._time_model.step(self._kept + self._response_tokens - 1))
        self._response_tokens += 1

    @property
    def response_tokens(self) -> int:
        """Response tokens so far, EOS included."""
        return self._response_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """EOS at the request's own length, LENGTH at N_max, None before."""
        if not self._ignore_eos and self._response_tokens >= self._full_length:
            return FinishReason.EOS
        return FinishReason.LENGTH if self._response_tokens >= self._max_tokens else None

    @property
    def lengths(self) -> LengthDistribution | None:
        """What its state tells of the response's length; None before the prompt's end."""
        return self._request.lengths if self._response_tokens else None

    def text(self) -> str:
        """One letter for each token so far."""
        return "x" * self._response_tokens

    def complete_prefix(self) -> str:
        """All of the text once there is enough of it, otherwise nothing."""
        return self.text() if self._response_tokens >= self._request.least_complete else ""

    def abort(self) -> None:
        """Forget the request; no time passes."""
        self._request = SimulatedRequest(0, 1, 1)
        self._kept = self._prefilled = self._reused = self._response_tokens = self._full_length = 0

    def close(self) -> None:
        """Nothing to give back."""

    def _spend(self, duration: float) -> None:
        self._clock.advance(round(duration * self._slowness() * NS_PER_S))


@dataclass(frozen=True)
class SimulatedPrediction:
    """A prediction that is ready at a set virtual instant."""

    clock: VirtualClock
    started_ns: int
    ready_ns: int
    lengths: LengthDistribution

    def wait(self, timeout: float) -> LengthDistribution | None:
        """The distribution, letting at most ``timeout`` s pass."""
        missing_ns = max(0, self.ready_ns - self.clock.now_ns())
        allowed_ns = round(timeout * NS_PER_S)
        self.clock.advance(min(missing_ns, allowed_ns))
        return self.lengths if missing_ns <= allowed_ns else None

    def cancel(self) -> None:
        """Nothing to give up: no work is done for it."""

    @property
    def elapsed(self) -> float:
        """Seconds since the start, at most until it was ready."""
        return seconds(min(self.ready_ns, self.clock.now_ns()) - self.started_ns)


class SimulatedPredictor:
    """A ``PredictionService`` that takes the time model's time and says what the request says."""

    def __init__(
        self,
        clock: VirtualClock,
        time_model: TimeModel,
        requests: Mapping[str, SimulatedRequest],
        *,
        bucket_size: int = 16,
    ) -> None:
        """``requests`` are found by the job's prompt text."""
        self._clock = clock
        self._time_model = time_model
        self._requests = requests
        self._bucket_size = bucket_size

    def start(self, text: str, prompt_ids: Sequence[int], max_input: int) -> SimulatedPrediction:
        """Begin to predict; the result is ready when the predictor's time has passed."""
        tokens = min(len(prompt_ids), max_input)
        model = self._time_model.predictor
        duration = model(tokens) if model is not None else 0.0
        request = self._requests[text]
        lengths = request.lengths or certain_length(request.predicted_tokens, self._bucket_size)
        now_ns = self._clock.now_ns()
        ready_ns = now_ns + round(duration * NS_PER_S)
        return SimulatedPrediction(self._clock, now_ns, ready_ns, lengths)

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True)
class SimulatedSelection:
    """Adds shorter prompts of at least ``always`` tokens to ``requests``, in their ``times``."""

    requests: dict[str, SimulatedRequest]
    always: int
    shares: Sequence[float]
    clock: VirtualClock
    times: TimeModel

    def rank(self, conversation: Conversation, prompt_tokens: int) -> SimulatedRanking:
        """Nothing but the prompt's name and length."""
        self.clock.advance(round(self.times.rank * prompt_tokens * NS_PER_S))
        return SimulatedRanking(self, conversation.prompt, min(1.0, self.always / prompt_tokens))


@dataclass(frozen=True)
class SimulatedRanking:
    """A prompt of which any share can be taken; the answer to it stays as long."""

    by: SimulatedSelection
    name: str
    least_share: float

    def select(self, share: float) -> Conversation:
        """The name of the shorter prompt; what is left of it was never cached before."""
        whole = self.by.requests[self.name]
        left = math.ceil(max(share, self.least_share) * whole.prompt_tokens)
        self.by.clock.advance(round(self.by.times.render * left * NS_PER_S))
        self.by.requests[name := f"{self.name} {left}"] = replace(
            whole, prompt_tokens=left, shared_tokens=0
        )
        return Conversation("", name)


def certain_length(tokens: int, bucket_size: int) -> LengthDistribution:
    """The prediction of a predictor that has no doubt of the bucket."""
    probabilities = np.zeros(-(-tokens // bucket_size))
    probabilities[-1] = 1.0
    return LengthDistribution(probabilities, bucket_size)


def simulate(server: Server, clock: VirtualClock, jobs: Iterable[Job]) -> None:
    """Submit every job at its release and serve until nothing is left to do."""
    for job in jobs:
        clock.at(job.release_ns, lambda job=job: server.submit(job))  # type: ignore[misc]
    serve_all(server)
    while clock.advance_to_next_event():
        serve_all(server)


def serve_all(server: Server) -> None:
    """Prepare and serve what waits, until nothing does: what the threads do in real time."""
    while server.prepare_next() or server.serve_next():
        pass
