# SPDX-License-Identifier: Apache-2.0
"""A decoding step alone and beside busy processes, by the number of threads and how they wait.

OpenMP reads how threads wait when it is loaded, so each way to wait has a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import heading

_WAYS: dict[str, dict[str, str]] = {
    "active": {},
    "spinning 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "spinning 3,000 times": {"GOMP_SPINCOUNT": "3000"},
    "spinning 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
_BUSY = "while True: pass"
_CHILD = "TIMEBILL_MEASURES"  # in the environment of the processes that measure


def main() -> None:
    """Print the median step of every number of threads and way to wait, by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint directory; default: embedded")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--cached", type=int, default=1000, help="tokens in the cache")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--busy", type=int, default=2, help="busy processes")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    if _CHILD in os.environ:
        measure(arguments)
        return
    print(heading("Beside other processes"))
    print(f"load before: {os.getloadavg()[0]:.1f}; medians of {arguments.turns} turns, ms")
    times: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(arguments.turns):
        for threads in arguments.threads:
            for way in _WAYS:
                times.setdefault((threads, way), []).append(child(threads, way))
    print(
        f"{'threads':>7}  {'waiting':<23}{'alone':>9}{f'beside {arguments.busy}':>11}{'ratio':>8}"
    )
    for (threads, way), seen in times.items():
        alone, beside = (statistics.median(column) for column in zip(*seen, strict=True))
        print(f"{threads:>7}  {way:<23}{alone:>9.1f}{beside:>11.1f}{beside / alone:>8.1f}")


def child(threads: int, way: str) -> tuple[float, float]:
    """Median steps alone and beside others, ms, of a process that waits in this way."""
    command = [sys.executable, *sys.argv, "--threads", str(threads)]
    environment = {**os.environ, **_WAYS[way], _CHILD: "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    alone, beside = map(float, done.stdout.split())
    return alone, beside


def measure(arguments: argparse.Namespace) -> None:
    """Print the two medians, in ms."""
    from timebill_ros.engine.checkpoint import load_checkpoint
    from timebill_ros.engine.settings import EngineSettings
    from timebill_ros.engine.transformer_engine import TransformerEngine
    from timebill_ros.runtime.models import model_folder
    from timebill_ros.runtime.settings import Settings

    checkpoint = load_checkpoint(arguments.model or model_folder(Settings()))
    context = arguments.cached + arguments.steps + 2
    settings = EngineSettings(max_context=context, threads=arguments.threads[-1])
    engine = TransformerEngine(checkpoint, settings)

    def steps(count: int) -> float:
        engine.rehearse(arguments.cached, arguments.cached - 1, count + 1)
        engine.prefill_chunk()
        times = []
        for _ in range(count):
            start = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3

    steps(5)
    alone = steps(arguments.steps)
    with busy(arguments.busy):
        print(alone, steps(arguments.steps))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
