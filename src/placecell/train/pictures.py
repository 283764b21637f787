"""Pictures decoded once, into a file that every later look at them maps into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from placecell import atomic
from placecell.camera import Camera
from placecell.log import Log
from placecell.scene import Frame, Scene, camera_to_json
from placecell.train.ahead import ahead


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of one size, in the order of their frames."""

    images: NDArray[Any] = field(repr=False)
    """(N, h, w, C), read-only and mapped from the file; RGB uint8 unless decoded as something else."""

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def decode(
        cls,
        path: Path,
        count: int,
        shape: tuple[int, int, int],
        load: Callable[[int], NDArray[Any]],
        *,
        identity: str,
        log: Log,
        what: str = "decoding pictures",
        dtype: DTypeLike = np.uint8,
        threads: int = 2,
    ) -> Self:
        """The pictures `load(0) … load(count - 1)`, decoded unless the folder `path` has them already.

        The folder holds `pictures.npy` and, in `pictures.json`, `identity`: whatever tells these pictures from others
        (fingerprint of the scene, size, …). It is complete or absent, and made again when anything differs.

        Args:
            shape: (h, w, C) of one picture.
            load: called in background threads.

        Raises:
            PlacecellError: what `load` raises, or the disk is full.
            ValueError: `load` gave another shape or type than it should.
        """
        expected = {"identity": identity, "shape": [count, *shape], "dtype": np.dtype(dtype).str}
        found = _read(path, expected)
        if found is None:
            with atomic.new_folder(path, replace=True) as aside:
                with closing(ahead(load, range(count), threads=threads)) as pictures:
                    _write(aside / "pictures.npy", log.track(pictures, what, count), expected)
                (aside / "pictures.json").write_text(json.dumps(expected), encoding="utf-8")
            found = np.load(path / "pictures.npy", mmap_mode="r")
        return cls(found)


def files_identity(scene: Scene, frames: Sequence[Frame], camera: Camera) -> str:
    """Changes whenever what is decoded would: with pictures, depth, their cameras, or the camera they are made for."""
    rows: list[Any] = [camera_to_json(camera)]
    for frame in frames:
        depth = None if frame.depth is None else _state(scene.root / frame.depth)
        rows.append([frame.name, _state(scene.image_path(frame)), camera_to_json(scene.camera_of(frame)), depth])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _state(path: Path) -> list[Any]:
    return [str(path), *([path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else [])]


def _read(path: Path, expected: dict[str, Any]) -> NDArray[Any] | None:
    """The pictures in a folder, None unless they are the expected ones, whole."""
    try:
        if json.loads((path / "pictures.json").read_text(encoding="utf-8")) != expected:
            return None
        images: NDArray[Any] = np.load(path / "pictures.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    return images if [*images.shape] == expected["shape"] and images.dtype.str == expected["dtype"] else None


def _write(path: Path, pictures: Any, expected: dict[str, Any]) -> None:
    """Written, not mapped: a disk that fills up under a mapping kills the process instead of raising."""
    count, *shape = expected["shape"]
    header = {"descr": expected["dtype"], "fortran_order": False, "shape": (count, *shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for index, picture in enumerate(pictures):
            if [*picture.shape] != shape or picture.dtype.str != expected["dtype"]:
                raise ValueError(f"picture {index} is {picture.dtype} {picture.shape}, not {expected}")
            file.write(np.ascontiguousarray(picture).data)
