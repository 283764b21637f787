"""The settings of a coordinate map: what is refused, and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from placecell.families.coordinates.config import Coordinates, changed
from placecell.localizer import config_from_json, config_to_json


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"precision": "fp16"}, "fp32, bf16"),
        ({"batch": 1}, "batch counts from 2"),
        ({"short_side": 8}, "short_side counts from 64"),
        ({"samples": 0}, "samples counts from 1"),
        ({"least": 3}, "least counts from 4"),
        ({"least": 50, "queried": 40}, r"least \(50\) of the queried cells \(40\) cannot agree"),
        ({"frames": -1}, "frames counts from 0"),
        ({"validation": 1.0}, "validation lie between 0 and 1"),
        ({"colour": 3}, "colour and validation lie between 0 and 1"),
        ({"learning_rate": 0.0}, "learning_rate has to be positive"),
        ({"learning_rate": float("nan")}, "learning_rate has to be positive, not nan"),
        ({"end_to_end": 5, "experts": 2}, "end_to_end tunes one head"),
        ({"kept": "fp8"}, "kept 'fp8' is not one of half, int8"),
        ({"epochs": float("inf")}, "epochs counts from 0"),
        ({"max_error_px": float("nan")}, "max_error_px has to be positive"),
        ({"weight_decay": float("nan")}, "weight_decay counts from 0"),
        ({"turn_deg": 200.0}, "turn_deg is from 0 to 180 degrees"),
        ({"zoom": 0.5}, "zoom a factor from 1 to 4"),
        ({"tolerance_px": (1.0, 50.0)}, "tolerance_px is two lengths that do not grow"),
        ({"tolerance_px": (1.0,)}, "tolerance_px is two lengths"),
        ({"experts": 0}, "experts counts from 1"),
        ({"experts": 2, "devices": 2}, "experts are trained one after the other on one device"),
        ({"tolerance_px": (50.0, 0.0)}, "tolerance_px is two lengths"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        Coordinates(**changes)
    assert "\n" not in str(caught.value)


def test_every_setting_that_can_be_wrong_is_checked() -> None:
    """So that a new setting is not forgotten: each either is checked, or here."""
    free = {"backbone", "weights", "surfaces", "context"}
    for item in fields(Coordinates):
        if item.name not in free:
            wrong: Any = {"str": "nonsense", "tuple": (-1.0, -1.0)}.get(type(item.default).__name__, -1)
            with pytest.raises(ValueError):
                replace(Coordinates(), **{item.name: wrong})


def test_they_are_kept_as_they_are() -> None:
    settings = Coordinates(tolerance_px=(30.0, 2.0), clusters=0)
    assert config_from_json(Coordinates, config_to_json(settings)) == settings


def test_what_is_changed_is_told() -> None:
    assert changed(Coordinates()) == {}
    assert changed(Coordinates(hidden=64, surfaces=False)) == {"hidden": 64, "surfaces": False}


def test_the_settings_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom placecell.catalog import family\nprint(family('coordinates')())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Coordinates(backbone=")


def test_building_without_the_extra_names_it() -> None:
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from placecell.errors import MissingExtra
from placecell.families.coordinates.config import Coordinates
from placecell.log import Silent
try:
    Coordinates(weights="none").build(None, log=Silent())
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is not installed; run: pip install 'placecell[train]'" in done.stdout
