# SPDX-License-Identifier: Apache-2.0
"""From settings to an engine, by default with what this machine runs fastest.

The number of threads and the type of the weights are chosen by measurement.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from timebill_ros.engine.checkpoint import Checkpoint, checkpoint_digest
from timebill_ros.engine.decoder import supports
from timebill_ros.engine.device import device_name, warn_if_emulated
from timebill_ros.engine.profile_cache import DAMAGED, Environment, kept_path, read_kept, write_kept
from timebill_ros.engine.projection import Projection, WeightKinds
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine

_LOG = logging.getLogger(__name__)

_SMALL_MODEL = 50_000_000  # weights
_FORMAT = 1  # of what a choice depends on
_TURNS = 5
# Weights of the sample that a step is timed on: more than any cache holds, as in the whole model.
_STEP_SAMPLE = 64_000_000
_CHUNK_SAMPLE = 4_000_000  # arithmetic decides, and the cache holds what it works on


@dataclass(frozen=True)
class SpeedChoice:
    """What was fastest: CPU threads, and how the weights are kept for prefill and for steps."""

    threads: int
    prefill: str
    steps: str

    @property
    def weights(self) -> WeightKinds:
        """The kinds of both."""
        return WeightKinds(self.prefill, self.steps)


def thread_numbers(most: int) -> list[int]:
    """Numbers of threads worth trying: powers of two, and all."""
    return sorted({*(1 << power for power in range(most.bit_length())), most})


def multiplication(weights: Sequence[Tensor], kind: str, rows: int) -> Callable[[], float]:
    """A call that multiplies ``rows`` vectors by every weight, and returns the s that took.

    ``kind`` says how the weights are kept.
    """
    make = WeightKinds(kind, kind).maker()
    pairs: list[tuple[Projection, Tensor]] = []
    for weight in weights:
        shape = (weight.shape[1],) if rows == 1 else (rows, weight.shape[1])
        pairs.append((make(weight, None), torch.randn(shape, dtype=weight.dtype)))

    def run() -> float:
        start = time.perf_counter_ns()
        for project, x in pairs:
            project(x)
        return (time.perf_counter_ns() - start) * 1e-9

    return run


def measure_speeds(
    model: nn.Module,
    *,
    chunk: int,
    threads: Sequence[int],
    kinds: Sequence[str],
    timed: Callable[[Sequence[Tensor], str, int], Callable[[], float]] = multiplication,
) -> SpeedChoice:
    """Time linear layers of the model in every way, by turns, and take the fastest.

    The fastest of some turns counts, so that other work on the machine decides nothing. The number
    of threads is that with the least product of both times. The calling thread's number of threads
    is as it was afterwards.

    Args:
        model: whose linear layers are a sample.
        chunk: vectors that a prefill multiplies at once.
        threads: numbers to try.
        kinds: of weights to try, the checkpoint's own first.
        timed: makes what is called to be timed, of weights, their kind and a number of vectors.
    """
    weights = [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]
    before = torch.get_num_threads()
    times: dict[tuple[int, str, int], float] = {}
    try:
        with torch.inference_mode():
            work = {
                (kind, rows): timed(_sample(weights, size), kind, rows)
                for kind, (rows, size) in product(
                    kinds, ((1, _STEP_SAMPLE), (chunk, _CHUNK_SAMPLE))
                )
            }
            for _ in range(_TURNS):
                for number in threads:
                    torch.set_num_threads(number)
                    for (kind, rows), run in work.items():
                        key = (number, kind, rows)
                        times[key] = min(times.get(key, math.inf), run())
    finally:
        torch.set_num_threads(before)

    def fastest(number: int, rows: int) -> str:
        return min(kinds, key=lambda kind: times[number, kind, rows])

    def product_of_times(number: int) -> float:
        return math.prod(times[number, fastest(number, rows), rows] for rows in (1, chunk))

    best = min(threads, key=product_of_times)
    return SpeedChoice(best, prefill=fastest(best, chunk), steps=fastest(best, 1))


def recall_or_choose(
    folder: Path, environment: Environment, measure: Callable[[], SpeedChoice]
) -> SpeedChoice:
    """What was chosen before in this environment, or else a new choice, which is then kept.

    It is kept because the time model depends on it: a choice that came out differently at the next
    start would cost a new profile.
    """
    path = kept_path(folder, "choice", environment)
    if path.exists():
        try:
            content = read_kept(path, environment)
            choice = SpeedChoice(
                int(content["threads"]), str(content["prefill"]), str(content["steps"])
            )
            choice.weights.maker()
            if choice.threads < 1:
                raise ValueError(f"{choice.threads} threads")
        except DAMAGED as error:
            _LOG.warning("choice %s is not used, measuring again: %s", path, error)
        else:
            return choice
    choice = measure()
    _LOG.info("fastest here: %d threads, weights %s", choice.threads, choice.weights)
    try:
        write_kept(path, environment, asdict(choice))
    except OSError as error:
        _LOG.warning("the choice cannot be kept in %s: %s", path, error)
    return choice


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _sample(weights: Iterable[Tensor], size: int) -> list[Tensor]:
    """The first weights, as many as have ``size`` numbers together."""
    taken: list[Tensor] = []
    for weight in weights:
        taken.append(weight)
        size -= weight.numel()
        if size <= 0:
            break
    return taken


def make_engine(
    checkpoint: Checkpoint, settings: EngineSettings, choices: Path | None = None
) -> TransformerEngine:
    """The engine of a loaded model.

    Args:
        checkpoint: the model.
        settings: with ``max_context`` 0 for all of the model's positions; with ``threads`` 0 and
            ``weights`` None for the fastest, see ``fastest``.
        choices: folder where what was chosen is kept; None to choose anew.

    Raises:
        SettingError, UnsupportedModel: see ``TransformerEngine``.
    """
    if settings.weights is not None:
        for kind in sorted({settings.weights.prefill, settings.weights.steps}):
            warn_if_emulated("weights", kind, checkpoint.device)
    chosen = replace(settings, max_context=settings.max_context or checkpoint.max_positions)
    if not settings.threads or settings.weights is None:
        fast = fastest(checkpoint, settings, choices)
        weights = fast.weights if settings.weights is None else settings.weights
        chosen = replace(chosen, threads=settings.threads or fast.threads, weights=weights)
    return TransformerEngine(checkpoint, chosen)


def fastest(checkpoint: Checkpoint, settings: EngineSettings, choices: Path | None) -> SpeedChoice:
    """The threads and weights that this machine is fastest with, by measurement.

    One thread and the weights as they are for a small model, whose operations are too short to be
    shared and whose weights the caches hold, and on other devices than CPUs. Weights that are
    rounded, to bfloat16, are tried for float32 only, and only where the lean decoder runs them.
    """
    model = checkpoint.model
    if checkpoint.device.type != "cpu" or model.num_parameters() < _SMALL_MODEL:
        return SpeedChoice(settings.threads or 1, "", "")
    cores = usable_cores()
    threads = [settings.threads] if settings.threads else thread_numbers(cores)
    kinds = [""]
    rounds = checkpoint.dtype == torch.float32 and settings.lean and supports(model)
    if settings.weights is None and rounds:
        kinds = ["float32", "bfloat16"]

    def measure() -> SpeedChoice:
        return measure_speeds(model, chunk=settings.chunk, threads=threads, kinds=kinds)

    if choices is None:
        return measure()
    environment: dict[str, str | int] = {
        "format": _FORMAT,
        "checkpoint": checkpoint_digest(checkpoint.folder),
        "device": device_name(checkpoint.device),
        "dtype": str(checkpoint.dtype),
        "cores": cores,
        "threads": settings.threads,
        "kinds": " ".join(kinds),
        "chunk": settings.chunk,
        "torch": torch.__version__,
    }
    return recall_or_choose(choices, environment, measure)
