# SPDX-License-Identifier: Apache-2.0
"""Whether a length predictor was trained for what it is used for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from timebill_ros.engine.checkpoint import Checkpoint, target_fingerprint
from timebill_ros.predictor.checkpoint import other_target, read_config
from timebill_ros.predictor.embedded_predictor import MODEL_TYPE
from timebill_ros.runtime.settings import Settings

# Decoding settings on which lengths depend; a seed only draws other ones of the same kind.
_DECODING = ("temperature", "top_p", "stop")


def reads_text(folder: Path) -> bool:
    """Whether the predictor reads words, and not the tokens of the model that it is for.

    Raises:
        PredictorError: there is none.
    """
    return read_config(folder).get("model_type") != MODEL_TYPE


def mismatches(folder: Path, checkpoint: Checkpoint | None, settings: Settings) -> Iterator[str]:
    """Sentences for the log: another target, other decoding, answers beyond the last bucket.

    What the predictor's config.json does not tell is not compared.

    Args:
        folder: the predictor's checkpoint.
        checkpoint: the model that is loaded; None where it is on a server, and not compared.
        settings: how it is going to decode.
    """
    config = read_config(folder)
    if checkpoint is not None:
        fingerprint = target_fingerprint(checkpoint.folder)
        if other := other_target(folder, config, settings.model, fingerprint):
            yield other
    trained = config.get("decoding")
    for name in _DECODING:
        value = getattr(settings, name)
        now = list(value) if isinstance(value, tuple) else value
        if isinstance(trained, dict) and trained.get(name, now) != now:
            yield (
                f"predictor {folder} was trained on answers with {name} {trained[name]!r}, but "
                f"{name} is {now!r}: lengths may differ"
            )
    longest = config.get("longest_response")
    if isinstance(longest, int) and settings.max_tokens > longest:
        yield (
            f"predictor {folder} knows answers of up to longest_response {longest} tokens, but "
            f"max_tokens is {settings.max_tokens}: longer ones are not predicted"
        )
