# SPDX-License-Identifier: Apache-2.0
"""How long a server takes: time to first token over prompt tokens, and from token to token."""

from __future__ import annotations

import functools
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import Measurement, ProfilePoints
from timebill_ros.engine.protocol import Progress, Waiting
from timebill_ros.engine.request import Conversation

if TYPE_CHECKING:
    from timebill_ros.engine.served.engine import ServedEngine

_SIZES = 7  # prompt lengths
_FEWEST = 5  # that a quadratic needs, with those that check it
_SHORTEST = 48  # tokens
_LONGEST = 4096  # tokens; a profile is to be short
_RESPONSE = 16  # tokens of each answer
_ROUNDS = 5  # most
_SETTLE = 1.0  # s that the server's count of a prompt is waited for
_WORDS = "The robot took the blue box to the third shelf and told what it saw on its way. "


@dataclass
class _Times:
    """What was measured at one prompt length."""

    tokens: int = 0
    first: list[float] = field(default_factory=list)
    following: list[float] = field(default_factory=list)
    response: int = 0


def profile_server(engine: ServedEngine, limit: float, progress: Progress) -> ProfilePoints:
    """Points of a server, whose queue and network are in its times.

    Each prompt begins with words of its own, so that no cache of prefixes answers for it. The
    shortest lengths are asked at whatever that takes; more, and further rounds, while time is left.

    Raises:
        SettingError: ``max_context`` leaves too few lengths.
        ServerUnavailable, ServerFault: the server did not answer.
    """
    sizes = prompt_sizes(engine.max_context)
    times = {size: _Times() for size in sizes}
    end = time.monotonic() + limit
    asked = [size for _ in range(_ROUNDS) for size in sizes]
    for done, size in enumerate(asked):
        if done >= _FEWEST and time.monotonic() >= end:
            break
        share, doing = done / len(asked), f"asking the server: {size} tokens"
        _ask(engine, size, times[size], functools.partial(progress, share, doing))
    return _points([each for each in times.values() if each.first])


def prompt_sizes(max_context: int) -> list[int]:
    """Prompt lengths to measure at, growing by a constant factor.

    Raises:
        SettingError: the context is too small for them.
    """
    longest = min(_LONGEST, max_context // 2)
    if longest < 2 * _SHORTEST:
        raise SettingError("max_context", max_context, f"at least {4 * _SHORTEST} to be profiled")
    factor = (longest / _SHORTEST) ** (1.0 / (_SIZES - 1))
    return sorted({round(_SHORTEST * factor**n) for n in range(_SIZES)})


def _ask(engine: ServedEngine, size: int, times: _Times, waiting: Waiting) -> None:
    """One request of about ``size`` tokens, timed."""
    waiting()
    request = engine.prepare(_prompt(engine, size))
    engine.begin(request, _RESPONSE, ignore_eos=True)
    before = time.monotonic()
    while not engine.prefill_chunk():
        waiting()
    first = last = time.monotonic()
    seen = tokens = engine.response_tokens
    while engine.finish_reason is None:
        waiting()
        engine.step()
        if engine.response_tokens > tokens:
            last, tokens = time.monotonic(), engine.response_tokens
    engine.settle(_SETTLE)
    times.tokens = engine.prompt_tokens or request.prompt_tokens
    times.first.append(first - before)
    times.response = max(times.response, tokens)
    # An answer that came at once says nothing of the time from token to token.
    if tokens > seen and last > first:
        times.following.append((last - first) / (tokens - seen))
    engine.abort()


def _prompt(engine: ServedEngine, size: int) -> Conversation:
    """A conversation of about so many tokens, unlike any before."""
    text = f"{uuid.uuid4().hex}. {_WORDS}"
    while engine.prepare(Conversation("", text)).prompt_tokens < size:
        text += _WORDS
    return Conversation("", text)


def _points(times: Sequence[_Times]) -> ProfilePoints:
    """The medians of each length; steps are of the cache in the middle of the answers."""
    spreads = []
    for measured in times:
        for row in (measured.first, measured.following):
            middle = statistics.median(row) if row else 0.0
            spreads += [abs(value - middle) / middle for value in row if len(row) > 2]
    first = [Measurement(t.tokens, statistics.median(t.first)) for t in times]
    steps = [
        Measurement(t.tokens + t.response // 2, statistics.median(t.following))
        for t in times
        if t.following
    ]
    if len({m.tokens for m in steps}) < _FEWEST:
        # Answers too short to tell: what there is holds at every length.
        every = statistics.median([m.seconds for m in steps] or [m.seconds for m in first])
        steps = [Measurement(m.tokens, every) for m in first]
    return ProfilePoints(
        prefill=first,
        step=steps,
        evict=(),
        spread=statistics.fmean(spreads) if spreads else 0.0,
    )
