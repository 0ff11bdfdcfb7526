# SPDX-License-Identifier: Apache-2.0
"""Train the embedded predictor: ``python -m timebill_ros.training.embedded.train_predictor``.

It learns from the lengths of right answers, which cost nothing, and from those that the model
generates; ``collect_lengths`` collects them first where they are not in the directory yet.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timebill_ros.budget.calibration import Calibration, fit_calibration
from timebill_ros.engine.checkpoint import Checkpoint, load_checkpoint, target_fingerprint
from timebill_ros.predictor.checkpoint import Buckets, write_calibration
from timebill_ros.predictor.embedded_predictor import EmbeddedPredictor, LookUpNetwork, Shape, save
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.training.embedded.collect_lengths import PairSet, collect
from timebill_ros.training.embedded.generation import CHECKPOINT, LONGEST_RESPONSE
from timebill_ros.training.embedded.lengths import (
    TaskPair,
    read_pairs,
    right_answers,
    sample_tasks,
    train,
)
from timebill_ros.training.embedded.predictor_quality import measure
from timebill_ros.training.predictor.assessment import LengthQuality
from timebill_ros.training.predictor.baselines import LengthClasses, buckets
from timebill_ros.workload.tasks import Family

BUCKET_SIZE = 4
STEPS = 1500
EXPECTED_PAIRS = 16_000
EXPECTED_SEED = 1
# What a length depends on does not change with the prompt's length, and short prompts cost less.
LONGEST_EXPECTED_PROMPT = 1024
# What is asked without a scene, too: these prompts are the shortest.
SCENELESS = (Family.COMMAND, Family.UNCLEAR)
SCENELESS_PAIRS = 500
LOG_EVERY = 50


def expected_pairs(target: Checkpoint) -> list[TaskPair]:
    """The prompts with the lengths of right answers that training uses."""
    tasks = list(sample_tasks(EXPECTED_SEED, EXPECTED_PAIRS, LONGEST_EXPECTED_PROMPT))
    bare = [replace(task, system="") for task in tasks if task.family in SCENELESS]
    return list(right_answers(target.tokenizer, tasks + bare[:SCENELESS_PAIRS]))


def target_embeddings(target: Checkpoint) -> Tensor:
    """The target's input embeddings [vocabulary, h]."""
    embeddings = target.model.get_input_embeddings()
    return embeddings.get_parameter("weight").detach().float()


def build(embeddings: Tensor, bucket_size: int, seed: int) -> LookUpNetwork:
    """A network to train: random weights, but for what the target's ``embeddings`` know.

    Projected to the network's width they tell names from numbers; noise keeps names apart.
    """
    torch.manual_seed(seed)
    classes = Buckets(bucket_size, LONGEST_RESPONSE).count
    network = LookUpNetwork(Shape(embeddings.shape[0], classes, bucket_size))
    projection = torch.linalg.qr(torch.randn(embeddings.shape[1], network.shape.hidden))[0]
    projected = embeddings @ projection
    noise = torch.randn(projected.shape)
    with torch.no_grad():
        network.embedding.weight.copy_(0.8 * projected / projected.std() + 0.4 * noise)
    return network


def cross_entropy(classes: LengthClasses, outputs: Tensor, lengths: Sequence[int]) -> Tensor:
    """Of outputs [batch, classes] for true lengths N [batch]."""
    return F.cross_entropy(outputs, torch.from_numpy(classes.labels(lengths)))


def main() -> None:
    """Collect lengths where there are none yet, train, evaluate, save, calibrate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="predictor checkpoint directory to write")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the target model")
    parser.add_argument("--pairs", type=Path, required=True, help="directory of generated lengths")
    parser.add_argument("--bucket-size", type=int, default=BUCKET_SIZE, help="B, tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sets = {}
    for name in ("train", "calibration", "held_out"):
        collect(arguments.pairs, name, arguments.checkpoint, threads=arguments.threads)
        sets[name] = read_pairs(PairSet.path(arguments.pairs, name))
    target = load_checkpoint(arguments.checkpoint)
    expected = expected_pairs(target)

    network = build(target_embeddings(target), arguments.bucket_size, arguments.seed)
    classes = buckets(arguments.bucket_size, LONGEST_RESPONSE)
    log = _train(network, expected + sets["train"], classes, arguments.seed)

    size = Buckets(arguments.bucket_size, LONGEST_RESPONSE)
    predictor = EmbeddedPredictor(network, size, threads=arguments.threads)
    quality = measure(predictor, sets["held_out"], LONGEST_RESPONSE)
    print(quality)
    training = {
        "expected": len(expected),
        "generated": len(sets["train"]),
        "steps": STEPS,
        "seed": arguments.seed,
    }
    save(arguments.output, network, size, _provenance(arguments.checkpoint, training, quality))
    write_calibration(arguments.output, calibrate(predictor, sets["calibration"]))
    with (arguments.output / "training_log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss"])
        writer.writerows((step, f"{loss:.5f}") for step, loss in log)


def calibrate(predictor: LengthPredictor, pairs: Sequence[TaskPair]) -> Calibration:
    """What the predictor's probabilities are worth, by pairs that it was not trained on."""
    predicted = [predictor.predict("", pair.prompt_ids, None) for pair in pairs]
    return fit_calibration(predicted, [pair.response_tokens for pair in pairs])


def _train(
    network: LookUpNetwork, pairs: Sequence[TaskPair], classes: LengthClasses, seed: int
) -> list[tuple[int, float]]:
    """Train, and return the mean loss of every ``LOG_EVERY`` steps."""
    losses: list[float] = []
    log = []
    for loss in train(network, pairs, partial(cross_entropy, classes), steps=STEPS, seed=seed):
        losses.append(loss)
        if len(losses) % LOG_EVERY == 0:
            log.append((len(losses), float(np.mean(losses[-LOG_EVERY:]))))
            print("step {}  loss {:.4f}".format(*log[-1]), flush=True)
    return log


def _provenance(
    checkpoint: Path, training: dict[str, int], quality: LengthQuality
) -> dict[str, object]:
    return {
        "target_id": "embedded",
        "target": target_fingerprint(checkpoint),
        "decoding": {"temperature": 0.0, "max_tokens": LONGEST_RESPONSE, "alpha": 0.0},
        "training": training,
        "held_out": quality.rounded(),
    }


if __name__ == "__main__":
    main()
