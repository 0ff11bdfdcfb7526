# SPDX-License-Identifier: Apache-2.0
"""The same instructions through real servers, and through the engine of this process.

    make servers llamacpp real
    python benchmarks/served_engines.py --model FOLDER --gguf FILE

Each server runs the model on loopback. Told for each engine, without and with a client that keeps
the same server busy: outcomes, of which each instruction must have one; how long after its deadline
a killed one ended; mean errors of the time model, for the first token and from token to token; how
many of the plans whose worst case fitted were done within it, and how many missed their deadline,
beside ``time_risk``; and how many tokens a server went on generating for a request that was given
up, by the delay of the next one's first token.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import machine

from timebill_ros.engine.errors import EngineError
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.served.connect import ServedSettings, connect
from timebill_ros.runtime.clock import MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response
from timebill_ros.runtime.running_server import start_server
from timebill_ros.runtime.settings import Settings

TIME_RISK = 0.1
START = 180.0  # s that a server may take to answer
UNHURRIED_NS = 600 * 10**9
ABORTS = 12
LONG_ANSWER = 64  # tokens of a request that is given up
WORDS = ("robot", "box", "shelf", "blue", "third", "took", "saw", "told", "way", "door", "lamp")


@dataclass
class Tally:
    """What came of the instructions of one phase."""

    engine: str
    phase: str
    outcomes: list[Outcome] = field(default_factory=list)
    asked: int = 0

    def figures(self) -> dict[str, float | int | str]:
        """The row of the table."""
        terminal = [o for o in self.outcomes if isinstance(o, Response) or o.terminal]
        each = Counter(outcome.job.id for outcome in terminal)
        killed = [o for o in terminal if isinstance(o, Overrun) and o.reason is Reason.KILLED]
        late = sorted(-o.timing.slack * 1e3 for o in killed)
        fitted = [o for o in terminal if o.plan is not None and o.plan.feasible]
        missed = [o for o in fitted if not isinstance(o, Response) or o.late]
        covered = [o not in missed and _execution(o) <= o.plan.wcet for o in fitted]
        # The worst case begins as profiled, and learns from the first requests.
        learned = covered[len(covered) // 2 :]
        begun = [o for o in terminal if o.plan is not None and o.predicted_prefill > 0.0]
        firsts = [(o.predicted_prefill, o.timing.prefill) for o in begun]
        steps = [pair for o in begun if (pair := _step(o)) is not None]
        return {
            "engine": self.engine,
            "phase": self.phase,
            "asked": self.asked,
            "one_terminal_each": sum(count == 1 for count in each.values()),
            "answered": sum(isinstance(o, Response) for o in terminal),
            "killed": len(killed),
            "expired": sum(isinstance(o, Overrun) and o.reason is Reason.EXPIRED for o in terminal),
            "failed": sum(isinstance(o, Overrun) and o.reason is Reason.FAILED for o in terminal),
            "kill_p50_ms": round(float(np.quantile(late, 0.5)), 2) if late else -1.0,
            "kill_p99_ms": round(float(np.quantile(late, 0.99)), 2) if late else -1.0,
            "first_token_error": _error(firsts),
            "token_error": _error(steps),
            "fitted": len(fitted),
            "within_wcet_share": round(sum(covered) / len(fitted), 3) if fitted else -1.0,
            "of_the_second_half": round(sum(learned) / len(learned), 3) if learned else -1.0,
            "missed_share": round(len(missed) / len(fitted), 3) if fitted else -1.0,
            "time_risk": TIME_RISK,
        }


def _execution(outcome: Outcome) -> float:
    """s from the start of its execution to its end."""
    return outcome.timing.total - outcome.timing.queued


def _error(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean error of (predicted, measured) times as a share of their mean; -1 of none.

    Not the mean of the shares: where two tokens arrive at once, the time between them is next to
    nothing, and any prediction is off by thousands of percent.
    """
    measured = sum(actual for _, actual in pairs)
    if measured <= 0.0:
        return -1.0
    return round(sum(abs(predicted - actual) for predicted, actual in pairs) / measured, 3)


