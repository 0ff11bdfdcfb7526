# SPDX-License-Identifier: Apache-2.0
"""Training a sequence classifier over buckets of response lengths, with transformers' Trainer.

Under ``accelerate launch`` every process runs this file; what writes files is the main one's.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.length import bucket_label
from timebill_ros.predictor.checkpoint import Buckets
from timebill_ros.predictor.errors import BackboneUnusable, TrainedAlready
from timebill_ros.predictor.length_predictor import keep_head_and_tail
from timebill_ros.predictor.sequence_classifier import load_tokenizer, positions_of
from timebill_ros.training.predictor.pairs import (
    Pair,
    PairsHeader,
    Split,
    check_same,
    write_prompts,
)
from timebill_ros.training.progress import Lines


@dataclass(frozen=True)
class Recipe:
    """How a predictor is trained.

    Attributes:
        backbone: name of the model that it starts from.
        backbone_fingerprint: identifies that model by content.
        bucket_size: B, tokens.
        max_input: longest input, the backbone's tokens; of longer prompts head and tail stay.
        epochs: passes over the training part.
        batch: prompts per step and device.
        learning_rate: at its peak, after a short warm-up; falls linearly to 0.
        seed: of split, order and the new head's weights.
        calibration, held_out: shares of the pairs that are not trained on.
    """

    backbone: str
    backbone_fingerprint: str
    bucket_size: int = 16
    max_input: int = 2048
    epochs: float = 3.0
    batch: int = 16
    learning_rate: float = 2e-5
    seed: int = 0
    calibration: float = 0.1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Raise ``SettingError`` for what nothing can be trained with."""
        for name in ("bucket_size", "max_input", "batch"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), ">= 1")
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0.0:
                raise SettingError(name, getattr(self, name), "above 0")


_LOG = logging.getLogger(__name__)

_STATES = "states"
_KEPT_STATES = 2
_WARM_UP = 0.05  # of all steps


def train_classifier(
    split: Split,
    header: PairsHeader,
    recipe: Recipe,
    backbone: Path,
    output: Path,
    *,
    save_every: int = 500,
    use_cpu: bool = False,
) -> bool:
    """Train, and write a checkpoint directory that ``load_predictor`` reads.

    Goes on from the last state under ``output`` that an earlier run with the same recipe and pairs
    left there, one every ``save_every`` steps; ``discard_states`` says that the work is done.

    Returns:
        Whether this process is the main one, which has written ``output``.

    Raises:
        TrainedAlready: ``output`` holds a finished predictor.
        SettingsDiffer: ``output`` holds the states of another recipe or other pairs.
        BackboneUnusable: transformers cannot make a classifier of ``backbone``.
        SettingError: ``max_input`` is more than the backbone reads.
    """
    states = output / _STATES
    if (output / "config.json").exists() and not states.exists():
        raise TrainedAlready(output)
    buckets = Buckets(recipe.bucket_size, header.longest_response)
    arguments = _arguments(recipe, states, save_every, use_cpu)
    torch.manual_seed(recipe.seed)
    model, tokenizer = load_backbone(backbone, buckets)
    _check_positions(model, recipe)
    with arguments.main_process_first():
        last_state = _begin_or_go_on(states, split, header, recipe)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Examples(split.train, tokenizer, recipe.max_input, buckets.size),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[] if sys.stderr.isatty() else [_TellingSteps()],
    )
    trainer.train(resume_from_checkpoint=last_state)
    if trainer.is_world_process_zero():
        _save(trainer, tokenizer, output)
        write_prompts(output, split)
        write_provenance(output, _provenance(split, header, recipe, trainer.state.global_step))
    return trainer.is_world_process_zero()


def discard_states(output: Path) -> None:
    """Remove what only an interrupted training needs, once nothing is left to do."""
    shutil.rmtree(output / _STATES)


