# SPDX-License-Identifier: Apache-2.0
"""A predictor of hidden states: ``python -m timebill_ros.training.predictor.train_states``.

From pairs that `timebill_ros collect --states` wrote. Every layer that was kept is tried, with
several penalties, by the likelihood of lengths left out of the fit. The calibration is a cross-
conformal one, see ``told_by_others``. Then it is measured on prompts that none of this has met. A
minute or two on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from timebill_ros.budget.length import LengthDistribution, bucket_label
from timebill_ros.predictor import hidden_predictor
from timebill_ros.predictor.checkpoint import Buckets
from timebill_ros.predictor.errors import PairsError
from timebill_ros.predictor.hidden_predictor import HiddenStatePredictor
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.training.collection.states import read_header as read_states_header
from timebill_ros.training.collection.states import read_states
from timebill_ros.training.predictor.assessment import (
    FOLDS,
    Tell,
    calibrate,
    coverage_table,
    length_errors,
    told_by_others,
)
from timebill_ros.training.predictor.pairs import Pair, read_pairs, split_pairs, write_prompts
from timebill_ros.training.progress import track

Array = NDArray[np.float32]
PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0)
HELD_OUT = 0.2
_STEPS = 60
_LEAST_SHARE = 1e-6  # of a bucket that no length is near: 0 has no logarithm


def fit(
    states: Array, lengths: Sequence[int], buckets: Buckets, layer: int, penalty: float
) -> HiddenStatePredictor:
    """Fit a linear classifier to states [n, h] by its cross-entropy.

    A bucket's neighbours share its label, so that lengths that are near count as near: a few
    hundred pairs are too few to learn each bucket by itself.
    """
    mean, scale = states.mean(0), states.std(0) + 1e-3
    x = torch.from_numpy((states - mean) / scale)
    label = torch.tensor([bucket_label(n, buckets.size) - 1 for n in lengths])
    places = torch.arange(buckets.count)
    target = F.softmax(-(((places - label[:, None]).float() / 0.7) ** 2), -1)
    weight = torch.zeros(buckets.count, x.shape[1], requires_grad=True)
    bias = target.mean(0).clamp(min=_LEAST_SHARE).log().requires_grad_(True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, target) + penalty * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return HiddenStatePredictor(
        buckets, layer, mean, scale, weight.detach().numpy(), bias.detach().numpy()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, calibrate, measure; 1 where the pairs cannot be used, or the mean predicts better."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="of collect --states")
    parser.add_argument("output", type=Path, help="directory to write")
    parser.add_argument("--bucket-size", type=int, default=16, help="B, tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the split by prompts")
    parser.add_argument(
        "--without", type=Path, help="digests of prompts to leave out, one a line: bench names them"
    )
    options = parser.parse_args(arguments)
    try:
        return _train(options)
    except (PairsError, OSError) as bad:
        print(f"train_states: {harmless_line(str(bad))}", file=sys.stderr)
        return 1


def _train(options: argparse.Namespace) -> int:
    header, pairs = read_pairs([options.pairs])
    kept = read_states_header(options.pairs)
    first = {
        pair.digest: np.asarray(states[0], np.float32)
        for pair, states in zip(pairs, read_states(options.pairs, pairs), strict=True)
    }
    if options.without:
        unused = set(options.without.read_text(encoding="utf-8").split())
        pairs = [pair for pair in pairs if pair.digest not in unused]
    split = split_pairs(pairs, options.seed, calibration=HELD_OUT, held_out=HELD_OUT)
    split = replace(split, train=(*split.train, *split.calibration), calibration=())
    buckets = Buckets(options.bucket_size, header.longest_response)
    row, penalty, told = _choose(split.train, first, buckets, kept.layers)
    states, lengths = _data(split.train, first, row)
    predictor = fit(states, lengths, buckets, kept.layers[row], penalty)
    training = {"penalty": penalty, "seed": options.seed, "pairs": len(pairs), "folds": FOLDS}
    hidden_predictor.save(options.output, predictor, {**asdict(header), "training": training})
    write_prompts(options.output, split)
    calibration = calibrate(options.output, told, split.train)
    print(f"{len(pairs)} pairs, layer {predictor.layer} of {kept.layers}, penalty {penalty:g}")
    told = _predictions(predictor, split.held_out, first, row)
    actual = np.array([pair.response_tokens for pair in split.held_out])
    worse = report(told, actual, np.array(lengths), buckets)
    print("\n" + coverage_table(told, split.held_out, calibration, header.longest_response))
    return int(worse)


def report(
    told: Sequence[LengthDistribution],
    actual: NDArray[np.int64],
    known: NDArray[np.int64],
    buckets: Buckets,
) -> bool:
    """Print the errors on unseen prompts; whether the mean of the known lengths does better."""
    middles = (np.arange(buckets.count) + 0.5) * buckets.size
    rows = {
        "expected length": np.array([one.probabilities @ middles for one in told]),
        "likeliest bucket's upper edge": np.array(
            [one.predicted_tokens(buckets.longest_response) for one in told]
        ),
        "mean of the training part": np.full(actual.shape, known.mean()),
        "median of the training part": np.full(actual.shape, np.median(known)),
    }
    print(f"| on {len(actual)} unseen prompts | MAE | RMSE | R2 |\n|---|---|---|---|")
    errors = {name: length_errors(values, actual) for name, values in rows.items()}
    for name, (mae, rmse, r2) in errors.items():
        print(f"| {name} | {mae:.1f} | {rmse:.1f} | {r2:.3f} |")
    worse = errors["expected length"].mae >= errors["mean of the training part"].mae
    if worse:
        print("this predictor is worse than the mean length: do not use it", file=sys.stderr)
    return worse


def _choose(
    pairs: Sequence[Pair], first: dict[str, Array], buckets: Buckets, layers: Sequence[int]
) -> tuple[int, float, list[LengthDistribution]]:
    """Row of the layer and the penalty under which lengths left out of the fit are likeliest.

    With what fits to the other folds say of every pair.
    """
    labels = [bucket_label(pair.response_tokens, buckets.size) - 1 for pair in pairs]
    best: tuple[float, int, float, list[LengthDistribution]] | None = None
    tried = [(row, penalty) for row in range(len(layers)) for penalty in PENALTIES]
    for row, penalty in track(tried, "layers and penalties"):
        told = told_by_others(pairs, _fitted(first, buckets, row, penalty))
        likely = [one.probabilities[label] for one, label in zip(told, labels, strict=True)]
        loss = -float(np.log(np.maximum(likely, 1e-9)).mean())
        if best is None or loss < best[0]:
            best = loss, row, penalty, told
    if best is None:
        raise ValueError("no layer was kept")
    return best[1:]


def _fitted(first: dict[str, Array], buckets: Buckets, row: int, penalty: float) -> Tell:
    """Fits to some pairs' states of a layer, and predicts others."""

    def tell(known: Sequence[Pair], asked: Sequence[Pair]) -> list[LengthDistribution]:
        states, lengths = _data(known, first, row)
        predictor = fit(states, lengths, buckets, row + 1, penalty)
        return _predictions(predictor, asked, first, row)

    return tell


def _data(pairs: Sequence[Pair], first: dict[str, Array], row: int) -> tuple[Array, list[int]]:
    states = np.stack([first[pair.digest][row] for pair in pairs])
    return states, [pair.response_tokens for pair in pairs]


def _predictions(
    predictor: HiddenStatePredictor, pairs: Sequence[Pair], first: dict[str, Array], row: int
) -> list[LengthDistribution]:
    return [predictor.predict(first[pair.digest][row]) for pair in pairs]


if __name__ == "__main__":
    sys.exit(main())