def _step(outcome: Outcome) -> tuple[float, float] | None:
    """s from token to token, predicted and measured; None where there was one token at most."""
    plan, timing, tokens = outcome.plan, outcome.timing, outcome.response_tokens
    if plan is None or plan.planned_tokens < 2 or tokens < 2:
        return None
    # No predictor: the time is predicted for N_W tokens, after the prefill that really was.
    predicted = (plan.predicted_time - timing.prefill) / (plan.planned_tokens - 1)
    return (predicted, timing.decode / (tokens - 1)) if predicted > 0.0 else None


def prompt(rng: np.random.Generator) -> str:
    """A question of 8 to 150 words, unlike any other."""
    count = int(np.exp(rng.uniform(np.log(8), np.log(150))))
    return f"{rng.integers(10**9)}: {' '.join(rng.choice(WORDS, count))}. What did it take?"


def ask_all(
    settings: Settings, tally: Tally, rng: np.random.Generator, *, tokens: tuple[int, int]
) -> None:
    """Send instructions one after another, with budgets around what they are predicted to take."""
    ended = threading.Event()
    clock = MonotonicClock()

    def emit(outcome: Outcome) -> None:
        tally.outcomes.append(outcome)
        if isinstance(outcome, Response) or outcome.terminal:
            ended.set()

    running = start_server(
        settings, clock=clock, emit=emit, observe=lambda _: None, progress=lambda *_: None
    )
    try:
        for number in range(tally.asked):
            said, most = Conversation("", prompt(rng)), int(rng.integers(*tokens))
            now = clock.now_ns()
            unhurried = Job(f"{number}", said, now, now + UNHURRIED_NS, most)
            predicted = running.quotes.quote(unhurried).plan.predicted_time
            budget = float(predicted * np.exp(rng.uniform(np.log(0.4), np.log(2.5))))
            ended.clear()
            now = clock.now_ns()
            job = Job(f"{number}", said, now, now + round(budget * 1e9), most)
            running.server.submit(job)
            if not ended.wait(settings.request_timeout + budget):
                raise TimeoutError(f"{job.id} has not ended")
    finally:
        running.server.close("the benchmark is over")
        running.release(10.0)


def given_up(url: str, model: str) -> dict[str, float]:
    """Tokens that the server went on generating for a request that was given up, most and mean."""
    firsts: dict[bool, list[float]] = {False: [], True: []}
    steps: list[float] = []
    with closing(connect(ServedSettings(url, model, request_timeout=120.0))) as engine:

        def ask(text: str, most: int, *, leave: bool) -> float:
            engine.begin(engine.prepare(Conversation("", text)), most)
            began = time.monotonic()
            while not engine.prefill_chunk():
                pass
            first = time.monotonic()
            while engine.finish_reason is None and not (leave and engine.response_tokens >= 2):
                engine.step()
            if engine.response_tokens > 1:
                steps.append((time.monotonic() - first) / (engine.response_tokens - 1))
            engine.abort()
            return first - began

        ask("Tell me a long story.", LONG_ANSWER, leave=False)
        for number in range(2 * ABORTS):
            after = number % 2 == 1
            if after:
                ask(f"{number}. Tell me a long story.", LONG_ANSWER, leave=True)
            firsts[after].append(ask(f"{number}. Say yes.", 1, leave=False))
    step = statistics.median(steps)
    more = [(first - statistics.median(firsts[False])) / step for first in firsts[True]]
    return {
        "inter_token_ms": round(step * 1e3, 2),
        "tokens_after_abort_median": round(statistics.median(more), 1),
        "tokens_after_abort_most": round(max(more), 1),
        "of": LONG_ANSWER,
    }


@contextmanager
def competing(url: str, model: str) -> Iterator[None]:
    """Another client that keeps the server busy."""
    ending = threading.Event()

    def load() -> None:
        with closing(connect(ServedSettings(url, model, request_timeout=120.0))) as engine:
            while not ending.is_set():
                try:
                    engine.begin(engine.prepare(Conversation("", "Tell me a story.")), 24)
                    while not (engine.prefill_chunk() or ending.is_set()):
                        pass
                    while engine.finish_reason is None and not ending.is_set():
                        engine.step()
                except EngineError:
                    ending.wait(0.1)
                engine.abort()

    other = threading.Thread(target=load)
    other.start()
    try:
        yield
    finally:
        ending.set()
        other.join()


