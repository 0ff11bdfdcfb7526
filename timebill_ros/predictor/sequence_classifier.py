# SPDX-License-Identifier: Apache-2.0
"""Any Hugging Face sequence classifier whose labels are buckets, over the prompt's text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import Buckets, read_buckets, read_config, read_integer
from timebill_ros.predictor.errors import PredictorIncomplete
from timebill_ros.predictor.length_predictor import keep_head_and_tail

# Left out, transformers would ask on the terminal whether to run a checkpoint's code.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class SequenceClassifierPredictor:
    """A ``LengthPredictor`` with a tokenizer of its own; label i is bucket i + 1.

    Attributes:
        model: the classifier; it drops nothing out and keeps no gradients.

    Args:
        model: the classifier, on the device that it is to run on.
        tokenizer: its tokenizer.
        buckets: what its labels mean.
        max_input: longest input that it was trained on, tokens; None: all that its positions allow.
        threads: CPU threads of one prediction; None leaves the calling thread's number.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        buckets: Buckets,
        max_input: int | None,
        threads: int | None,
    ) -> None:
        self.bucket_size = buckets.size
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._max_input = max_input
        self._threads = threads

    @torch.inference_mode()
    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        """P(bucket); reads ``text`` only, never more than the model can or was trained on."""
        if self._threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self._threads)  # per calling thread
        # The special tokens stand at both ends, so shortening keeps them.
        bounds = (max_input, self._max_input, positions_of(self.model))
        limits = [limit for limit in bounds if limit is not None]
        limit = min(limits) if limits else None
        tokens = keep_head_and_tail(self._tokenizer.encode(text), limit) or [self._filler()]
        batch = torch.tensor([tokens], device=self.model.device)
        logits = self.model(batch, attention_mask=torch.ones_like(batch)).logits
        return LengthDistribution(logits[0].double().softmax(-1).cpu().numpy(), self.bucket_size)

    def _filler(self) -> int:
        """Stands for an empty input."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def positions_of(model: PreTrainedModel) -> int | None:
    """The longest input that a model can read, tokens; None where it has no bound.

    RoBERTa and its kin count positions from behind the padding's: those before are no token's.
    """
    longest: int | None = getattr(model.config, "max_position_embeddings", None)
    if longest is None or longest < 1:  # XLNet says -1
        return None
    unused = [
        part.padding_idx + 1
        for name, part in model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(part, torch.nn.Embedding)
        and part.padding_idx is not None
    ]
    return longest - max(unused, default=0)


def load(folder: Path, *, device: str, threads: int | None) -> SequenceClassifierPredictor:
    """Load a checkpoint directory: safetensors only, no remote code.

    Its config.json names ``bucket_size`` (B) and ``longest_response`` (N_model) beside the keys of
    transformers, and maybe ``max_input``; the classes must be ceil(N_model / B).

    Raises:
        PredictorError: see ``read_config`` and ``read_buckets``; ``PredictorIncomplete`` also when
            transformers cannot read the model or its tokenizer.
    """
    config = read_config(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # the libraries below raise many kinds, down to plain Exception
        detail = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        raise PredictorIncomplete(folder, f"transformers cannot read it ({detail})") from error
    # transformers would fill these with random numbers and go on.
    absent = sorted(report["missing_keys"])
    if absent:
        detail = f"{len(absent)} weights are missing, first {absent[0]}"
        raise PredictorIncomplete(folder, detail)
    buckets = read_buckets(folder, config, model.config.num_labels)
    max_input = read_integer(folder, config, "max_input") if "max_input" in config else None
    return SequenceClassifierPredictor(model.to(device), tokenizer, buckets, max_input, threads)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory, by its tokenizer.json where there is one.

    AutoTokenizer would replace that file, for some model types, by the rules of the type's own
    vocabulary, even where the checkpoint has another.
    """
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, **_LOCAL)
    return tokenizer
