"""The maps that are served, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from placecell.errors import MapError, PlacecellError, SceneError
from placecell.scene import Scene
from placecell.serve.served import read_maps


def test_names_are_those_of_folders_made_plain(room_map_folder: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("my kitchen.map", "süd", "b.map"):
        copytree(room_map_folder("retrieval"), tmp_path / name)
    found = read_maps([tmp_path / "my kitchen.map", tmp_path / "süd", tmp_path / "b.map"])
    assert list(found) == ["my-kitchen", "s-d", "b"]
    assert found["b"].told["family"] == "retrieval" and found["b"].scene is None


def test_two_of_one_name_are_refused(room_map_folder: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("1/a.map", "2/a"):
        copytree(room_map_folder("retrieval"), tmp_path / name)
    with pytest.raises(PlacecellError, match="another map is called a already"):
        read_maps([tmp_path / "1" / "a.map", tmp_path / "2" / "a"])


def test_a_map_goes_on_when_its_folder_is_replaced(
    room_map_folder: Callable[[str], Path], room_queries: list, tmp_path: Path
) -> None:
    folder = Path(copytree(room_map_folder("structure"), tmp_path / "a.map"))
    (served,) = read_maps([folder]).values()
    for path in folder.iterdir():
        path.write_bytes(b"something else")
    assert served.localizer.localize(room_queries[:1])[0].world_from_cam is not None


def test_scenes_find_their_maps(room_map_folder: Callable[[str], Path], room_scene: Scene, tmp_path: Path) -> None:
    other = replace(room_scene.split("test"), name="other").save(tmp_path / "other")
    (served,) = read_maps([room_map_folder("retrieval")], [room_scene.root]).values()
    assert served.scene is not None and served.scene.name == room_scene.name
    with pytest.raises(SceneError, match="no map that is served was built from it"):
        read_maps([room_map_folder("retrieval")], [other.root])
    with pytest.raises(MapError, match="not a map"):
        read_maps([tmp_path])
