# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from timebill_ros.node.parameter_table import parameter_table

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_the_declared_parameters() -> None:
    text = README.read_text()
    shown = text.split("<!-- parameters: begin -->\n")[1].split("\n<!-- parameters: end -->")[0]
    assert shown == parameter_table(), "run: python -m timebill_ros.node.parameter_table"
