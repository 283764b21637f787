import sys
from pathlib import Path

import pytest

from placecell.metrics import THRESHOLDS
from placecell.published import RECALLED, TEST_FRAMES, Published, as_printed, rows, rows_for


def row(scene: str, labels: str, system: str) -> Published:
    (found,) = [row for row in rows_for(scene, labels) if row.system == system]
    return found


def test_rows_are_of_the_ground_truth_asked_for() -> None:
    assert row("7scenes/redkitchen", "kinectfusion", "DSAC*").printed == "3.9/1.24"
    assert row("7scenes/redkitchen", "sfm", "DSAC*").printed == ".7/.21"
    assert row("7Scenes/RedKitchen", "sfm", "hloc").median_cm == 1.1
    assert row("7scenes/stairs", "sfm", "hloc").median_deg == 0.80
    assert row("7scenes/mean", "kinectfusion", "DSAC* + depth").recalls == {"5cm/5deg": "94.7", "2cm/2deg": "74.3"}
    assert row("12scenes/mean", "sfm", "hloc").recalls == {"5cm/5deg": "100"}


def test_cambridge_is_printed_in_metres() -> None:
    found = row("cambridge/ShopFacade", "sfm", "hloc SuperPoint+SuperGlue")
    assert (found.printed, found.printed_unit, found.median_cm, found.median_deg) == (".04/.19", "m", 4.0, 0.19)
    assert row("cambridge/GreatCourt", "sfm", "STDLoc").median_deg is None


@pytest.mark.parametrize("scene, labels", [("kitchen", "sfm"), ("office", "sfm"), ("7scenes/chess", "synthetic")])
def test_an_unknown_scene_has_no_rows(scene: str, labels: str) -> None:
    assert rows_for(scene, labels) == ()


def test_the_halved_angles_of_posenet_say_so() -> None:
    halved = row("7scenes/chess", "kinectfusion", "PoseNet 2015, angles as printed")
    whole = row("7scenes/chess", "kinectfusion", "PoseNet 2015")
    assert halved.median_deg is not None and whole.median_deg == 2 * halved.median_deg
    assert "half the true angle" in halved.remark and "doubled" in whole.remark


def test_unchecked_figures_are_shown_only_when_asked_for() -> None:
    assert all(row.source != RECALLED for row in rows_for("7scenes/chess", "kinectfusion"))
    assert any(row.source == RECALLED for row in rows_for("7scenes/chess", "kinectfusion", unchecked=True))


def test_every_row_is_whole() -> None:
    names = {threshold.name for threshold in THRESHOLDS}
    seen = set()
    for found in rows():
        assert (found.scene, found.labels, found.system) not in seen, found
        seen.add((found.scene, found.labels, found.system))
        assert found.labels in ("kinectfusion", "sfm") and set(found.recalls) <= names
        assert found.scene in TEST_FRAMES or found.scene.endswith("/mean")
        assert found.median_cm is not None or found.recalls
        assert all(0 < float(value) <= 100 for value in found.recalls.values())


def test_figures_as_printed() -> None:
    assert as_printed(0.774, ".80") == ".77"
    assert as_printed(1.0249, ".80") == "1.02"
    assert as_printed(99.35, "99.4") == "99.4"
    assert as_printed(46.4, "46") == "46"
    assert as_printed(float("inf"), ".8") == "inf"


@pytest.mark.data
def test_published_answers_give_the_published_figures(data_root: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from bench_evaluator import comparisons

    found = list(comparisons(data_root / "peer_estimates"))
    pairs = [pair for comparison in found for pair in comparison.pairs]
    assert len(found) == 36 and len(pairs) == 66
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