@contextmanager
def process(command: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[str]:
    """A server that has come up; its address."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.NamedTemporaryFile("w+") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        try:
            end = time.monotonic() + START
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                    break
                except OSError:
                    if started.poll() is not None or time.monotonic() > end:
                        told = Path(log.name).read_text()[-2000:]
                        raise SystemExit(f"{command[0]} did not come up:\n{told}") from None
                    time.sleep(0.2)
            yield url
        finally:
            started.terminate()
            started.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def transformers_serve(python: Path, model: Path) -> Iterator[tuple[str, str]]:
    """``transformers serve``: its address, and the model's name there."""
    port = free_port()
    command = [str(python), "-P", "-m", "transformers.cli.transformers", "serve", str(model)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with tempfile.TemporaryDirectory() as home:
        Path(home, "hub").mkdir()
        environment = {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        with process([*command, *options], port, environment) as url:
            yield url, str(model)


@contextmanager
def llama_cpp(python: Path, gguf: Path) -> Iterator[tuple[str, str]]:
    """``llama-cpp-python[server]``: the same."""
    port = free_port()
    command = [str(python), "-P", "-m", "llama_cpp.server", "--model", str(gguf)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048"]
    # By default a second request ends the first, of whichever client.
    options += ["--interrupt_requests", "false"]
    with process([*command, *options], port, {}) as url:
        yield url, str(gguf)


def measure(options: argparse.Namespace) -> list[dict[str, float | int | str]]:
    """All rows."""
    rows: list[dict[str, float | int | str]] = []
    shared = {
        "planner": "vanilla",
        "time_risk": TIME_RISK,
        "max_tokens": options.max_tokens,
        # As long as these prompts need, so that the profile is short too.
        "max_context": 1024,
        "profile_seconds": options.profile_seconds,
        "request_timeout": 120.0,
        "window": 16,
    }
    servers = {}
    if options.servers.exists():
        servers["transformers"] = lambda: transformers_serve(options.servers, options.model)
    if options.llamacpp.exists() and options.gguf:
        servers["llama.cpp"] = lambda: llama_cpp(options.llamacpp, options.gguf)
    tokens = (2, options.max_tokens + 1)
    for name, start in servers.items():
        with start() as (url, model), tempfile.TemporaryDirectory() as kept:
            settings = Settings(
                engine="served", url=url, server_model=model, profile_cache=kept, **shared
            )
            for phase in ("alone", "with another client"):
                tally = Tally(name, phase, asked=options.instructions)
                with ExitStack() as stack:
                    if phase != "alone":
                        stack.enter_context(competing(url, model))
                    ask_all(settings, tally, np.random.default_rng(0), tokens=tokens)
                rows.append(tally.figures())
                print(json.dumps(rows[-1]), flush=True)
            rows.append({"engine": name, "phase": "given up", **given_up(url, model)})
            print(json.dumps(rows[-1]), flush=True)
    with tempfile.TemporaryDirectory() as kept:
        settings = Settings(model=str(options.model), profile_cache=kept, threads=1, **shared)
        tally = Tally("local", "alone", asked=options.instructions)
        ask_all(settings, tally, np.random.default_rng(0), tokens=tokens)
        rows.append(tally.figures())
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Measure and print, a line of JSON for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint, see `make real`")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--servers", type=Path, default=Path("build/servers/bin/python"))
    parser.add_argument("--llamacpp", type=Path, default=Path("build/llamacpp/bin/python"))
    parser.add_argument("--instructions", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--profile-seconds", type=float, default=20.0)
    options = parser.parse_args()
    if options.model is None:
        print("skipped: needs --model, and `make servers` or `make llamacpp`")
        return
    print(machine(), file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the servers too
    measure(options)


if __name__ == "__main__":
    main()
