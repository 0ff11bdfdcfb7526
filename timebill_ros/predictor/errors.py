# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a length predictor's checkpoint or input."""

from __future__ import annotations

from pathlib import Path


class PredictorError(Exception):
    """Base of every error that a predictor raises on purpose."""


class PredictorNotFound(PredictorError):
    """The checkpoint directory does not exist."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"predictor {str(folder)!r} is not a checkpoint directory")


class PredictorNotSafetensors(PredictorError):
    """The checkpoint has no safetensors; pickled weights can run code, so they are refused."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"predictor {folder} has no *.safetensors weights; "
            "convert it with ``save_pretrained(..., safe_serialization=True)``"
        )


class PredictorIncomplete(PredictorError):
    """A file or a key of the checkpoint is missing or damaged."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"predictor {folder} is incomplete: {reason}")


class BucketMismatch(PredictorError):
    """The classes are not the buckets that the configuration describes."""

    def __init__(self, folder: Path, classes: int, longest_response: int, bucket_size: int) -> None:
        super().__init__(
            f"predictor {folder} has {classes} classes, but longest_response {longest_response} in "
            f"buckets of bucket_size {bucket_size} makes {-(-longest_response // bucket_size)}; "
            "correct config.json or train the predictor again"
        )


class TargetMismatch(PredictorError, ValueError):
    """The prompt's tokens are not those of the target that the predictor was trained for."""

    def __init__(self, token: int, vocabulary: int) -> None:
        super().__init__(
            f"prompt token {token} is outside the predictor's vocabulary of {vocabulary}; "
            "the predictor was trained for another target model"
        )


class BackboneUnusable(PredictorError):
    """No classifier can be made of the model that a predictor was to start from."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"backbone {folder} cannot be used: {reason}")


class TrainedAlready(PredictorError):
    """The directory to write holds a finished predictor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} holds a trained predictor already; name another directory")


class PairsError(PredictorError, ValueError):
    """Base of the errors of prompts and lengths that people bring."""


class BadLine(PairsError):
    """A line of a JSONL file that is not what it should be."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")


class EmptySet(PairsError):
    """Nothing to work with."""

    def __init__(self, source: str, what: str) -> None:
        super().__init__(f"{source}: no {what} in it")


class HeaderUnusable(PairsError):
    """The file that says what lengths depend on is missing or damaged."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"header {path} of the pairs cannot be used: {reason}")


class SettingsDiffer(PairsError):
    """What was begun with one setting cannot go on with another."""

    def __init__(self, path: Path, key: str, before: object, now: object) -> None:
        super().__init__(
            f"{path} says {key} {before!r}, but now it is {now!r}; "
            "keep the setting, or write to another place"
        )
        self.key = key


class PairsOverlap(PairsError):
    """Pairs to measure a predictor on that it has met in training."""

    def __init__(self, path: Path, line: int, predictor: Path, count: int) -> None:
        super().__init__(
            f"{path}, line {line}: the predictor {predictor} was trained or calibrated on this "
            f"prompt and {count - 1} others of these; bring other pairs, or leave these out "
            "(--leave-out-seen)"
        )


class LengthsBeyondBuckets(PairsError):
    """Pairs may be longer than what a predictor's buckets reach."""

    def __init__(self, predictor: Path, longest_bucket: int, longest_response: int) -> None:
        super().__init__(
            f"the buckets of predictor {predictor} end at its longest_response (N_model) "
            f"{longest_bucket}, but the pairs were collected with longest_response "
            f"{longest_response}; collect with max_tokens {longest_bucket}"
        )
