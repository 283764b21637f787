"""calibration.json survives the disk, and is refused where it is damaged or of another map."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.made import answers, lost
from placecell.calibration.features import Neighbourhood, neighbourhood
from placecell.calibration.file import NAME, VECTORS, files_of, read_calibration
from placecell.calibration.fit import Calibration, fit_calibration
from placecell.errors import FormatError
from placecell.localizer import MapInfo, save_map

CALIBRATION = fit_calibration(
    [item._replace(sequence=f"s{index // 30}") for index, item in enumerate(answers(120))], lost(40)
)


@pytest.fixture
def known() -> Neighbourhood:
    found = neighbourhood(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30))
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path, known: Neighbourhood) -> Path:
    info = MapInfo("structure", {}, "room", "0" * 16, "synthetic", True, 0)
    save_map(tmp_path / "map", info, {"a": np.zeros(3)})
    for name, content in files_of(CALIBRATION, known, tmp_path / "map").items():
        (tmp_path / "map" / name).write_bytes(content)
    return tmp_path / "map"


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    row = json.loads((folder / NAME).read_text())
    change(row)
    (folder / NAME).write_text(json.dumps(row))


def test_what_was_written_is_read(folder: Path, known: Neighbourhood) -> None:
    found, near = read_calibration(folder)
    assert found == CALIBRATION
    assert near is not None and near.usual == known.usual
    np.testing.assert_array_equal(near.vectors, known.vectors)


def test_without_vectors_there_is_one_file(folder: Path) -> None:
    files = files_of(CALIBRATION, None, folder)
    assert list(files) == [NAME]
    (folder / NAME).write_bytes(files[NAME])
    assert read_calibration(folder) == (CALIBRATION, None)


def test_of_a_map_without_any_evidence(folder: Path) -> None:
    bare = [item._replace(estimate=type(item.estimate)("a", item.estimate.world_from_cam)) for item in answers(60)]
    found: Calibration = fit_calibration(bare)
    assert found.scale.kinds == ()
    (folder / NAME).write_bytes(files_of(found, None, folder)[NAME])
    assert read_calibration(folder)[0] == found


def test_another_maps_is_refused(folder: Path) -> None:
    (folder / "map.json").write_text((folder / "map.json").read_text() + " ")
    with pytest.raises(FormatError, match=r"made for another map than lies here, \w{16}; calibrate the map again"):
        read_calibration(folder)


CHANGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda row: row.update(format=1),
    lambda row: row.pop("scaling"),
    lambda row: row["scaling"]["factors"].pop(),
    lambda row: row["scaling"].update(factors=[float("nan")] * 6),
    lambda row: row.pop("widening"),
    lambda row: row["widening"]["power"].pop(),
    lambda row: row["widening"]["weights"][1].append(0.5),
    lambda row: row["widening"]["scale"]["kinds"].append("weather"),
    lambda row: row.update(left_out={"sequences": 3}),
    lambda row: row["left_out"]["angle"].update(most=float("nan")),
    lambda row: row["scale"]["middle"].pop(),
    lambda row: row["scale"]["kinds"].__setitem__(0, "weather"),
    lambda row: row["confidence"]["weights"].pop(),
    lambda row: row["confidence"].update(most=float("inf")),
    lambda row: row["familiarity"].update(strangeness=[]),
    lambda row: row.update(threshold=None),
    lambda row: row.update(accept_at="high"),
    lambda row: row.update(frames=None),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_one_is_named_in_one_line(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    rewritten(folder, change)
    with pytest.raises(FormatError, match=r"calibration\.json: .*calibrate the map again") as caught:
        read_calibration(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"no tensors")])
def test_vectors_that_are_gone_are_named(spoil: Callable[[Path], Any], folder: Path) -> None:
    spoil(folder / VECTORS)
    with pytest.raises(FormatError, match=r"calibration\.safetensors: missing or damaged"):
        read_calibration(folder)
