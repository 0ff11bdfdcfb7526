# SPDX-License-Identifier: Apache-2.0
"""What keeping the prompts' common start is worth: prefill with and without it, and its copies.

Instructions that share a long prefix are prefilled in turns with what the one before left and, for
measuring, without. Medians over the rounds; the copies are timed on the same cache.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from machine import heading

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.kv_cache import KeptPrefixes
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings


def main() -> None:
    """Print the times of each prefix, their ratio, and what the copies take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", help="'embedded' or a checkpoint's folder")
    parser.add_argument("--prefix", type=int, nargs="+", default=[500, 2000, 4000])
    parser.add_argument("--new", type=int, default=100, help="tokens of the instruction")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    longest = max(arguments.prefix) + arguments.new
    settings = EngineSettings(longest + 8, window=64, prefix_tokens=longest)
    folder = Path(model_folder(Settings(model=arguments.model))).expanduser()
    engine = TransformerEngine(load_checkpoint(folder), settings)
    print(heading("Reuse of a common prefix"))
    print(f"{folder.name}, {arguments.new} new tokens; medians of {arguments.rounds} rounds, ms")
    print(f"{'prefix':>8}{'whole':>10}{'reused':>10}{'factor':>8}{'keep all':>10}{'restore':>10}")
    for prefix in arguments.prefix:
        print(row(engine, prefix, arguments.new, arguments.rounds), flush=True)


@torch.inference_mode()
def row(engine: TransformerEngine, prefix: int, new: int, rounds: int) -> str:
    """One line of the table."""
    rng = random.Random(prefix)
    most = engine.vocabulary - 1
    common = [rng.randint(0, most) for _ in range(prefix)]
    kept = KeptPrefixes(engine.cache, prefix + new)
    times: dict[str, list[float]] = {"whole": [], "reused": [], "keep": [], "restore": []}
    for number in range(rounds + 1):
        prompt = common + [rng.randint(0, most) for _ in range(new)]
        request, unlike = PreparedRequest(prompt), [number, *prompt[1:]]
        taken = [
            timed(partial(prefill, engine, request, measuring=True)),
            timed(partial(prefill, engine, request, measuring=False)),
            timed(partial(kept.keep, unlike)),
            timed(partial(kept.restore, unlike, kept.common(unlike))),
        ]
        if number:  # the first round fills what the others reuse
            for name, seconds in zip(times, taken, strict=True):
                times[name].append(seconds * 1e3)
    whole, reused, keep, restore = (statistics.median(taken) for taken in times.values())
    figures = (whole, reused, whole / reused, keep, restore)
    return f"{prefix:>8}" + "".join(
        f"{figure:>{width}.{digits}f}"
        for figure, width, digits in zip(figures, (10, 10, 8, 10, 10), (2, 2, 1, 2, 2), strict=True)
    )


def prefill(engine: TransformerEngine, request: PreparedRequest, *, measuring: bool) -> None:
    """Begin the request and run its prefill to the end."""
    engine.begin(request, 4, ignore_eos=measuring)
    while not engine.prefill_chunk():
        pass


def timed(work: Callable[[], None]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
