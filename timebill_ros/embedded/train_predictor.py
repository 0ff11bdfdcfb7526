# SPDX-License-Identifier: Apache-2.0
"""Train the embedded model's length predictor: ``python -m timebill_ros.embedded.train_predictor``.

It learns from the lengths that the model generates, which are kept in a directory, so that a second
run need not collect them again, and from the lengths of right answers, which cost nothing.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timebill_ros.budget.length import bucket_label
from timebill_ros.embedded.generation import CHECKPOINT, LONGEST_RESPONSE, open_engine
from timebill_ros.embedded.lengths import (
    Pair,
    expected,
    generated,
    read_pairs,
    sample_tasks,
    write_pairs,
)
from timebill_ros.embedded.predictor_quality import measure
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.fingerprint import target_fingerprint
from timebill_ros.predictor.checkpoint import Buckets
from timebill_ros.predictor.embedded_predictor import (
    CrossAttentionClassifier,
    EmbeddedPredictor,
    Shape,
    save,
)
from timebill_ros.predictor.quality import LengthQuality

BUCKET_SIZE = 16
PROMPTS_PER_STEP = 32
PEAK_RATE = 4e-3
WARM_UP_STEPS = 50
LOG_EVERY = 100
HELD_OUT_SEED = 1_000_003


@torch.no_grad()
def initialise(
    network: CrossAttentionClassifier, embeddings: Tensor, header_word: int, seed: int
) -> None:
    """Start from the target's ``embeddings`` [vocabulary, h], and with a look-up.

    The embeddings, projected to the predictor's width, tell names from numbers already; noise keeps
    names apart. The look-up: a header reads "sector NAME ``header_word`` NUMBER", the key of each
    token is the sum of the two before it, and queries share its projection, so that a sector's name
    in the instruction attends to its number of objects.
    """
    torch.manual_seed(seed)
    hidden = network.shape.hidden
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5 * hidden**-0.5)
            torch.nn.init.zeros_(module.bias)
    projection = torch.linalg.qr(torch.randn(embeddings.shape[1], hidden))[0]
    projected = embeddings @ projection
    noise = torch.randn(projected.shape)
    network.embedding.weight.copy_(0.6 * projected / projected.std() + 0.8 * noise)
    torch.nn.init.normal_(network.from_end.weight)
    torch.nn.init.zeros_(network.context.weight)
    network.context.weight[:, 0, -3:-1] = 1.0
    # About 50 nats for both words, against 25 for one of them.
    shared = torch.linalg.qr(torch.randn(hidden, hidden))[0] * 2.5
    network.cross.query.weight.copy_(shared)
    network.cross.key.weight.copy_(shared)
    header = F.layer_norm(network.embedding.weight[header_word], (hidden,))
    network.cross.query.bias.copy_(shared @ header)
    network.cross.value.weight.copy_(torch.eye(hidden))
    network.cross.output.weight.copy_(torch.eye(hidden))


def train(
    network: CrossAttentionClassifier, pairs: list[Pair], *, seed: int, steps: int
) -> Iterator[float]:
    """Train ``network`` in place with cross-entropy over buckets; yields the loss of every step.

    The rate falls linearly to 0. A step's prompts have similar lengths, so that little is padding.
    """
    rng = np.random.default_rng(seed)
    by_length = sorted(pairs, key=lambda pair: len(pair.prompt_ids))
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=0.02)
    network.train().requires_grad_(True)
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, step / WARM_UP_STEPS, 1.02 - step / steps)
        first = int(rng.integers(0, max(1, len(pairs) - PROMPTS_PER_STEP)))
        loss = _loss(network, by_length[first : first + PROMPTS_PER_STEP])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield loss.item()


def _loss(network: CrossAttentionClassifier, pairs: list[Pair]) -> Tensor:
    longest = max(len(pair.prompt_ids) for pair in pairs)
    tokens = torch.zeros(len(pairs), longest, dtype=torch.long)
    valid = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for i, pair in enumerate(pairs):
        tokens[i, longest - len(pair.prompt_ids) :] = torch.tensor(pair.prompt_ids)
        valid[i, longest - len(pair.prompt_ids) :] = True
    labels = [bucket_label(pair.response_tokens, BUCKET_SIZE) - 1 for pair in pairs]
    return F.cross_entropy(network(tokens, valid), torch.tensor(labels))


def main() -> None:
    """Collect lengths where there are none yet, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="predictor checkpoint directory to write")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the target model")
    parser.add_argument("--pairs", type=Path, required=True, help="directory of generated lengths")
    parser.add_argument("--expected", type=int, default=16000, help="prompts with right lengths")
    parser.add_argument("--generated", type=int, default=1000, help="prompts to answer")
    parser.add_argument("--held-out", type=int, default=600, help="prompts to answer and test on")
    parser.add_argument("--longest-prompt", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target = load_checkpoint(arguments.checkpoint)
    tokenizer = target.tokenizer
    tasks = sample_tasks(arguments.seed + 1, arguments.expected, arguments.longest_prompt)
    pairs = list(expected(tokenizer, tasks))
    pairs += _generated(arguments, "train", arguments.seed + 2, arguments.generated)
    held_out = _generated(arguments, "held_out", HELD_OUT_SEED, arguments.held_out)

    buckets = Buckets(BUCKET_SIZE, LONGEST_RESPONSE)
    network = CrossAttentionClassifier(Shape(len(tokenizer), buckets.count))
    embeddings = target.model.get_input_embeddings().get_parameter("weight")
    (header_word,) = tokenizer.encode("count", add_special_tokens=False)
    initialise(network, embeddings, header_word, arguments.seed)
    losses: list[float] = []
    log: list[tuple[int, float]] = []
    for loss in train(network, pairs, seed=arguments.seed, steps=arguments.steps):
        losses.append(loss)
        if len(losses) % LOG_EVERY == 0:
            log.append((len(losses), float(np.mean(losses[-LOG_EVERY:]))))
            print("step {}  loss {:.4f}".format(*log[-1]), flush=True)

    predictor = EmbeddedPredictor(network, buckets, threads=arguments.threads)
    quality = measure(predictor, held_out, LONGEST_RESPONSE)
    print(quality)
    save(arguments.output, network, buckets, _provenance(arguments, quality))
    with (arguments.output / "training_log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss"])
        writer.writerows((step, f"{loss:.5f}") for step, loss in log)


def _generated(arguments: argparse.Namespace, name: str, seed: int, count: int) -> list[Pair]:
    path: Path = arguments.pairs / f"{name}.npz"
    if not path.exists():
        arguments.pairs.mkdir(parents=True, exist_ok=True)
        engine = open_engine(arguments.checkpoint, threads=arguments.threads)
        pairs = []
        for pair in generated(engine, sample_tasks(seed, count, arguments.longest_prompt)):
            pairs.append(pair)
            if len(pairs) % 250 == 0:
                print(f"{name}: {len(pairs)} of {count} answers", flush=True)
        write_pairs(path, pairs)
    return read_pairs(path)


def _provenance(arguments: argparse.Namespace, quality: LengthQuality) -> dict[str, object]:
    return {
        "target": target_fingerprint(arguments.checkpoint),
        "decoding": {"temperature": 0.0, "max_tokens": LONGEST_RESPONSE, "alpha": 0.0},
        "training": {
            "expected": arguments.expected,
            "generated": arguments.generated,
            "steps": arguments.steps,
            "longest_prompt": arguments.longest_prompt,
            "seed": arguments.seed,
        },
        "held_out": quality.rounded(),
    }


if __name__ == "__main__":
    main()
