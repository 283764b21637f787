"""The maps that are served, read once and never changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from placecell import catalog
from placecell.camera import Camera
from placecell.errors import PlacecellError, SceneError
from placecell.estimate import Query
from placecell.localizer import Localizer, MapInfo, camera_of_map, load_info, map_fingerprint
from placecell.scene import Frame, Scene


@dataclass(frozen=True, eq=False)
class Served:
    """A map by its name in addresses."""

    name: str
    info: MapInfo
    fingerprint: str
    localizer: Localizer
    camera: Camera
    """The commonest one of its training pictures."""
    scene: Scene | None
    """What it was built from, for the page."""

    @property
    def unit(self) -> str:
        """What lengths are in."""
        return "m" if self.info.metric else "units"

    @property
    def told(self) -> dict[str, Any]:
        """What a client may know of it."""
        export = self.info.extra.get("export", {})
        return {
            "name": self.name,
            "family": self.info.family,
            "scene": self.info.scene,
            "labels": self.info.labels,
            "unit": self.unit,
            "fingerprint": self.fingerprint,
            "precision": export.get("precision"),
            "has_view": self.scene is not None,
            "camera": {"width": self.camera.width, "height": self.camera.height, "fx": self.camera.fx},
        }

    def frame(self, name: str) -> Frame | None:
        """The training frame of a name."""
        if self.scene is None:
            return None
        return next((frame for frame in self.scene.frames if frame.name == name and frame.split == "train"), None)

    def warm(self) -> None:
        """Answer a picture of noise, so that the first client does not wait for what is made at first use."""
        drawn = np.random.default_rng(0).integers(0, 256, (self.camera.height, self.camera.width, 3))
        self.localizer.localize([Query("noise", drawn.astype(np.uint8), self.camera)])


def read_maps(folders: Sequence[Path], scenes: Sequence[Path] = ()) -> dict[str, Served]:
    """The maps in some folders by name, each with the scene that it was built from where that is among `scenes`.

    Raises:
        PlacecellError: two maps have one name.
        SceneError: no map was built from one of the scenes.
        MapError: not a map.
        FormatError: a map or a scene is damaged.
        MissingExtra: a map needs a package that is not installed.
    """
    places = [Scene.load(path) for path in scenes]
    found: dict[str, Served] = {}
    for folder in folders:
        name = _name(folder)
        if name in found:
            raise PlacecellError(f"{folder}: another map is called {name} already; rename one of the folders")
        info = load_info(folder)
        place = next((place for place in places if place.fingerprint == info.scene_fingerprint), None)
        localizer = catalog.load_map(folder)
        found[name] = Served(name, info, map_fingerprint(folder), localizer, camera_of_map(info), place)
    for path, place in zip(scenes, places, strict=True):
        if not any(served.scene is place for served in found.values()):
            raise SceneError(f"{path}: no map that is served was built from it; leave it out or name its map")
    return found


def _name(folder: Path) -> str:
    """What stands for a map in addresses: the folder's name without `.map`, of plain letters."""
    stem = folder.absolute().name.removesuffix(".map")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "map"
