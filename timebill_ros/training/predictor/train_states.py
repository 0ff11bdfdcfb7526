# SPDX-License-Identifier: Apache-2.0
"""A predictor of hidden states: ``python -m timebill_ros.training.predictor.train_states``.

From pairs that `timebill_ros collect --states` wrote. Every layer that was kept is tried, with
several penalties, by the likelihood of lengths left out of the fit; then it is calibrated and
measured on prompts that neither has met. Seconds on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
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
    calibrate,
    length_errors,
    planned_by_risk,
)
from timebill_ros.training.predictor.pairs import Pair, read_pairs, split_pairs, write_prompts
from timebill_ros.training.progress import track

Array = NDArray[np.float32]
PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0)
_VALIDATION = 0.2  # of the training part, to choose layer and penalty by
_STEPS = 60
_RISKS = (0.05, 0.1, 0.2, 0.5)


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
    bias = target.mean(0).log().clone().requires_grad_(True)
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
    split = split_pairs(pairs, options.seed, calibration=0.2, held_out=0.2)
    buckets = Buckets(options.bucket_size, header.longest_response)
    row, penalty = _choose(split.train, first, buckets, kept.layers)
    states, lengths = _data(split.train, first, row)
    predictor = fit(states, lengths, buckets, kept.layers[row], penalty)
    training = {"penalty": penalty, "seed": options.seed, "pairs": len(pairs)}
    hidden_predictor.save(options.output, predictor, {**asdict(header), "training": training})
    write_prompts(options.output, split)
    told = _predictions(predictor, split.calibration, first, row)
    calibration = calibrate(options.output, told, split.calibration)
    print(f"{len(pairs)} pairs, layer {predictor.layer} of {kept.layers}, penalty {penalty:g}")
    told = _predictions(predictor, split.held_out, first, row)
    actual = np.array([pair.response_tokens for pair in split.held_out])
    known = np.array([pair.response_tokens for pair in split.train])
    worse = report(told, actual, known, buckets)
    for risk in _RISKS:
        planned = planned_by_risk(told, calibration, risk, header.longest_response)
        covered = float((actual <= np.array(planned)).mean())
        print(f"risk {risk:g}: covered {covered:.3f}, mean planned length {np.mean(planned):.1f}")
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
) -> tuple[int, float]:
    """Row of the layer and the penalty under which lengths left out of the fit are likeliest."""
    cut = round(len(pairs) * _VALIDATION)
    left_out, fitted = pairs[:cut], pairs[cut:]
    best: tuple[float, int, float] | None = None
    tried = [(row, penalty) for row in range(len(layers)) for penalty in PENALTIES]
    for row, penalty in track(tried, "layers and penalties"):
        states, lengths = _data(fitted, first, row)
        predictor = fit(states, lengths, buckets, layers[row], penalty)
        told = _predictions(predictor, left_out, first, row)
        likely = [
            one.probabilities[bucket_label(pair.response_tokens, buckets.size) - 1]
            for one, pair in zip(told, left_out, strict=True)
        ]
        loss = -float(np.log(np.maximum(likely, 1e-9)).mean())
        if best is None or loss < best[0]:
            best = loss, row, penalty
    if best is None:
        raise ValueError("no layer was kept")
    return best[1], best[2]


def _data(pairs: Sequence[Pair], first: dict[str, Array], row: int) -> tuple[Array, list[int]]:
    states = np.stack([first[pair.digest][row] for pair in pairs])
    return states, [pair.response_tokens for pair in pairs]


def _predictions(
    predictor: HiddenStatePredictor, pairs: Sequence[Pair], first: dict[str, Array], row: int
) -> list[LengthDistribution]:
    return [predictor.predict(first[pair.digest][row]) for pair in pairs]


if __name__ == "__main__":
    sys.exit(main())
