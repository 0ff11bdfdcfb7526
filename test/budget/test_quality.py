# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.errors import QualityFileError
from timebill_ros.budget.quality import (
    PRIOR,
    CutPoint,
    CutWorth,
    LeverQuality,
    QualityCurve,
    QualityFile,
    QualityPoint,
    read_quality,
    write_quality,
)

POINT = {"dropped": 0.0, "score": 90.0, "standard_error": 1.0, "ran_to_cap": 0.1}
CURVE = QualityCurve((QualityPoint(**POINT), QualityPoint(0.5, 80.0, 2.0, 0.3)))
HALVED = QualityCurve((QualityPoint(0.0, 80.0, 1.0, 0.0), QualityPoint(1.0, 40.0, 1.0, 0.5)))


def test_quality_is_linear_between_the_points_and_level_beyond() -> None:
    np.testing.assert_allclose(CURVE.score([0.0, 0.25, 0.9]), [90.0, 85.0, 80.0])
    np.testing.assert_allclose(CURVE.ran_to_cap([0.25]), [0.2])


@pytest.mark.parametrize(
    ("measured", "used"),
    [
        # (score, standard error) of each point, and the scores that plans use
        ([(99.2, 0.8), (99.6, 0.2), (98.6, 0.5)], [99.2, 99.2, 98.6]),
        ([(50.0, 1.0), (55.0, 1.0)], [50.0, 55.0]),
        ([(90.0, 0.5), (91.0, 0.5), (92.0, 0.5)], [90.0, 90.0, 92.0]),
        ([(60.0, 2.0), (50.0, 1.0), (51.0, 1.0), (20.0, 1.0)], [60.0, 50.0, 50.0, 20.0]),
    ],
)
def test_a_rise_that_may_be_chance_does_not_count(
    measured: list[tuple[float, float]], used: list[float]
) -> None:
    points = [QualityPoint(k / 4, score, error, 0.0) for k, (score, error) in enumerate(measured)]
    curve = QualityCurve(tuple(points))
    assert curve.scores == tuple(used)
    np.testing.assert_allclose(curve.score([point.dropped for point in points]), used)


def test_evicting_from_what_was_selected_costs_as_much_as_evicting_down_to_it() -> None:
    both = LeverQuality(CURVE, HALVED, measured=True)
    np.testing.assert_allclose(both.score(1.0, [0.0, 0.25, 0.5]), CURVE.score([0.0, 0.25, 0.5]))
    assert both.score(0.5, 0.0) == pytest.approx(90.0 * 60.0 / 80.0)
    # A quarter of the whole is left, on the way from 80 at a half to 0 at nothing.
    assert both.score(0.5, 0.5) == pytest.approx(40.0)
    # Half of it is left, for which 80 was measured; selecting three quarters alone costs more.
    assert both.score(0.75, 1.0 / 3.0) == pytest.approx(90.0 * 70.0 / 80.0)


def test_after_both_levers_as_many_answers_run_on_as_after_the_worse_one() -> None:
    both = LeverQuality(CURVE, HALVED, measured=True)
    # Runs on because of a lever: only what is more than without.
    assert both.runs_on(1.0, 0.0) == 0.0
    assert both.runs_on(1.0, 0.5) == pytest.approx(0.2)
    assert both.runs_on(0.5, 0.0) == pytest.approx(0.25)
    assert both.runs_on(0.75, 1.0 / 3.0) == pytest.approx(0.2)
    assert both.runs_on(0.5, 0.5) == pytest.approx(0.25)


def test_without_a_selection_curve_the_share_says_nothing() -> None:
    assert LeverQuality(CURVE).score(0.1, 0.0) == 90.0


def test_curves_come_back_from_their_file(tmp_path: Path) -> None:
    quality = QualityFile({"snapkv": CURVE}, {"lexical": HALVED})
    write_quality(tmp_path / "quality.json", quality)
    assert read_quality(tmp_path / "quality.json") == quality


def test_a_file_says_what_its_scores_are(tmp_path: Path) -> None:
    quality = QualityFile({"snapkv": CURVE}, measure="agreement")
    write_quality(tmp_path / "quality.json", quality)
    assert read_quality(tmp_path / "quality.json") == quality
    assert quality.of("snapkv", "none").measure == "agreement"
    # One from before files said so.
    (tmp_path / "quality.json").write_text(of_eviction(POINT))
    assert read_quality(tmp_path / "quality.json").measure == "references"


def test_what_a_part_is_worth_comes_back_and_is_linear_between(tmp_path: Path) -> None:
    cut = CutWorth((CutPoint(0.25, 0.5, 0.1), CutPoint(0.75, 0.6, 0.1)))
    np.testing.assert_allclose(cut.at([0.0, 0.125, 0.5, 0.75, 1.0]), [0.0, 0.25, 0.55, 0.6, 1.0])
    quality = QualityFile({"snapkv": CURVE}, cut=cut)
    write_quality(tmp_path / "quality.json", quality)
    assert read_quality(tmp_path / "quality.json") == quality
    assert quality.of("snapkv", "none").cut == cut


def test_a_method_that_was_not_measured_has_the_prior_and_no_selection() -> None:
    quality = QualityFile({"snapkv": CURVE}, {"lexical": HALVED})
    assert quality.of("snapkv", "lexical") == LeverQuality(CURVE, HALVED, measured=True)
    assert quality.of("random", "recent") == LeverQuality(PRIOR, None, measured=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QualityFileError, match=r"none\.json.*No such file"):
        read_quality(tmp_path / "none.json")


def of_eviction(*points: object) -> str:
    return json.dumps({"eviction": {"snapkv": points}})


def of_cut(*fractions: float) -> str:
    points = [{"fraction": each, "worth": 0.5, "standard_error": 0.0} for each in fractions]
    return json.dumps({"cut": points})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "items"),
        ('{"snapkv": {}}', "snapkv"),
        ('{"eviction": {"snapkv": 3}}', "iterable"),
        ('{"eviction": []}', "items"),
        (of_eviction(), "needs a point"),
        (of_eviction({"dropped": 0.0}), "score"),
        (of_eviction({**POINT, "why": 1}), "why"),
        (of_eviction({**POINT, "score": 101.0}), "score must be within 0 to 100"),
        (of_eviction({**POINT, "score": "90"}), "'<=' not supported"),
        (of_eviction({**POINT, "dropped": float("nan")}), "dropped must be within 0 to 1"),
        (of_eviction(POINT, POINT), "dropped must grow"),
        ('{"cut": [{"fraction": 0.5}]}', "worth"),
        ('{"cut": 3}', "iterable"),
        (of_cut(0.5, 0.5), "fraction must grow"),
        (of_cut(1.0), "fraction must grow within 0 and 1, not 1.0"),
        (of_cut(float("nan")), "fraction must grow"),
        ('{"cut": [{"fraction": 0.5, "worth": 2, "standard_error": 0}]}', "worth and its error"),
        ('{"measure": "taste"}', "measure must be one of references, agreement"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "quality.json"
    path.write_text(content)
    with pytest.raises(QualityFileError, match=rf"quality\.json.*{reason}"):
        read_quality(path)
