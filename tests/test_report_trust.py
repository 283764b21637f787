"""What the report draws of uncertainty: curves, rings and the frames that were most confidently wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from placecell.camera import Camera
from placecell.estimate import Estimate
from placecell.log import Silent
from placecell.metrics import Threshold, evaluate
from placecell.pose import Array, Pose
from placecell.report import plots, write_report
from placecell.report.judged import Judged, ground_axes, judge
from placecell.report.trust import most_fooled, ring_of, trust_section
from placecell.scene import Frame, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    frames = tuple(
        Frame(
            f"{i}.png",
            "a.png",
            "c",
            Pose.exp([0, 0.1 * i, 0, np.cos(i), 0.01 * i, np.sin(i)]),
            "s",
            "test" if i % 2 else "train",
        )
        for i in range(40)
    )
    return Scene("room", "sfm", True, frames, {"c": Camera.from_focal(60, 40, 50.0)}, tmp_path)


def run(scene: Scene, covariance: Array | None, confidence: float | None = 0.9) -> list[Judged]:
    """Answers ever worse, but said to be alike; frame 21 is far off."""
    asked = scene.split("test").frames
    truths = {frame.name: frame.world_from_cam for frame in asked if frame.world_from_cam is not None}
    estimates = [
        Estimate(
            name,
            truth @ Pose.exp([0, 0, 0.001 * i, 0.001 * i + (name == "21.png"), 0, 0]),
            None if covariance is None else covariance * (1 + 0.1 * i),
            confidence=confidence,
        )
        for i, (name, truth) in enumerate(truths.items(), start=1)
    ]
    return judge(scene, estimates, evaluate(estimates, truths, scene="room", labels="sfm"))


def stated(items: list[Judged]) -> list[tuple[Judged, object]]:
    return [(item, item.estimate.sigma) for item in items]


LIMIT = Threshold("10cm/5deg", 0.1, 5.0)
COVARIANCE = np.diag(np.square([0.01] * 3 + [0.02, 0.03, 0.04]))


class TestSection:
    def test_draws_every_chart_and_the_fooled(self, scene: Scene) -> None:
        page = trust_section(scene, run(scene, COVARIANCE), LIMIT, Silent())
        for what in ("Sparsification, position", "Sparsification, rotation", "Reliability of covariances"):
            assert what in page
        assert "Reliability of confidence" in page and "Position error against what was predicted" in page
        assert page.count('<polygon class="ellipse"') == 20 and page.count('<article class="card">') == 6
        first = page.index('<article class="card">')
        assert "21.png" in page[first : page.index("</article>", first)]
        assert "nan" not in page.lower().replace("span", "") and "http" not in page

    def test_without_confidences_their_chart_is_left_out(self, scene: Scene) -> None:
        assert "Reliability of confidence" not in trust_section(scene, run(scene, COVARIANCE, None), LIMIT, Silent())

    def test_confidence_is_judged_by_what_it_is_about(self, scene: Scene) -> None:
        items, near = run(scene, COVARIANCE), Threshold("10cm/5deg", 0.01, 5.0)
        page, strict = (trust_section(scene, items, limit, Silent()) for limit in (LIMIT, near))
        assert "Reliability of confidence, against 10 cm, 5°" in page and page != strict
        assert "Reliability of confidence" not in trust_section(scene, items, None, Silent())

    @pytest.mark.parametrize("covariance", [None, np.zeros((6, 6)), np.diag([1.0, 1, 1, 1, 1, 0])])
    def test_without_usable_covariances_there_is_none(self, covariance: Array | None, scene: Scene) -> None:
        assert trust_section(scene, run(scene, covariance), LIMIT, Silent()) == ""

    def test_is_part_of_the_page(self, scene: Scene, tmp_path: Path) -> None:
        items = run(scene, COVARIANCE)
        truths = {item.frame.name: item.truth for item in items}
        estimates = [item.estimate for item in items]
        write_report(tmp_path / "r.html", scene, estimates, evaluate(estimates, truths, scene="room", labels="sfm"))
        page = (tmp_path / "r.html").read_text()
        assert '<section id="trust">' in page and page.index('id="calibration"') < page.index('id="trust"')

    def test_names_cannot_break_it(self, scene: Scene) -> None:
        evil = replace(scene.frames[1], name='<img src=x onerror="alert(1)">')
        spoilt = replace(scene, frames=(scene.frames[0], evil, *scene.frames[2:]))
        assert "<img src=x" not in trust_section(spoilt, run(spoilt, COVARIANCE), LIMIT, Silent())


class TestFooled:
    def test_are_ordered_by_error_over_what_was_predicted(self, scene: Scene) -> None:
        items = run(scene, COVARIANCE)
        pairs = [(item, sigma) for item in items if (sigma := item.estimate.sigma) is not None]
        found = most_fooled(pairs, 20)
        ratios = [
            max(i.error.distance / s.distance, i.error.angle_deg / s.angle_deg)
            for i in found
            if (s := i.estimate.sigma) is not None
        ]
        assert found[0].frame.name == "21.png" and ratios == sorted(ratios, reverse=True) and len(ratios) == 20


class TestRing:
    def test_lies_two_deviations_from_the_centre_in_world_axes(self, scene: Scene) -> None:
        item = run(scene, COVARIANCE)[4]
        axes = ground_axes([f.world_from_cam for f in scene.posed if f.world_from_cam is not None])[:2]
        assert item.answer is not None and item.estimate.covariance is not None
        ring = ring_of(item, axes) - axes @ item.answer.translation
        rotation = item.answer.rotation
        flat = axes @ rotation @ item.estimate.covariance[3:, 3:] @ rotation.T @ axes.T
        squared = np.einsum("ni,ij,nj->n", ring, np.linalg.inv(flat), ring)
        np.testing.assert_allclose(squared, 4.0)

    def test_needs_a_covariance(self, scene: Scene) -> None:
        with pytest.raises(ValueError, match="no covariance to draw"):
            ring_of(run(scene, None)[0], np.eye(3)[:2])


class TestPlots:
    def test_shares_run_from_left_to_right_and_upwards(self) -> None:
        figure = plots.shares({"a": ([0, 0.5, 1], [0, 0.25, 1])}, "t", "x", "y")
        found = re.search(r'class="series s0" points="([^"]+)"', figure)
        assert found is not None
        (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in found.group(1).split())
        assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 > y1 > y2
        assert (y0 - y1) * 4 == pytest.approx(y0 - y2, abs=0.5)

    def test_a_cloud_puts_equal_values_on_its_diagonal(self) -> None:
        dots = [plots.Dot(v, v, "n", "#000000") for v in (0.01, 0.1, 1.0)] + [plots.Dot(0.1, 0.9, "above", "#111111")]
        figure = plots.cloud(dots, "t", "x", "y", lambda v: f"{v:g}")
        places = [tuple(map(float, p)) for p in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', figure)]
        slope = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(places[:3])]
        assert slope[0] == pytest.approx(slope[1], rel=0.01) and slope[0] < 0
        assert places[3][1] < places[1][1] and places[3][0] == places[1][0]

    def test_nothing_makes_no_cloud(self) -> None:
        assert plots.cloud([], "t", "x", "y", str) == ""
