# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint's weights, and refusing by name what would load as something else."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from timebill_ros.engine.attention import IMPLEMENTATION
from timebill_ros.engine.errors import BrokenCheckpoint, UnsupportedModel

_LOG = logging.getLogger(__name__)

# Left out, transformers would ask on the terminal whether to run a checkpoint's code.
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
# What quantised weights come with, in the layouts of FP8, GPTQ, AWQ, bitsandbytes and compressed
# tensors.
_QUANTISED = re.compile(
    r"[._](scales?|scale_inv|zeros|zero_point|qweight|qzeros|g_idx|absmax|quant_map|weight_packed)$"
)


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Name the checkpoint and the part when a library cannot read it."""
    try:
        yield
    # The libraries raise many kinds, down to plain Exception.
    except Exception as error:
        reason = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {reason[0] if reason else ''}"
        raise BrokenCheckpoint(folder, f"{what} cannot be read ({detail})") from error


def load_weights(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The model with its weights, in evaluation mode and without gradients.

    Raises:
        BrokenCheckpoint: weights are missing, of another shape than the model's, or unreadable.
        UnsupportedModel: they are quantised in a way that config.json does not name: they would
            load as plain numbers without their scales.
    """
    disable_progress_bar()  # a node's log is no terminal
    named = getattr(config, "quantization_config", None) is not None
    if not named:
        _check_types(folder)
    with reading(folder, "the weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=IMPLEMENTATION,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to be told which
            **LOCAL,
        )
    model, report = loaded
    _check_report(folder, report, named=named)
    ready: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return ready


def _check_types(folder: Path) -> None:
    """Refuse weights that are no ordinary floating-point numbers."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    element = tensors.get_slice(name).get_dtype()
                    if name.endswith(".weight") and element not in _FLOATING:
                        _refuse(folder, f"tensor {name} is of type {element}")
        except (SafetensorError, OSError) as error:
            raise BrokenCheckpoint(folder, f"the weights cannot be read ({error})") from error


def _check_report(folder: Path, report: dict[str, Any], *, named: bool) -> None:
    # transformers would fill these with random numbers and go on.
    if absent := sorted(report["missing_keys"]):
        raise BrokenCheckpoint(folder, f"{len(absent)} weights are missing, first {absent[0]}")
    if other := sorted(report["mismatched_keys"]):
        name, found, wanted = other[0]
        shapes = f"{list(found)} instead of {list(wanted)}"
        raise BrokenCheckpoint(
            folder, f"{len(other)} weights are of another shape than the model's: {name}, {shapes}"
        )
    unexpected = sorted(report["unexpected_keys"])
    scales = [name for name in unexpected if _QUANTISED.search(name)]
    if scales and not named:
        _refuse(folder, f"tensor {scales[0]} belongs to quantised weights")
    if unexpected:
        _LOG.warning("%d tensors have no place in the model: %s", len(unexpected), unexpected[0])


def _refuse(folder: Path, found: str) -> None:
    raise UnsupportedModel(
        folder,
        f"{found}, but config.json names no quantization_config; "
        "take the checkpoint in bfloat16 or float32",
    )
