"""The folder of an export: whole or refused, and the same after it was saved again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from export.conftest import small_export as small_export
from export.conftest import small_map as small_map
from placecell.catalog import load_map
from placecell.errors import FormatError, MapError, PlacecellError
from placecell.estimate import Query
from placecell.localizer import map_fingerprint
from placecell.runtime.coordinates import ExportedCoordinates
from placecell.runtime.exported import Exported
from placecell.runtime.regression import ExportedRegression
from test_contract import files_of, said

pytestmark = pytest.mark.slow

Folder = Callable[[str], Path]


@pytest.fixture
def folder(small_export: Folder, tmp_path: Path) -> Path:
    return Path(copytree(small_export("align"), tmp_path / "copied.map"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "map.json"
    row = json.loads(path.read_text())
    change(row)
    path.write_text(json.dumps(row))


def test_each_family_has_its_own(small_export: Folder) -> None:
    assert isinstance(load_map(small_export("align")), ExportedRegression)
    assert isinstance(load_map(small_export("coordinates")), ExportedCoordinates)


def test_it_answers_the_same_after_it_was_saved(folder: Path, tmp_path: Path, room_queries: list[Query]) -> None:
    before = load_map(folder)
    before.save(tmp_path / "again")
    after = load_map(tmp_path / "again")
    assert [said(answer) for answer in before.localize(room_queries)] == [
        said(answer) for answer in after.localize(room_queries)
    ]
    assert files_of(tmp_path / "again") == files_of(folder)
    with pytest.raises(PlacecellError, match="exists already"):
        before.save(folder)


def test_another_model_is_another_map(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(FormatError, match=r"model\.onnx.*another file than map\.json speaks of.*export the map again"):
        load_map(folder)


def test_the_fingerprint_tells_exports_from_their_maps(small_map: Folder, small_export: Folder) -> None:
    assert map_fingerprint(small_export("align")) != map_fingerprint(small_map("align"))


def test_a_missing_model_is_named(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(FormatError, match=r"model\.onnx"):
        load_map(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["extra"]["export"].update(precision="int3"),
        lambda row: row["extra"]["export"].update(reads="tea leaves"),
        lambda row: row["extra"]["export"].pop("sha256"),
        lambda row: row["extra"].pop("canonical_camera"),
        lambda row: row["extra"].pop("world_from_anchor"),
        lambda row: row["extra"].update(scale="long"),
        lambda row: row["config"].update(head="of a needle"),
    ],
)
def test_a_damaged_map_json_is_told_in_one_line(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rewrite(folder, change)
    with pytest.raises(FormatError) as caught:
        load_map(folder)
    assert "\n" not in str(caught.value)


def test_it_runs_on_the_processor_only(folder: Path) -> None:
    with pytest.raises(MapError, match="--device cpu"):
        load_map(folder, device="cuda")


def test_content_is_read_once(folder: Path) -> None:
    found = Exported.load(folder)
    (folder / "model.onnx").unlink()
    assert found.engine().run is not None
