"""What the tests of exports share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from conftest import Remembering
from export import small
from placecell.export.exporting import export_map
from placecell.scene import Scene


@pytest.fixture
def patches() -> Iterator[None]:
    """The backbone `patches` by its name."""
    with small.patched():
        yield


@pytest.fixture(scope="session")
def small_map(room_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small untrained map by its kind: a key of `small.HEADS`, or coordinates."""

    @cache
    def save(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("small") / f"{kind}.map"
        with small.patched():
            made = small.coordinates(room_scene) if kind == "coordinates" else small.regression(room_scene, kind)
            made.save(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def small_export(
    small_map: Callable[[str], Path], room_scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of its export in float32, read-only."""

    @cache
    def save(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("exports") / f"{kind}.map"
        with small.patched():
            export_map(small_map(kind), folder, scene=room_scene, precision="fp32", frames=3, log=Remembering())
        return folder

    return save
