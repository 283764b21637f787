"""The settings of differentiable RANSAC: what is refused, and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from placecell.families.coordinates.dsac.config import Dsac


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"start": "guess"}, "depth, points, reprojection"),
        ({"scores": "hard"}, "soft, learned"),
        ({"measure": "mean"}, "max, sum"),
        ({"precision": "fp16"}, "fp32, bf16"),
        ({"rgbd": True, "start": "points"}, "rgbd learns from depth, not from points"),
        ({"width": 20}, "width is a multiple of 8, not 20"),
        ({"short_side": 16}, "short_side counts from 32"),
        ({"end_to_end": -1}, "end_to_end counts from 0"),
        ({"least": 3}, "least counts from 4"),
        ({"end_to_end_rate": 0.0}, "end_to_end_rate has to be positive"),
        ({"max_error_m": float("nan")}, "max_error_m has to be positive, not nan"),
        ({"alpha": float("inf")}, "alpha has to be positive"),
        ({"zoom": 0.9}, "zoom a factor from 1 to 4"),
        ({"validation": 1.0}, "validation and average lie between 0 and 1"),
        ({"average": 1.0}, "validation and average lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        Dsac(**changes)
    assert "\n" not in str(caught.value)


def test_every_setting_that_can_be_wrong_is_checked() -> None:
    free = {"rgbd", "grey"}
    for item in fields(Dsac):
        if item.name not in free:
            wrong: Any = "nonsense" if isinstance(item.default, str) else -1
            with pytest.raises(ValueError):
                replace(Dsac(), **{item.name: wrong})


def test_the_papers_have_their_settings() -> None:
    first, star = Dsac.presets["dsac-2017"], Dsac.presets["dsac-star"]
    assert (first.scores, first.measure, first.hypotheses, first.grey) == ("learned", "max", 256, False)
    assert (star.scores, star.measure, star.hypotheses, star.grey) == ("soft", "sum", 64, True)
    assert (star.alpha, star.max_error_px, star.max_error_m, star.turn_deg, star.zoom) == (100.0, 10.0, 0.1, 30.0, 1.5)
    assert {Dsac.presets[f"dsac-star{name}"].start for name in ("", "-points", "-reprojection")} == {
        "depth",
        "points",
        "reprojection",
    }
    assert Dsac.presets["dsac-star-rgbd"].rgbd


def test_settings_need_no_torch() -> None:
    code = "import sys, placecell.families.coordinates.dsac.config as c; c.Dsac(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
