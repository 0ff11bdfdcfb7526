# SPDX-License-Identifier: Apache-2.0
"""One scene and one task of every family, as text: ``python -m timebill_ros.workload.examples``.

The page docs/workload.md holds what this prints.
"""

from __future__ import annotations

import numpy as np

from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import Family, pose

SEED = 3
SCENE_WORDS = 90
NAMED_OBJECTS = 2


def examples() -> str:
    """A scene, then an instruction and its answer for every family, in Markdown."""
    rng = np.random.default_rng(SEED)
    scene = sample_scene(rng, SCENE_WORDS)
    lines = ["The scene:", "", f"    {scene.ego.text}"]
    lines += [f"    {section.text}" for section in scene.sections]
    for family in Family:
        instruction, answer = pose(rng, family, scene, NAMED_OBJECTS)
        lines += ["", f"**{family}**", "", f"    {instruction}", f"    -> {answer}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(examples(), end="")
