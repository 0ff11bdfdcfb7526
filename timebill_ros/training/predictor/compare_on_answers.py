# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 1 on a target's own answers.

``python -m timebill_ros.training.predictor.compare_on_answers``, from pairs that `timebill_ros
collect` wrote. Every row learns from the same four fifths of the prompts, and is measured on the
others. They are the same for every seed, which changes weights and order only. Of a pretrained
model the last block and the head are trained, see ``last_block``. A run that the results file has
already is not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from timebill_ros.budget.calibration import fit_calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.cli.arguments import positive_count
from timebill_ros.engine.errors import CheckpointError
from timebill_ros.predictor import hidden_predictor
from timebill_ros.predictor.errors import PairsOverlap, PredictorError
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.training.collection.states import read_header as read_states_header
from timebill_ros.training.collection.states import read_states
from timebill_ros.training.predictor.assessment import (
    Tell,
    coverage_table,
    length_errors,
    told_by_others,
)
from timebill_ros.training.predictor.baselines import (
    LengthClasses,
    buckets,
    proxy_model_classes,
    s3_classes,
)
from timebill_ros.training.predictor.error_table import (
    Made,
    Result,
    absolute_error,
    add_table_arguments,
    append_results,
    errors_of,
    read_results,
    table,
)
from timebill_ros.training.predictor.last_block import (
    Data,
    LastBlock,
    LengthRegression,
    ReadPrompts,
    cross_entropy,
    outputs_of,
    train,
)
from timebill_ros.training.predictor.pairs import (
    Pair,
    read_header,
    read_pairs,
    seen_prompts,
    split_pairs,
)
from timebill_ros.training.progress import hide_library_bars

HELD_OUT = 0.2
_SPLIT = 0  # seed of what is held out

Classes = Callable[[Sequence[int], int], LengthClasses]
"""The classes that a network chooses from, by the lengths of training and the longest response."""


@dataclass(frozen=True)
class LearnedRow:
    """One row: which model's last block learns, and the classes that it chooses from.

    Attributes:
        name: of the row.
        target: whether it is the target's own; else the encoder's.
        classes: None for a regression.
        epochs: over the prompts of training.
        rate: the learning rate at its peak.
    """

    name: str
    target: bool
    classes: Classes | None
    epochs: int = 3
    rate: float = 1e-3


def _ours(size: int) -> LearnedRow:
    return LearnedRow(f"class head, B = {size}", True, lambda _, longest: buckets(size, longest))


_FINEST = 16  # B of the narrowest buckets
METHODS = (
    *(_ours(size) for size in (64, 32, _FINEST)),
    LearnedRow("regression", True, None),
    LearnedRow("ProxyModel", False, proxy_model_classes),
    LearnedRow("S3", False, lambda _, longest: s3_classes(longest)),
)
HIDDEN = "hidden state"
CONSTANTS = ("mean length", "median length")


def run(
    method: LearnedRow,
    block: Callable[[int], LastBlock],
    data: Data,
    unseen: Data,
    seed: int,
    most: int,
) -> list[Result]:
    """Train ``method`` once, and measure it under each decision rule.

    Args:
        method: the row.
        block: makes the last block with so many outputs.
        data: to learn from.
        unseen: to measure on.
        seed: of the order.
        most: N_model.
    """
    classes = method.classes(data.lengths, most) if method.classes else None
    begun = time.process_time()
    network = _learned(method, classes, block, data, seed)
    seconds = time.process_time() - begun
    outputs = outputs_of(network, unseen.states)
    made = Made(method.name, seed, round(seconds), classes)
    return errors_of(made, outputs, data.lengths, unseen.lengths, most)


def teller(
    method: LearnedRow,
    classes: LengthClasses,
    block: Callable[[int], LastBlock],
    data: Callable[[Sequence[Pair]], Data],
    seed: int,
) -> Tell:
    """Trains ``method`` on some pairs, and predicts others.

    Args:
        method: the row.
        classes: its classes, which are buckets.
        block: makes the last block with so many outputs.
        data: the pairs as it reads them.
        seed: of the order.
    """

    def tell(known: Sequence[Pair], asked: Sequence[Pair]) -> list[LengthDistribution]:
        network = _learned(method, classes, block, data(known), seed)
        shares = outputs_of(network, data(asked).states).softmax(-1).double().numpy()
        return [LengthDistribution(row, int(classes.upper[0])) for row in shares]

    return tell


def _learned(
    method: LearnedRow,
    classes: LengthClasses | None,
    block: Callable[[int], LastBlock],
    data: Data,
    seed: int,
) -> nn.Module:
    last = block(classes.count if classes else 1)
    network = last if classes else LengthRegression(last, data.lengths)
    loss = partial(cross_entropy, classes) if classes else absolute_error
    train(network, data, loss, epochs=method.epochs, rate=method.rate, seed=seed)
    return network


