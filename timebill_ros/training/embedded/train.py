# SPDX-License-Identifier: Apache-2.0
"""Train the embedded model from a seed: ``python -m timebill_ros.training.embedded.train``."""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from timebill_ros.training.embedded.architecture import MAX_CONTEXT, SHAPES, build_model, forward
from timebill_ros.training.embedded.batches import Batch, BatchSampler, build_tokenizer
from timebill_ros.training.embedded.initialisation import initialise
from timebill_ros.workload.vocabulary import domain_words

TOKENS_PER_STEP = 8192
PEAK_RATE = 1.5e-3
WARM_UP_STEPS = 50
SAVE_EVERY = 100


@dataclass(frozen=True)
class CurriculumStage:
    """One stage of the curriculum.

    ``reach`` is the largest position; ``attention_weight`` weighs the loss that makes the tokens of
    an instruction attend to the records that its answer needs. Without that loss they have no
    reason to, and eviction by the attention of the observation window drops those records.
    """

    steps: int
    length: int
    scene_share: float
    reach: int
    attention_weight: float


CURRICULUM = (
    CurriculumStage(steps=130, length=256, scene_share=0.5, reach=1024, attention_weight=0.1),
    CurriculumStage(steps=220, length=512, scene_share=0.6, reach=4096, attention_weight=0.35),
    CurriculumStage(steps=330, length=1024, scene_share=0.7, reach=9000, attention_weight=0.35),
    CurriculumStage(steps=170, length=2048, scene_share=0.75, reach=9000, attention_weight=0.35),
    CurriculumStage(steps=20, length=4096, scene_share=0.8, reach=9000, attention_weight=0.35),
)


@dataclass(frozen=True)
class Progress:
    """One row of the training log, averaged over the steps since the last row."""

    step: int
    length: int
    tokens: int
    seconds: float
    rate: float
    loss: float
    divergence: float
    accuracy: float


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    curriculum: tuple[CurriculumStage, ...] = CURRICULUM,
    report: Callable[[Progress], None],
    report_every: int = 25,
) -> None:
    """Train ``model`` in place through the curriculum; seed and thread count fix the result.

    The rate warms up, holds, and falls linearly over the last 40 %.
    """
    sampler = BatchSampler(tokenizer, seed)
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    plain = [p for n, p in model.named_parameters() if p.ndim == 1 or "embed" in n]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    total = sum(stage.steps for stage in curriculum)
    stages = [stage for stage in curriculum for _ in range(stage.steps)]
    started, tokens, recent = time.perf_counter(), 0, []
    for step, stage in enumerate(stages, start=1):
        rate = PEAK_RATE * min(1.0, step / WARM_UP_STEPS, max(0.02, (1 - step / total) / 0.4))
        for group in optimiser.param_groups:
            group["lr"] = rate
        sequences = TOKENS_PER_STEP // stage.length
        batch = sampler.sample(sequences, stage.length, stage.scene_share, stage.reach)
        loss, divergence, accuracy = _losses(model, batch)
        (loss + stage.attention_weight * divergence).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        tokens += batch.tokens.numel()
        recent.append((loss.item(), divergence.item(), accuracy.item()))
        if step % report_every == 0 or step == total:
            means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
            seconds = time.perf_counter() - started
            report(Progress(step, stage.length, tokens, seconds, rate, *means))
            recent.clear()


def _losses(model: Qwen2ForCausalLM, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Cross-entropy of the answers, attention divergence, share of answer tokens right."""
    predicted = batch.answer[:, 1:]
    wanted = batch.tokens[:, 1:][predicted]
    with torch.autocast("cpu", torch.bfloat16):
        hidden, divergence = forward(
            model, batch.tokens, batch.positions, batch.targets, batch.visible()
        )
        logits = model.lm_head(hidden[:, :-1][predicted])
    accuracy = (logits.argmax(-1) == wanted).float().mean()
    return F.cross_entropy(logits.float(), wanted), divergence, accuracy


def main() -> None:
    """Train and save a checkpoint directory with its training log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="checkpoint directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, default="embedded", help="which model to train")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the curriculum's steps, in (0, 1]"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = build_tokenizer(domain_words(), MAX_CONTEXT)
    model = build_model(tokenizer, SHAPES[arguments.shape])
    initialise(model, tokenizer, arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    columns = list(Progress.__dataclass_fields__)
    with (arguments.output / "training_log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(columns)

        def report(progress: Progress) -> None:
            row = [f"{getattr(progress, name):.6g}" for name in columns]
            log.writerow(row)
            file.flush()
            print("  ".join(f"{n} {v}" for n, v in zip(columns, row, strict=True)), flush=True)
            if progress.step % SAVE_EVERY == 0:
                save(model, tokenizer, arguments.output)

        curriculum = tuple(
            replace(stage, steps=math.ceil(arguments.share * stage.steps)) for stage in CURRICULUM
        )
        train(model, tokenizer, seed=arguments.seed, curriculum=curriculum, report=report)
    save(model, tokenizer, arguments.output)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write config, weights (safetensors) and tokenizer with its chat template to ``output``."""
    model.save_pretrained(output)
    tokenizer.save_pretrained(output, save_jinja_files=False)


if __name__ == "__main__":
    main()
