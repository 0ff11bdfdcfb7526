# SPDX-License-Identifier: Apache-2.0
"""Damaged files: each is read, or refused with an error of the part's own."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin

from timebill_ros.budget.errors import QualityFileError, SettingError
from timebill_ros.budget.quality import QUALITY_FILE, read_quality
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.errors import EngineError
from timebill_ros.msg import Instruction
from timebill_ros.predictor.checkpoint import read_calibration
from timebill_ros.predictor.errors import PredictorError
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.replay.bag import Bag
from timebill_ros.replay.bag_files import BagWriter
from timebill_ros.replay.recording import BadInput
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, removed or repeated."""
    raw = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(raw) + 1)
        how = rng.randrange(4)
        if how == 0 and at < len(raw):
            raw[at] = rng.randrange(256)
        elif how == 1:
            del raw[at : at + rng.randint(1, 64)]
        elif how == 2:
            raw[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            raw[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
    return bytes(raw)


class _InFolder:
    """Cases that damage files in a temporary folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def _copied(self, whole: Path, name: str) -> Path:
        """A fresh copy of a folder."""
        copy = Path(self._folder.name) / name
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(whole, copy))


class CheckpointCases(_InFolder):
    """Damaged copies of the embedded model's checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = Path(model_folder(Settings()))

    def __call__(self, rng: random.Random) -> None:
        """Load a copy of which one file is damaged or missing."""
        copy = self._copied(self._whole, "checkpoint")
        path = rng.choice(sorted(path for path in copy.iterdir() if path.is_file()))
        if rng.random() < 0.1:
            path.unlink()
        else:
            path.write_bytes(mutated(rng, path.read_bytes()))
        with contextlib.suppress(EngineError, SettingError):
            load_checkpoint(copy)


class QualityCases(_InFolder):
    """Damaged curves of what the levers cost."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = (Path(model_folder(Settings())) / QUALITY_FILE).read_bytes()

    def __call__(self, rng: random.Random) -> None:
        """Read them, and weigh what could be read."""
        path = Path(self._folder.name) / QUALITY_FILE
        path.write_bytes(mutated(rng, self._whole))
        with contextlib.suppress(QualityFileError):
            quality = read_quality(path).of("snapkv", "lexical")
            assert 0.0 <= float(quality.score(0.5, 0.5)) <= 100.0


class PredictorCases(_InFolder):
    """Damaged copies of the embedded model's length predictor."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = Path(model_folder(Settings())).parent / "predictor"

    def __call__(self, rng: random.Random) -> None:
        """Load a copy of which one file is damaged, and predict with what could be loaded."""
        copy = self._copied(self._whole, "predictor")
        path = rng.choice(sorted(path for path in copy.iterdir() if path.is_file()))
        path.write_bytes(mutated(rng, path.read_bytes()))
        with contextlib.suppress(PredictorError, SettingError):
            load_predictor(copy, device="cpu", threads=1)
            read_calibration(copy)


class BagCases(_InFolder):
    """Damaged bags of three instructions."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = []
        for storage in StoragePlugin:
            whole = Path(self._folder.name) / storage.name
            with BagWriter(whole, storage, "/llm") as bag:
                for at_ns in range(1, 4):
                    bag.write(at_ns, Instruction(id=f"j{at_ns}", prompt="stop"))
            self._whole.append(whole)

    def __call__(self, rng: random.Random) -> None:
        """Read a copy of which one file is damaged."""
        copy = self._copied(rng.choice(self._whole), "bag")
        path = rng.choice(sorted(copy.iterdir()))
        path.write_bytes(mutated(rng, path.read_bytes()))
        with contextlib.suppress(BadInput):
            Bag(copy)
