"""What the head learns from: cells of all training pictures, each seen several ways, in one file mapped into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor, Floats
from placecell.augment import Augmentation
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.estimate import Query
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.encoder import Encoder
from placecell.families.coordinates.sight import camera_seen, cell_pixels, described, overall
from placecell.images import LEAST_DETAIL, detail, load_query
from placecell.log import Log
from placecell.pose import Array
from placecell.resample import resample
from placecell.scene import Frame, Scene
from placecell.train.pictures import Pictures, files_identity
from placecell.views import depth_of, points_by_frame

_PURPOSE = 4
"""Of the seed."""
_DEPTH_SHARE = 0.5
"""Of the picture's pixels a radian, or of the depth sensor's where those are fewer: what depth is looked up at, so that
no holes are left between its points."""
_REMEMBERED = 4
"""Training pictures, for the threads that look at them."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """L looks of S cells each; a look is a training picture as some camera at its place sees it."""

    cells: NDArray[Any]
    """(L, S) records: `feature` (C,) float16; `ray` (2,) float32, x / z and y / z in the camera of the look; `depth`
    float32 along z in it, NaN where unknown."""
    names: tuple[str, ...]
    """(L,) of the frames."""
    rotations: Floats
    """(L, 3, 3) `anchor_from_look`."""
    centres: Floats
    """(L, 3) in the anchor frame."""
    focals_px: Floats
    """(L,)."""
    overall: Floats
    """(L, G) what each look is like as a whole, of those cells of it that show the picture."""
    looks: NDArray[np.intp]
    """Which of them show something; from the others nothing is learned."""

    def __len__(self) -> int:
        return len(self.looks) * int(self.cells.shape[1])

    def at(self, places: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """Cells by their places, from 0 to the length of the buffer, and the looks they are of."""
        look, sample = np.divmod(places, self.cells.shape[1])
        return self.cells[self.looks[look], sample], self.looks[look]

    @classmethod
    def filled(cls, looker: Looker, anchor: Anchor, config: Coordinates, *, folder: Path, log: Log) -> Self:
        """Every frame of the looker looked at `config.looks` times, in `folder`; taken from there if they are there.

        Raises:
            ImageError: a picture or its depth cannot be read.
            MapError: nothing is to be seen in any picture.
        """
        frames, count = looker.frames, config.looks * len(looker.frames)
        kind = looker.kind
        told: dict[str, Any] = {"log": log, "what": "describing cells", "identity": looker.identity}
        raw = Pictures.decode(folder / "cells", count, (1, 1, kind.itemsize), looker.row, **told).images
        rows = raw.reshape(count, -1).view(kind)[:, 0]
        labels = anchor.labels([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
        which = [index // config.looks for index in range(count)]
        names = tuple(frames[index].name for index in which)
        return cls(
            cells=rows["cells"],
            names=names,
            rotations=labels.rotations[which] @ rows["cam_from_look"],
            centres=labels.centres[which],
            focals_px=np.array(rows["focal_px"]),
            overall=np.array(rows["overall"]),
            looks=_with_something(rows["detail"], names, looker.scene.name, log),
        )


@dataclass(frozen=True, eq=False)
class Looker:
    """Looks at the pictures of a scene, `config.looks` times at each before the next."""

    scene: Scene
    frames: Sequence[Frame]
    camera: Camera
    """The commonest of those that the encoder sees, before they are zoomed."""
    encoder: Encoder
    config: Coordinates
    seed: int
    seen: Mapping[str, Array]
    """The points (M, 3) of the scene that each frame sees, by its name."""

    @classmethod
    def of(
        cls, scene: Scene, frames: Sequence[Frame], camera: Camera, encoder: Encoder, config: Coordinates, seed: int
    ) -> Self:
        """A looker that knows the points its frames see."""
        return cls(scene, frames, camera, encoder, config, seed, points_by_frame(scene, frames))

    @property
    def kind(self) -> np.dtype[Any]:
        """Of a row of the file: what one look sees."""
        cell = [("feature", np.float16, (self.encoder.channels,)), ("ray", np.float32, (2,)), ("depth", np.float32)]
        return np.dtype(
            [
                ("cam_from_look", np.float32, (3, 3)),
                ("focal_px", np.float32),
                ("detail", np.float32),
                ("overall", np.float32, (self.encoder.coarse,)),
                ("cells", np.dtype(cell), (self.config.samples,)),
            ]
        )

    @property
    def identity(self) -> str:
        """Changes whenever a look would."""
        keys = ("looks", "samples", "turn_deg", "zoom", "colour", "surfaces", "precision")
        settings = [getattr(self.config, key) for key in keys]
        files = files_identity(self.scene, self.frames, self.camera)
        return f"{self.scene.fingerprint} {files} {self._digest()} {settings} {self.seed}"

    def _digest(self) -> str:
        """Of the encoder's weights, and of what is known of surfaces beside the files."""
        sensor = self.scene.depth_sensor
        parts: list[Any] = [value.cpu().numpy() for value in self.encoder.state_dict().values()]
        parts += [self.seen[frame.name] for frame in self.frames if frame.name in self.seen]
        digest = sha256() if sensor is None else sha256(f"{sensor} {sensor.cam_from_depth.matrix.tolist()}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def row(self, index: int) -> NDArray[np.uint8]:
        """(1, 1, B) the bytes of a look; without detail where nothing is to be seen."""
        rng = np.random.default_rng([self.seed, _PURPOSE, index])
        zoom = self.config.zoom ** rng.uniform(-1.0, 1.0)
        taken = self._taken(index // self.config.looks)
        query, camera = taken.query, camera_seen(taken.query.camera, self.camera)
        lens = replace(camera, fx=camera.fx * zoom, fy=camera.fy * zoom)
        vary = Augmentation((0.0, 0.0, self.config.turn_deg), self.config.colour)
        varied = vary.vary(query.image, query.camera, lens, rng)
        rays = lens.rays(cell_pixels(lens))
        inside = np.flatnonzero(query.camera.contains(query.camera.project(rays @ varied.cam_from_varied.T)))
        row = np.zeros(1, self.kind)
        row["cam_from_look"], row["focal_px"] = varied.cam_from_varied, lens.fx
        if query.defect is None and len(inside):
            row["detail"] = taken.detail
            chosen = rng.choice(inside, self.config.samples, replace=len(inside) < self.config.samples)
            cells, features = row["cells"][0], described(self.encoder, varied.image, self.config.precision)
            row["overall"], cells["feature"] = overall(self.encoder, features[inside]), features[chosen]
            cells["ray"] = rays[chosen, :2]
            cells["depth"] = taken.depth(rays[chosen] @ varied.cam_from_varied.T)
        return row.view(np.uint8).reshape(1, 1, -1)

    @cached_property
    def _taken(self) -> Callable[[int], _Taken]:
        """A training picture by its number; the last ones are remembered, as all looks at one follow each other."""
        return lru_cache(maxsize=_REMEMBERED)(self._read)

    def _as_seen(self, query: Query) -> NDArray[np.uint8]:
        return resample(query.image, query.camera, camera_seen(query.camera, self.camera))

    def _read(self, number: int) -> _Taken:
        frame = self.frames[number]
        query = load_query(self.scene, frame)
        lens, sensor, share = query.camera.pinhole, self.scene.depth_sensor, _DEPTH_SHARE
        shown = 0.0 if query.defect is not None else detail(self._as_seen(query))
        if not self.config.surfaces or query.defect is not None:  # of nothing, no depth is asked
            return _Taken(query, shown, lens, None)
        if frame.depth is not None and sensor is not None:
            share *= min(1.0, sensor.camera.fx / lens.fx)
        lens = lens.resized(max(1, round(share * lens.width)), max(1, round(share * lens.height)))
        return _Taken(query, shown, lens, depth_of(self.scene, frame, lens, self.seen.get(frame.name)))


@dataclass(frozen=True, eq=False)
class _Taken:
    """A training picture as it was taken."""

    query: Query
    detail: float
    """As the encoder sees it."""
    lens: Camera
    """Of the depth."""
    depth_hw: NDArray[np.float32] | None

    def depth(self, rays_cam: Array) -> NDArray[np.float32]:
        """(N,) along z, which a turn about the line of sight keeps; NaN where unknown."""
        if self.depth_hw is None:
            return np.full(len(rays_cam), np.nan, np.float32)
        height, width = self.depth_hw.shape
        columns, rows = np.floor(np.nan_to_num(self.lens.project(rays_cam), nan=-1.0)).astype(np.intp).T
        inside = (rows >= 0) & (columns >= 0) & (rows < height) & (columns < width)
        found = self.depth_hw[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        return np.where(inside, found, np.float32(np.nan))


def _with_something(details: Floats, names: Sequence[str], scene: str, log: Log) -> NDArray[np.intp]:
    """Which looks show something; says how many pictures do not."""
    looks = np.flatnonzero(details >= LEAST_DETAIL)
    if not len(looks):
        raise MapError(f"scene {scene}: there is nothing in its training pictures; are they black?")
    nothing = sorted(set(names) - {names[int(look)] for look in looks})
    if nothing:
        log.warn(f"{len(nothing)} of {len(set(names))} pictures are blank and teach nothing: {nothing[0]}, …")
    return looks
