"""The families by name: each entry leads somewhere, and nothing is imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import placecell.families
from placecell.catalog import FAMILIES, family, load_map
from placecell.errors import FormatError, MapError
from placecell.localizer import Localizer, MapInfo, save_map


def at(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


every_name = pytest.mark.parametrize("name", FAMILIES)


@every_name
def test_an_entry_names_a_family_and_its_map(name: str) -> None:
    kind, localizer = (at(address) for address in FAMILIES[name])
    assert family(name) is kind
    assert family(name).name == name
    assert issubclass(localizer, Localizer)


def test_every_family_there_is_has_an_entry() -> None:
    folder = Path(placecell.families.__file__).parent
    rooms = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    known = {address.partition(":")[0].split(".")[2] for addresses in FAMILIES.values() for address in addresses}
    assert known == rooms - {"__init__"}


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MapError, match=f"'oracle'.*{'.*'.join(FAMILIES)}"):
        family("oracle")


def test_the_catalog_brings_no_family_and_no_solver() -> None:
    code = """
import sys, placecell.catalog
found = [name for name in sys.modules if name.startswith("placecell.families")]
print(*found, *sorted({"cv2", "pycolmap", "poselib", "torch", "PIL"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "")


class TestLoadMap:
    @staticmethod
    def info(name: str) -> MapInfo:
        return MapInfo(name, {}, "room", "0" * 16, "by hand", True, 0)

    def test_a_folder_that_is_no_map_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MapError, match=r"not a map \(no map\.json\)"):
            load_map(tmp_path)

    def test_a_map_of_an_unknown_family_is_refused_by_its_name(self, tmp_path: Path) -> None:
        save_map(tmp_path / "map", self.info("posenet-2031"), {})
        with pytest.raises(MapError, match=r"'posenet-2031'.*structure"):
            load_map(tmp_path / "map")

    @every_name
    def test_a_map_whose_settings_are_unknown_is_refused(self, name: str, tmp_path: Path) -> None:
        info = MapInfo(name, {"colour": 3}, "room", "0" * 16, "by hand", True, 0)
        save_map(tmp_path / "map", info, {})
        with pytest.raises(FormatError, match="colour"):
            load_map(tmp_path / "map")

    @every_name
    def test_a_map_without_its_weights_is_refused(self, name: str, tmp_path: Path) -> None:
        save_map(tmp_path / "map", self.info(name), {})
        (tmp_path / "map" / "weights.safetensors").unlink()
        with pytest.raises(FormatError, match=r"weights\.safetensors"):
            load_map(tmp_path / "map")

    @every_name
    def test_a_map_that_lacks_a_tensor_is_refused(self, name: str, tmp_path: Path) -> None:
        save_map(tmp_path / "map", self.info(name), {})
        with pytest.raises(FormatError, match="map again"):
            load_map(tmp_path / "map")

    def test_a_calibrated_export_is_loaded_with_its_calibration(self, tmp_path: Path) -> None:
        told = {"export": {"reads": "pose", "precision": "fp32", "sha256": "0" * 64}}
        save_map(tmp_path / "map", replace(self.info("regression"), extra=told), {})
        (tmp_path / "map" / "calibration.json").write_text("{}")
        with pytest.raises(FormatError, match=r"calibration\.json"):
            load_map(tmp_path / "map")
        with pytest.raises(FormatError, match=r"model\.onnx"):
            load_map(tmp_path / "map", calibrated=False)
