"""The settings of a forest."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from placecell.families.coordinates.forest.config import Forest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": "hog"}, "features 'hog' is not one of da-rgb"),
        ({"predictor": "oracle"}, "predictor 'oracle' is not one of trees, network"),
        ({"probes": 0}, "probes counts from 1"),
        ({"steps": 0}, "steps counts from 1"),
        ({"trees": 0}, "trees counts from 1"),
        ({"least": 2}, "least counts from 3"),
        ({"short_side": 16}, "short_side counts from 32"),
        ({"bandwidth_m": 0.0}, "bandwidth_m has to be a positive number"),
        ({"reach_m": float("nan")}, "reach_m has to be a positive number"),
        ({"max_error_m": -0.1}, "max_error_m has to be a positive number"),
        ({"candidates": 5000}, "candidates times levels is at most 65536"),
        ({"queried": 100}, r"least \(300\) cannot be more than the 100 pixels queried"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Forest(**changes)


def test_settings_need_nothing_heavy() -> None:
    code = (
        "import sys, placecell.families.coordinates.forest.config\n"
        "sys.exit(bool({'cv2', 'torch', 'poselib', 'pycolmap'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
