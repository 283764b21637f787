"""The field's formats: a reader a format, `read(root) -> Scene`, and writers to leave with (docs/formats.md).

Formats are told apart by the files they cannot be without; `detect` names the one a folder is in.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from placecell.datasets import (
    bundler,
    cambridge,
    colmap,
    kapture,
    kitti,
    nerfstudio,
    nvm,
    posenet,
    seven_scenes,
    tum,
    twelve_scenes,
)
from placecell.errors import SceneError
from placecell.scene import Scene

READERS: dict[str, Callable[..., Scene]] = {
    "7scenes": seven_scenes.read,
    "12scenes": twelve_scenes.read,
    "cambridge": cambridge.read,
    "posenet": posenet.read,
    "tum": tum.read,
    "kitti": kitti.read,
    "nerfstudio": nerfstudio.read,
    "kapture": kapture.read,
    "colmap": colmap.read,
    "nvm": nvm.read,
    "bundler": bundler.read,
}
"""`read(root, **options) -> Scene` by format, in the order `detect` tries them; `root` has to be absolute here."""

WRITERS: dict[str, Callable[..., Path]] = {"colmap": colmap.write, "tum": tum.write, "nerfstudio": nerfstudio.write}
"""`write(scene, folder, images="link", overwrite=False) -> folder` by format."""

_MARKS: dict[str, Callable[[Path], object]] = {
    "7scenes": lambda root: _has(root, "TrainSplit.txt") or _has(root, "TestSplit.txt"),
    "12scenes": lambda root: _has(root, "info.txt") and _has(root, "split.txt"),
    "cambridge": lambda root: _has(root, "dataset_train.txt") and _has(root, "dataset_test.txt"),
    "posenet": posenet.list_files,
    "tum": lambda root: _has(root, "rgb.txt") and _has(root, "groundtruth.txt"),
    "kitti": lambda root: (root / "sequences").is_dir() and (root / "poses").is_dir(),
    "nerfstudio": lambda root: any(_has(root, name) for name in nerfstudio.FILES),
    "kapture": lambda root: any(_has(root, f"{part}sensors/sensors.txt") for part in ("", "mapping/", "query/")),
    "colmap": colmap.model_folder,
    "nvm": lambda root: any(root.glob("*.nvm")),
    "bundler": lambda root: any(_has(root, name) for name in bundler.BUNDLES),
}


def detect(root: Path) -> str:
    """The format of the data set in a folder: the first of `READERS` whose files are there.

    Raises:
        SceneError: it is in none of the known formats.
    """
    if not root.is_dir():
        raise SceneError(f"{root}: not a folder; name the folder of the data set")
    for name, mark in _MARKS.items():
        if mark(root):
            return name
    raise SceneError(f"{root}: in none of the known formats ({', '.join(READERS)}); name the folder its files lie in")


def read(root: Path, format: str | None = None, **options: Any) -> Scene:
    """The scene of a data set; `options` are those of the format's reader.

    Raises:
        SceneError: the format or an option is unknown, or none fits.
        FormatError: a file is damaged or missing; the text names file and line.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would swap a link's name for its target's
    name = format or detect(root)
    if name not in READERS:
        raise SceneError(f"unknown format {name!r}; known are {', '.join(READERS)}")
    if not root.is_dir():
        raise SceneError(f"{root}: not a folder; name the folder of the data set")
    known = [key for key in inspect.signature(READERS[name]).parameters if key != "root"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SceneError(f"the reader of {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    paths = {key: Path(os.path.abspath(value)) for key, value in options.items() if isinstance(value, Path)}  # noqa: PTH100
    return READERS[name](root, **{**options, **paths})


def _has(root: Path, name: str) -> bool:
    return (root / name).is_file()
