# SPDX-License-Identifier: Apache-2.0
"""Answer tasks, keep lengths: ``python -m timebill_ros.training.embedded.collect_lengths DIR``.

Writes what is not there yet of a file of pairs per set, for ``train_predictor`` and the
measurements. Two runs for different sets may share the directory.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from timebill_ros.training.embedded.generation import CHECKPOINT, open_engine
from timebill_ros.training.embedded.lengths import generated, sample_tasks, write_pairs

LONGEST_PROMPT = 4096


@dataclass(frozen=True)
class PairSet:
    """So many prompts, drawn from one seed that no other set has; see ``sample_tasks``."""

    seed: int
    count: int
    unseen: bool = False

    @staticmethod
    def path(folder: Path, name: str) -> Path:
        """Where ``folder`` keeps the pairs of the set called ``name``."""
        return folder / f"{name}.npz"


SETS = {
    "train": PairSet(seed=2, count=1200),
    "calibration": PairSet(seed=1_000_001, count=5000),
    "held_out": PairSet(seed=1_000_003, count=1000),
    "unseen": PairSet(seed=1_000_005, count=500, unseen=True),
}


def collect(
    folder: Path, name: str, checkpoint: Path, *, threads: int, count: int | None = None
) -> None:
    """Answer the prompts of one set, unless ``folder`` has it; ``count`` overrides its size."""
    path = PairSet.path(folder, name)
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    engine = open_engine(checkpoint, threads=threads)
    wanted = SETS[name]
    count = count or wanted.count
    tasks = sample_tasks(wanted.seed, count, LONGEST_PROMPT, unseen=wanted.unseen)
    write_pairs(path, list(tqdm(generated(engine, tasks), desc=name, total=count)))


def main() -> None:
    """Collect the sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pairs are kept")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the target model")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--count", type=int, help="prompts per set, instead of each set's own")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for name in arguments.sets:
        collect(
            arguments.folder,
            name,
            arguments.checkpoint,
            count=arguments.count,
            threads=arguments.threads,
        )


if __name__ == "__main__":
    main()
