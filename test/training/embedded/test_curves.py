# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import pytest

from timebill_ros.training.embedded.curves import draw, quality_curves, read_rows, table
from timebill_ros.training.embedded.evaluate import Quality
from timebill_ros.workload.tasks import DEFAULT_MIX, Family

DOCS = Path(__file__).parents[3] / "docs"


def row(family: Family, alpha: float = 0.0, score: float = 90.0, tokens: int = 2048) -> Quality:
    return Quality("snapkv", alpha, tokens, str(family), 4, 0.5, score, 20.0, 0.75, 0.25)


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [row(Family.REPORT), row(Family.LIST, alpha=0.5)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Quality.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)
    assert read_rows(tmp_path / "rows.csv") == rows


def test_families_count_as_the_workload_draws_them() -> None:
    rows = [row(family, score=50.0 if family is Family.REPORT else 100.0) for family in Family]
    rows += [row(family, alpha=0.5, score=10.0) for family in Family]
    curve = quality_curves(rows)["snapkv"]
    assert curve.score(0.0) == pytest.approx(100.0 - 50.0 * DEFAULT_MIX[Family.REPORT])
    assert curve.score(0.5) == pytest.approx(10.0)
    assert curve.points[0].ran_to_cap == pytest.approx(0.25)
    # Every family's mean has the standard error 20 / sqrt(4).
    spread = sum((share * 10.0) ** 2 for share in DEFAULT_MIX.values()) ** 0.5
    assert curve.points[0].standard_error == pytest.approx(spread, abs=1e-3)


@pytest.mark.parametrize(
    "rows",
    [
        [row(family) for family in Family if family is not Family.LIST],
        [row(family, tokens=tokens) for family in Family for tokens in (512, 1024)],
    ],
    ids=["a family is missing", "two lengths"],
)
def test_an_incomplete_mix_is_refused(rows: list[Quality]) -> None:
    with pytest.raises(ValueError, match="alpha 0 needs one row of every family"):
        quality_curves(rows)


def test_the_page_s_table_is_that_of_the_measured_rows() -> None:
    curves = quality_curves(read_rows(DOCS / "quality.csv"))
    assert table(curves) in (DOCS / "models.md").read_text(encoding="utf-8")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    rows = [row(family, alpha) for family in Family for alpha in (0.0, 0.5)]
    draw(tmp_path / "quality.png", quality_curves(rows), rows)
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
