# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 1, measured: ``python -m timebill_ros.training.embedded.compare_predictors``.

Trains every length predictor with the same pairs, in the same order, for the same number of steps,
once per seed, and prints its errors on held-out answers of the embedded model. A run that
the results file has already is not repeated, so that seeds may run at the same time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.training.embedded.collect_lengths import PairSet
from timebill_ros.training.embedded.generation import CHECKPOINT, LONGEST_RESPONSE
from timebill_ros.training.embedded.lengths import (
    PEAK_RATE,
    TaskPair,
    outputs_of,
    read_pairs,
    train,
)
from timebill_ros.training.embedded.train_predictor import (
    BUCKET_SIZE,
    build,
    cross_entropy,
    expected_pairs,
    target_embeddings,
)
from timebill_ros.training.predictor.baselines import (
    Kept,
    LengthClasses,
    Regression,
    bert,
    buckets,
    distilbert,
    proxy_model_classes,
    s3_classes,
)
from timebill_ros.training.predictor.error_table import (
    Made,
    Result,
    absolute_error,
    add_table_arguments,
    append_results,
    decisions,
    read_results,
    results_of,
    table,
)

# A third of what the shipped predictor gets: there are many rows, and encoders are slow.
STEPS = 500
# Best of 3e-4, 1e-3 and 4e-3 for ProxyModel on the last 512 tokens, on the calibration pairs; see
# --peak-rate and --measure-on.
ENCODER_RATE = 1e-3

Build = Callable[[Tensor, int, int], nn.Module]
"""A network from the target's embeddings, its number of outputs, and a seed."""
Encoder = Callable[[int, int, int, Kept], nn.Module]
"""One from the vocabulary's size, its number of outputs, a seed, and what it reads."""
Classes = Callable[[Sequence[int]], LengthClasses]
"""The classes that a network chooses from, by the lengths of training."""


@dataclass(frozen=True)
class Method:
    """One row of the table: a network, and the classes that it chooses from; None: a regression."""

    name: str
    build: Build
    classes: Classes | None
    peak_rate: float = PEAK_RATE


def _ours(bucket_size: int) -> Method:
    def network(embeddings: Tensor, _outputs: int, seed: int) -> nn.Module:
        return build(embeddings, bucket_size, seed)

    def classes(_lengths: Sequence[int]) -> LengthClasses:
        return buckets(bucket_size, LONGEST_RESPONSE)

    return Method(f"ours, B = {bucket_size}", network, classes)


def _regression() -> Method:
    def network(embeddings: Tensor, _outputs: int, seed: int) -> nn.Module:
        return Regression(build(embeddings, BUCKET_SIZE, seed))

    return Method("ours, regression", network, None)


def _published(name: str, encoder: Encoder, classes: Classes, kept: Kept) -> Method:
    def network(embeddings: Tensor, outputs: int, seed: int) -> nn.Module:
        return encoder(embeddings.shape[0], outputs, seed, kept)

    return Method(f"{name}, {kept.value} 512 tokens", network, classes, ENCODER_RATE)


PUBLISHED: tuple[tuple[str, Encoder, Classes], ...] = (
    ("ProxyModel", bert, partial(proxy_model_classes, longest_response=LONGEST_RESPONSE)),
    ("S3", distilbert, lambda _lengths: s3_classes(LONGEST_RESPONSE)),
)
METHODS = (
    *(_ours(bucket_size) for bucket_size in (64, 32, 16, 4, 2, 1)),
    _regression(),
    *(_published(*published, kept) for kept in Kept for published in PUBLISHED),
)


def run(
    method: Method,
    embeddings: Tensor,
    pairs: Sequence[TaskPair],
    held_out: Sequence[TaskPair],
    seed: int,
) -> list[Result]:
    """Train ``method`` once, and measure it under each of its decision rules."""
    lengths = [pair.response_tokens for pair in pairs]
    classes = method.classes(lengths) if method.classes else None
    network = method.build(embeddings, classes.count if classes else 1, seed)
    loss = partial(cross_entropy, classes) if classes else absolute_error
    start = time.process_time()
    steps = train(network, pairs, loss, steps=STEPS, seed=seed, peak_rate=method.peak_rate)
    for _ in tqdm(steps, f"{method.name}, {seed}", STEPS):
        pass
    seconds = time.process_time() - start
    outputs = outputs_of(network, held_out)
    actual = [pair.response_tokens for pair in held_out]
    made = Made(method.name, seed, round(seconds), classes)
    return results_of(made, decisions(outputs, classes, lengths, LONGEST_RESPONSE), actual)


def main() -> None:
    """Run what the results file lacks, then print the table of all that it holds."""
    names = [method.name for method in METHODS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="as collect_lengths wrote them")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the target model")
    add_table_arguments(parser, names, "calibration")
    parser.add_argument("--peak-rate", type=float, help="learning rate, instead of each method's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target = load_checkpoint(arguments.checkpoint)
    embeddings = target_embeddings(target)
    pairs = expected_pairs(target)
    pairs += read_pairs(PairSet.path(arguments.pairs, "train"))
    measured = read_pairs(PairSet.path(arguments.pairs, arguments.measure_on))
    done = {(result.method, result.seed) for result in read_results(arguments.results)}
    for seed in arguments.seeds:
        for method in METHODS:
            if method.name in arguments.methods and (method.name, seed) not in done:
                if arguments.peak_rate is not None:
                    method = replace(method, peak_rate=arguments.peak_rate)
                results = run(method, embeddings, pairs, measured, seed)
                append_results(arguments.results, results)
    print(table(read_results(arguments.results), [method.name for method in METHODS]))


if __name__ == "__main__":
    main()