class Examples(Dataset[dict[str, Any]]):
    """Pairs as the Trainer takes them: shortened tokens and the bucket's label, from 0."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        tokenizer: PreTrainedTokenizerBase,
        max_input: int,
        bucket_size: int,
    ) -> None:
        self._pairs = pairs
        self._tokenizer = tokenizer
        self._max_input = max_input
        self._bucket_size = bucket_size

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self._pairs[index]
        tokens = keep_head_and_tail(self._tokenizer.encode(pair.prompt), self._max_input)
        label = bucket_label(pair.response_tokens, self._bucket_size) - 1
        return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": label}


def load_backbone(
    folder: Path, buckets: Buckets
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier over ``buckets`` with a new head, and the backbone's tokenizer with padding.

    Raises:
        BackboneUnusable: transformers cannot; or the backbone has no token to pad with.
    """
    try:
        tokenizer = load_tokenizer(folder)
        with _quiet():  # a table of what is missing, which is the head
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                num_labels=buckets.count,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:  # the libraries below raise many kinds, down to plain Exception
        reason = next(iter(str(error).strip().splitlines()), "")
        raise BackboneUnusable(folder, f"{type(error).__name__}: {reason}") from error
    _LOG.info("new weights, to be trained: %s", ", ".join(sorted(report["missing_keys"])))
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise BackboneUnusable(folder, "its tokenizer has neither a pad nor an eos token")
        tokenizer.pad_token = tokenizer.eos_token
    # Decoder-only classifiers find the last token of a padded row by it.
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def write_provenance(folder: Path, keys: dict[str, Any]) -> None:
    """Add keys of ours to the config.json of a checkpoint that transformers wrote."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **keys}, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


class _TellingSteps(TrainerCallback):
    """Tells how far training is, where no bar is drawn: its steps may take seconds each."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin to count."""
        self._lines = Lines("training, steps", state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One more is done."""
        if state.is_world_process_zero:
            self._lines.tell(state.global_step)


def _arguments(recipe: Recipe, states: Path, save_every: int, use_cpu: bool) -> TrainingArguments:
    cuda = torch.cuda.is_available() and not use_cpu
    return TrainingArguments(
        output_dir=str(states),
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        warmup_steps=_WARM_UP,
        train_sampling_strategy="group_by_length",
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=_KEPT_STATES,
        logging_steps=min(50, save_every),
        logging_first_step=True,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=cuda,
        use_cpu=use_cpu,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
    )


def _check_positions(model: PreTrainedModel, recipe: Recipe) -> None:
    positions = positions_of(model)
    if positions is not None and recipe.max_input > positions:
        bound = f"at most {positions}, what the backbone {recipe.backbone} reads"
        raise SettingError("max_input", recipe.max_input, bound)


def _begin_or_go_on(states: Path, split: Split, header: PairsHeader, recipe: Recipe) -> str | None:
    """The last state of an earlier run that trained the same; None where there is none.

    Then it is written down what is being trained.
    """
    pairs = (pair for _, part in split.parts() for pair in part)
    digest = sha256("".join(f"{pair.digest} {pair.response_tokens} " for pair in pairs).encode())
    run = {**asdict(recipe), **asdict(header), "pairs": digest.hexdigest()[:16]}
    path = states / "run.json"
    last: str | None = get_last_checkpoint(str(states)) if states.exists() else None
    if last is not None:
        check_same(path, json.loads(path.read_text(encoding="utf-8")), run)
        return last
    states.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    return None


def _save(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    trainer.save_model(str(output))
    tokenizer.save_pretrained(output)
    (output / "training_args.bin").unlink(missing_ok=True)  # a pickle, and of no use to a predictor
    with (output / "training_log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "loss"))
        log = trainer.state.log_history
        writer.writerows((entry["step"], entry["loss"]) for entry in log if "loss" in entry)


def _provenance(split: Split, header: PairsHeader, recipe: Recipe, steps: int) -> dict[str, Any]:
    training = asdict(recipe)
    return {
        "bucket_size": training.pop("bucket_size"),
        "max_input": training.pop("max_input"),
        **asdict(header),
        "training": {**training, "steps": steps},
        "split": {name: len(part) for name, part in split.parts()},
    }
