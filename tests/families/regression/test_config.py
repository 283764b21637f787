"""The settings of a regression map: what is refused, what the presets are, and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from placecell.backbones import NAMES
from placecell.families.regression.config import PRESETS, Regression
from placecell.localizer import config_from_json, config_to_json
from placecell.scene import Scene


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"head": "oracle"}, "head 'oracle' is not one of align, grid, posenet, lstm, hourglass"),
        ({"loss": "l2"}, "loss 'l2' is not one of beta"),
        ({"rotation": "euler"}, "rotation"),
        ({"optimizer": "rprop"}, "optimizer"),
        ({"precision": "fp16"}, "fp32, bf16"),
        ({"batch": 0}, "batch counts from 1"),
        ({"short_side": 8}, "short_side counts from 32"),
        ({"frames": -1}, "frames counts from 0"),
        ({"dropout": 1.0}, "dropout lies between 0 and 1"),
        ({"validation": -0.1}, "validation"),
        ({"colour": 3}, "colour lies between 0 and 1"),
        ({"learning_rate": 0.0}, "learning_rate has to be positive"),
        ({"learning_rate": float("nan")}, "learning_rate has to be a number of ordinary size, not nan"),
        ({"learning_rate": 1e300}, "learning_rate has to be a number of ordinary size"),
        ({"weight_decay": float("nan")}, "weight_decay has to be a number of ordinary size"),
        ({"epochs": float("inf")}, "epochs has to be a number of ordinary size"),
        ({"new_views": float("nan")}, "new_views has to be a number of ordinary size"),
        ({"new_view_turn_deg": float("nan")}, "new_view_turn_deg has to be a number of ordinary size"),
        ({"s_x": float("nan")}, "s_x has to be a number of ordinary size"),
        ({"gamma": 1.5}, "gamma is at most 1"),
        ({"epochs": -1.0}, "epochs has to be positive"),
        ({"turn_deg": (8.0, 8.0)}, "turn_deg is three angles"),
        ({"turn_deg": (8.0, 8.0, 120.0)}, "turn_deg is three angles"),
        ({"crop": 224, "head": "grid"}, r"crop is 0 or from 32 to short_side \(144\)"),
        ({"inference": "dense"}, "dense inference looks through windows; give their size with crop"),
        ({"weight_decay": -1.0}, "weight_decay counts from 0"),
        ({"crop": 96}, "the align head reads whole colour pictures"),
        ({"crop": 64}, "the align head reads whole colour pictures"),
        ({"map_dropout": 0.5}, "map_dropout is of the heads posenet and lstm"),
        ({"passes": 40}, "40 passes are all alike without dropout"),
        ({"passes": -1, "dropout": 0.1}, "passes counts from 0"),
        ({"passes": 2, "dropout": 0.1, "head": "grid", "crop": 64, "inference": "one-pass"}, "not with one-pass"),
        ({"loss": "likelihood", "covariance": "none"}, "needs a covariance"),
        ({"covariance": "cauchy"}, "is not one of"),
        ({"surface_weight": -0.1}, "surface_weight counts from 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        Regression(**changes)
    assert "\n" not in str(caught.value)


class TestPresets:
    def test_there_is_one_for_each_system_of_the_papers(self) -> None:
        assert list(PRESETS) == [
            *("default", "posenet-2015", "posenet-2017", "bayesian", "bn-inception", "lstm"),
            *("coupled", "homography", "hourglass", "rgbd"),
        ]
        assert Regression.presets is PRESETS and PRESETS["default"] == Regression()

    @pytest.mark.parametrize("name", PRESETS)
    def test_it_can_be_built_and_kept(self, name: str) -> None:
        preset = PRESETS[name]
        assert preset.backbone in NAMES
        assert config_from_json(Regression, config_to_json(preset)) == preset

    def test_no_two_are_alike(self) -> None:
        assert len(set(PRESETS.values())) == len(PRESETS)

    def test_they_say_what_the_papers_say(self) -> None:
        old, new = PRESETS["posenet-2015"], PRESETS["posenet-2017"]
        assert (old.backbone, old.head, old.hidden, old.rotation, old.beta) == (
            "googlenet",
            "posenet",
            2048,
            "quaternion",
            500,
        )
        assert (old.auxiliary, old.dropout, old.short_side, old.crop, old.turn_deg) == (True, 0.5, 256, 224, (0, 0, 0))
        assert (new.loss, new.norm, new.s_x, new.s_q) == ("learned", "l1", 0.0, -3.0)
        inception, lstm = PRESETS["bn-inception"], PRESETS["lstm"]
        assert (inception.backbone, inception.dropout, inception.batch) == ("bn_inception", 0.0, 75)
        assert (lstm.head, lstm.hidden, lstm.optimizer, lstm.learning_rate, lstm.eps) == (
            "lstm",
            2048,
            "adam",
            5e-4,
            1.0,
        )
        assert PRESETS["coupled"].loss == "virtual-points" and PRESETS["homography"].loss == "homography"
        assert PRESETS["rgbd"].depth and not any(PRESETS[name].depth for name in PRESETS if name != "rgbd")


def test_the_settings_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom placecell.catalog import family\nprint(family('regression')())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Regression(backbone=")


@pytest.mark.parametrize("package", ["torch", "lightning_fabric"])
def test_building_without_the_extra_names_it(package: str, room_scene: Scene) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from pathlib import Path
from placecell.errors import MissingExtra
from placecell.families.regression.config import Regression
from placecell.log import Silent
from placecell.scene import Scene
try:
    Regression(weights="none").build(Scene.load(Path({str(room_scene.root)!r})), log=Silent())
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is not installed; run: pip install 'placecell[train]'" in done.stdout


def test_a_setting_of_every_kind_has_its_check() -> None:
    """So that a new setting is not forgotten: each either is checked, or here."""
    free = {"backbone", "weights", "auxiliary", "depth", "s_x", "s_q"}
    silly: dict[str, Any] = {"turn_deg": (-1.0, 0.0, 0.0), "crop": 31}
    for item in fields(Regression):
        if item.name not in free:
            with pytest.raises(ValueError):
                replace(
                    Regression(head="grid"),
                    **{item.name: silly.get(item.name, "nonsense" if isinstance(item.default, str) else -1)},
                )