def hidden_state_errors(
    folder: Path, path: Path, pairs: Sequence[Pair], known: Sequence[Pair], unseen: Sequence[Pair]
) -> list[Result]:
    """Of a predictor of hidden states that `train_states` made from the same pairs.

    Raises:
        PairsOverlap: it has met some of the unseen ones.
    """
    header = read_header(path)
    seen = seen_prompts(folder) or frozenset()
    met = [pair for pair in unseen if pair.digest in seen]
    if met:
        raise PairsOverlap(path, 1 + list(pairs).index(met[0]), folder, len(met))
    predictor = hidden_predictor.load(folder)
    row = read_states_header(path).layers.index(predictor.layer)
    states = zip(pairs, read_states(path, pairs), strict=True)
    told = {
        pair.digest: predictor.predict(np.asarray(of[0][row], np.float32)) for pair, of in states
    }
    shares = np.stack([told[pair.digest].probabilities for pair in unseen])
    classes = buckets(predictor.buckets.size, predictor.buckets.longest_response)
    made = Made(HIDDEN, 0, 0, classes)
    lengths, actual = ([pair.response_tokens for pair in part] for part in (known, unseen))
    outputs = torch.from_numpy(np.log(shares))
    return errors_of(made, outputs, lengths, actual, header.longest_response)


def constants(lengths: Sequence[int], unseen: Sequence[int]) -> list[Result]:
    """What always predicting the mean, or the median, of the known lengths comes to."""
    values = (np.mean(lengths), np.median(lengths))
    return [
        Result(name, 0, "constant", 0, *length_errors(np.full(len(unseen), value), unseen), 0)
        for name, value in zip(CONSTANTS, values, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the results file lacks, then print the table of all that it holds."""
    options = _parser().parse_args(arguments)
    hide_library_bars()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        _run(options)
    except (PredictorError, CheckpointError, OSError) as bad:
        print(f"compare_on_answers: {harmless_line(str(bad))}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    header, pairs = read_pairs([options.pairs])
    split = split_pairs(pairs, _SPLIT, calibration=HELD_OUT, held_out=HELD_OUT)
    known, unseen = (*split.train, *split.calibration), split.held_out
    if options.measure_on == "validation":
        known, unseen = split.train, split.calibration
    prompts = ReadPrompts(
        pairs, options.model, options.blocks, options.encoder, options.input, options.kept
    )
    results = read_results(options.results)
    done = {(result.method, result.seed) for result in results}
    if not results:
        lengths = [[pair.response_tokens for pair in part] for part in (known, unseen)]
        append_results(options.results, constants(*lengths))
    if options.hidden_state is not None and (HIDDEN, 0) not in done:
        given = (options.hidden_state, options.pairs, pairs, known, unseen)
        append_results(options.results, hidden_state_errors(*given))
    for seed in options.seeds:
        for method in METHODS:
            if (method.name, seed) in done or method.name not in options.methods:
                continue
            method = _adapted(method, options)
            block = partial(prompts.block, method.target, seed)
            data, measured = (prompts.data(p, target=method.target) for p in (known, unseen))
            most = header.longest_response
            append_results(options.results, run(method, block, data, measured, seed, most))
    order = [*CONSTANTS, HIDDEN, *(method.name for method in METHODS)]
    print(f"{len(known)} prompts to learn from, {len(unseen)} unseen:")
    print(table(read_results(options.results), order))
    if options.coverage:
        _print_coverage(options, prompts, known, unseen, header.longest_response)


def _print_coverage(
    options: argparse.Namespace,
    prompts: ReadPrompts,
    known: Sequence[Pair],
    unseen: Sequence[Pair],
    most: int,
) -> None:
    """Calibrate the finest class head on what it learns from, and count the answers within N_W."""
    method, classes = _adapted(_ours(_FINEST), options), buckets(_FINEST, most)
    data = partial(prompts.data, target=True)
    lengths = [pair.response_tokens for pair in known]
    for seed in options.seeds:
        tell = teller(method, classes, partial(prompts.block, True, seed), data, seed)
        calibration = fit_calibration(told_by_others(known, tell), lengths)
        print(f"\n{method.name}, seed {seed}:")
        print(coverage_table(tell(known, unseen), unseen, calibration, most))


def _adapted(method: LearnedRow, options: argparse.Namespace) -> LearnedRow:
    """With the epochs and the rate that were asked for, if any."""
    changed = {"epochs": options.epochs, "rate": options.rate}
    return replace(method, **{key: to for key, to in changed.items() if to is not None})


def _parser() -> argparse.ArgumentParser:
    names = [method.name for method in METHODS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="of collect")
    parser.add_argument("--model", type=Path, required=True, help="the target's folder")
    parser.add_argument(
        "--blocks", type=int, required=True, help="of the target's blocks, how many the head is on"
    )
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a pretrained BERT")
    parser.add_argument(
        "--input", type=positive_count, default=512, help="most tokens of a prompt that are read"
    )
    parser.add_argument(
        "--hidden-state", type=Path, help="predictor of train_states to measure beside, of seed 0"
    )
    parser.add_argument("--kept", type=Path, required=True, help="folder for what is computed once")
    add_table_arguments(parser, names, "validation")
    parser.add_argument(
        "--coverage", action="store_true", help="count the answers within N_W of a class head, too"
    )
    parser.add_argument("--epochs", type=int, help="instead of each method's")
    parser.add_argument("--rate", type=float, help="peak learning rate, instead of each method's")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
