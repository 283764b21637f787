"""What is learned from: cells of varied pictures whose rays, depth and rotations stay true to the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import Remembering
from families.coordinates.conftest import patched
from families.coordinates.small import settings
from placecell.anchor import Anchor
from placecell.backbones import MEAN, STD
from placecell.camera import Camera
from placecell.errors import ImageError, MapError
from placecell.families.coordinates import buffer as buffer_module
from placecell.families.coordinates.buffer import Buffer, Looker
from placecell.families.coordinates.encoder import Encoder
from placecell.families.coordinates.sight import camera_seen
from placecell.images import load_query, write_depth, write_jpeg
from placecell.log import Log, Silent
from placecell.points import PointCloud
from placecell.pose import Array
from placecell.resample import canonical_camera, resample
from placecell.scene import DepthSensor, Frame, Scene

pytestmark = pytest.mark.usefixtures("patches")
TURNED: dict[str, Any] = {"turn_deg": 40.0, "zoom": 1.5, "colour": 0.0, "looks": 3}


def anchor_of(frames: tuple[Frame, ...]) -> Anchor:
    return Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])


def looker_of(scene: Scene, frames: tuple[Frame, ...], *, seed: int = 0, **changes: Any) -> Looker:
    config = settings(**{"backbone": "around", **changes})
    usual = canonical_camera([scene.camera_of(frame) for frame in frames], config.short_side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(config.backbone).settle()
    encoder.register_parameter("where", torch.nn.Parameter(torch.zeros(1)))  # averages have none of their own
    return Looker.of(scene, frames, camera_seen(usual, usual), encoder, config, seed)


def filled(scene: Scene, frames: tuple[Frame, ...], folder: Path, *, log: Log | None = None, **rest: Any) -> Buffer:
    looker = looker_of(scene, frames, **rest)
    return Buffer.filled(looker, anchor_of(frames), looker.config, folder=folder, log=log or Silent())


def places_world(found: Buffer, anchor: Anchor, look: int) -> Array:
    """(S, 3) where the cells of a look say that they lie."""
    cells = found.cells[look]
    rays = np.concatenate([cells["ray"], np.ones((len(cells), 1))], axis=1)
    points = (rays * cells["depth"][:, None]) @ found.rotations[look].astype(float).T + found.centres[look]
    return anchor.world_from_anchor.apply(points)


def read_at(image: NDArray[Any], pixels: Array) -> NDArray[Any]:
    """(N, ...) values of the pixels in which places of a picture lie."""
    columns, rows = np.floor(pixels).astype(int).T
    values: NDArray[Any] = image[rows, columns]
    return values


@pytest.fixture(scope="module")
def frames(room_scene: Scene) -> tuple[Frame, ...]:
    return room_scene.split("train").frames[:4]


@pytest.fixture(scope="module")
def parts(
    room_scene: Scene, frames: tuple[Frame, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Buffer, Anchor]:
    """The looks of some frames, turned and zoomed, and the anchor that they are about."""
    with patched():
        found = filled(room_scene, frames, tmp_path_factory.mktemp("buffer"), samples=150, **TURNED)
    return found, anchor_of(frames)


class TestTruth:
    """Each cell of each look, turned and zoomed, is where the exact depth of the room says that it is."""

    def test_cells_lie_on_the_surfaces_of_the_room(
        self, parts: tuple[Buffer, Anchor], room_scene: Scene, frames: tuple[Frame, ...]
    ) -> None:
        (found, anchor), wrong, known = parts, [], []
        for look, name in enumerate(found.names):
            frame = next(frame for frame in frames if frame.name == name)
            query = load_query(room_scene, frame, depth=True)
            assert frame.world_from_cam is not None and query.depth_m is not None
            points = places_world(found, anchor, look)
            sure = np.isfinite(points).all(axis=1)
            points_cam = frame.world_from_cam.inv.apply(points[sure])
            pixels = query.camera.project(points_cam)
            assert query.camera.contains(pixels).all()
            wrong.append(np.abs(read_at(query.depth_m, pixels) - points_cam[:, 2]))
            known.append(sure.mean())
        distances = np.concatenate(wrong)
        assert np.median(distances) < 0.003 and np.mean(distances < 0.02) > 0.95
        assert min(known) > 0.98

    def test_no_cell_floats_before_what_another_frame_sees(
        self, parts: tuple[Buffer, Anchor], room_scene: Scene, frames: tuple[Frame, ...]
    ) -> None:
        """A surface may be hidden from elsewhere, but never hang in the air: so the poses are right, too."""
        (found, anchor), before = parts, []
        for frame in room_scene.split("train").frames[4:12]:
            query = load_query(room_scene, frame, depth=True)
            assert frame.world_from_cam is not None and query.depth_m is not None
            for look in range(len(found.names)):
                points_cam = frame.world_from_cam.inv.apply(places_world(found, anchor, look))
                pixels = query.camera.project(points_cam)
                inside = query.camera.contains(pixels)
                before.append(read_at(query.depth_m, pixels[inside]) - points_cam[inside, 2])
        air = np.concatenate(before)
        assert len(air) > 300 and np.mean(air > 0.03) < 0.03 and np.mean(np.abs(air) < 0.02) > 0.4

    def test_cells_look_like_the_places_they_lie_at(
        self, parts: tuple[Buffer, Anchor], room_scene: Scene, frames: tuple[Frame, ...]
    ) -> None:
        """The mean colour of a cell is that of the picture about where its ray meets it."""
        (found, anchor), differences, strangers = parts, [], []
        for look, name in enumerate(found.names):
            frame = next(frame for frame in frames if frame.name == name)
            query = load_query(room_scene, frame)
            assert frame.world_from_cam is not None
            side = 8 * query.camera.fx / float(found.focals_px[look])  # of a cell, in pixels of the picture
            blurred = cv2.GaussianBlur(query.image.astype(np.float32), (0, 0), side / np.sqrt(12))
            rays_cam = np.concatenate([found.cells[look]["ray"], np.ones((150, 1))], axis=1)
            points = rays_cam @ found.rotations[look].T + found.centres[look]  # a unit along each ray
            pixels = query.camera.project(frame.world_from_cam.inv.apply(anchor.world_from_anchor.apply(points)))
            colours = (found.cells[look]["feature"][:, 12:15].astype(float) * STD + MEAN) * 255
            differences.append(np.abs(read_at(blurred, pixels) - colours).mean(axis=1))
            unturned = query.camera.project(rays_cam)
            kept = query.camera.contains(unturned)
            strangers.append(np.abs(read_at(blurred, unturned[kept]) - colours[kept]).mean(axis=1))
        off = np.median(np.concatenate(differences))
        assert off < 4 and np.median(np.concatenate(strangers)) > 2 * off

    def test_looks_are_turned_about_the_line_of_sight_and_zoomed(
        self, parts: tuple[Buffer, Anchor], room_scene: Scene, frames: tuple[Frame, ...]
    ) -> None:
        (found, anchor), turns = parts, []
        assert found.names == tuple(frame.name for frame in frames for _ in range(3))
        labels = anchor.labels([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
        for look in range(12):
            cam_from_look = labels.rotations[look // 3].astype(float).T @ found.rotations[look]
            np.testing.assert_allclose(cam_from_look[2], (0, 0, 1), atol=1e-6)
            turns.append(np.degrees(np.arctan2(cam_from_look[1, 0], cam_from_look[0, 0])))
            np.testing.assert_array_equal(found.centres[look], labels.centres[look // 3])
        assert 10 < np.abs(turns).max() <= 40 and np.min(turns) < 0 < np.max(turns)
        zooms = found.focals_px * 3 / room_scene.camera_of(frames[0]).fx  # 360 rows seen as 120
        assert zooms.min() >= 1 / 1.5 and zooms.max() <= 1.5 and zooms.min() < 1 < zooms.max()


class TestDepth:
    def test_comes_from_points_where_there_is_no_depth(
        self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path
    ) -> None:
        bare = replace(room_scene, depth_sensor=None)
        exact = filled(room_scene, frames[:2], tmp_path / "depth", **TURNED).cells["depth"]
        found = filled(bare, frames[:2], tmp_path / "points", **TURNED).cells["depth"]
        both = np.isfinite(found) & np.isfinite(exact)
        assert both.mean() > 0.5 and np.median(np.abs(found - exact)[both]) < 0.1

    @pytest.mark.parametrize("why", ["settings", "nothing known"])
    def test_is_unknown(self, why: str, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path) -> None:
        scene = room_scene if why == "settings" else replace(room_scene, depth_sensor=None, points=None)
        found = filled(scene, frames[:1], tmp_path, surfaces=why != "settings")
        assert np.isnan(found.cells["depth"]).all() and np.isfinite(found.cells["ray"]).all()

    def test_pictures_say_nothing_in_a_scene_without_metres(
        self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path
    ) -> None:
        scene = replace(room_scene, metric=False, points=None)
        assert np.isnan(filled(scene, frames[:1], tmp_path).cells["depth"]).all()

    def test_of_a_coarse_sensor_leaves_no_holes(
        self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path
    ) -> None:
        query = load_query(room_scene, frames[0], depth=True)
        assert query.depth_m is not None
        write_depth(tmp_path / "coarse.png", np.ascontiguousarray(query.depth_m[4::8, 4::8]))
        camera = room_scene.camera_of(frames[0])
        sensor = DepthSensor(camera.resized(60, 45), room_scene.depth_sensor.cam_from_depth)  # type: ignore[union-attr]
        frame = replace(frames[0], depth=str(tmp_path / "coarse.png"))
        scene = replace(room_scene, depth_sensor=sensor, points=None, frames=(frame,))
        assert np.isfinite(filled(scene, (frame,), tmp_path / "work").cells["depth"]).mean() > 0.95


class TestFile:
    def test_the_seed_decides(self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path) -> None:
        one, again, other = (
            filled(room_scene, frames[:2], tmp_path / str(index), seed=seed) for index, seed in enumerate((0, 0, 1))
        )
        assert one.cells.tobytes() == again.cells.tobytes() != other.cells.tobytes()

    def test_what_is_there_is_not_made_again(
        self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[str] = []

        def load(scene: Scene, frame: Frame) -> object:
            read.append(frame.name)
            return load_query(scene, frame)

        monkeypatch.setattr(buffer_module, "load_query", load)
        few, points = frames[:1], room_scene.points
        assert points is not None and room_scene.depth_sensor is not None
        before = filled(room_scene, few, tmp_path)
        assert read
        read.clear()
        assert filled(room_scene, few, tmp_path).cells.tobytes() == before.cells.tobytes() and not read
        sensor = replace(room_scene.depth_sensor, unit_m=0.002)
        moved = replace(points, points_world=points.points_world + 1.0)
        others: list[tuple[Scene, dict[str, Any]]] = [
            *((room_scene, {key: value}) for key, value in (("turn_deg", 20.0), ("zoom", 1.1), ("colour", 0.0))),
            *((room_scene, {key: value}) for key, value in (("surfaces", False), ("samples", 32), ("seed", 3))),
            (replace(room_scene, depth_sensor=sensor), {}),
            (replace(room_scene, points=moved), {}),
        ]
        for scene, changes in others:
            read.clear()
            filled(scene, few, tmp_path, **changes)
            assert read, changes

    def test_other_weights_of_the_encoder_make_it_again(
        self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path
    ) -> None:
        looker = looker_of(room_scene, frames[:1], backbone="patches")
        before = looker.identity
        with torch.no_grad():
            next(looker.encoder.parameters()).add_(0.1)
        assert looker.identity != before

    def test_a_missing_picture_is_named(self, room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"gone\.jpg"):
            filled(room_scene, (frames[0], replace(frames[1], image="gone.jpg")), tmp_path / "work")
        assert not (tmp_path / "work").exists() or list((tmp_path / "work").iterdir()) == []


SceneOf = Callable[[str], tuple[Scene, tuple[Frame, ...]]]


@pytest.fixture
def beside(room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path) -> SceneOf:
    """The first frames of the room, the second of them with nothing in it: black, grey, or all but."""

    def make(kind: str) -> tuple[Scene, tuple[Frame, ...]]:
        image = np.full((360, 480, 3), {"black": 0, "grey": 130, "dim": 12}[kind], np.uint8)
        if kind == "dim":
            image[:, 240:] += 9  # not blank, but hardly anything
        write_jpeg(tmp_path / f"{kind}.jpg", image)
        spoilt = (frames[0], replace(frames[1], image=str(tmp_path / f"{kind}.jpg")), frames[2])
        return replace(room_scene, frames=spoilt, points=None), spoilt

    return make


class TestBlank:
    @pytest.mark.parametrize("kind", ["black", "grey", "dim"])
    def test_pictures_are_left_out_and_told(self, kind: str, beside: SceneOf, tmp_path: Path) -> None:
        (scene, spoilt), log = beside(kind), Remembering()
        found = filled(scene, spoilt, tmp_path / "work", log=log)
        assert log.warned == [f"1 of 3 pictures are blank and teach nothing: {spoilt[1].name}, …"]
        assert len(found) == 4 * 64
        cells, looks = found.at(np.arange(len(found)))
        assert set(looks.tolist()) == {0, 1, 4, 5} and (np.bincount(looks)[[0, 1, 4, 5]] == 64).all()
        assert cells["ray"].tobytes() == found.cells[[0, 1, 4, 5]]["ray"].tobytes()

    def test_nothing_else_is_refused(self, beside: SceneOf, tmp_path: Path) -> None:
        scene, spoilt = beside("black")
        with pytest.raises(MapError, match="scene room: there is nothing in its training pictures") as caught:
            filled(scene, spoilt[1:2], tmp_path / "work")
        assert "\n" not in str(caught.value)


def test_mixed_cameras_are_seen_alike(room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path) -> None:
    """A picture stored larger, upright, or through a lens has its cells where those of the plain one are."""
    query = load_query(room_scene, frames[0])
    camera = query.camera
    kinds = {
        "plain": camera,
        "large": camera.resized(960, 720),
        "upright": camera.cropped(120, 0, 200, 360),
        "lens": replace(camera, model="opencv", distortion=(0.08, -0.05, 0.002, -0.001)),
    }
    for name, own in kinds.items():
        write_jpeg(tmp_path / f"{name}.jpg", resample(query.image, camera, own), quality=98)
    mixed = tuple(replace(frames[0], name=name, image=str(tmp_path / f"{name}.jpg"), camera=name) for name in kinds)
    mixed = (*mixed, replace(mixed[0], name="again"))
    scene = replace(room_scene, cameras={**room_scene.cameras, **kinds}, frames=mixed, points=None)
    found = filled(scene, mixed, tmp_path / "work", turn_deg=0.0, zoom=1.0, colour=0.0, looks=1, samples=300)
    np.testing.assert_allclose(found.focals_px, camera.fx / 3, rtol=0.01)  # sizes are whole pixels
    smooth = cv2.GaussianBlur(query.image.astype(np.float32), (0, 0), 24 / np.sqrt(12))
    for look, name in enumerate(kinds):
        rays = np.concatenate([found.cells[look]["ray"], np.ones((300, 1))], axis=1)
        pixels, own = camera.project(rays), kinds[name].project(rays)
        assert kinds[name].contains(own).all()
        kept = camera.contains(pixels)
        colours = (found.cells[look]["feature"][:, 12:15].astype(float) * STD + MEAN) * 255
        assert np.median(np.abs(read_at(smooth, pixels[kept]) - colours[kept])) < 4, name
        assert kept.mean() > 0.95
        assert np.nanmedian(found.cells[look]["depth"]) > 0.5
    upright = found.cells[2]["ray"]
    assert np.ptp(upright[:, 1]) > 1.5 * np.ptp(upright[:, 0])


def test_points_of_other_frames_are_not_theirs(room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path) -> None:
    points = room_scene.points
    assert points is not None
    blind = points.seen_frame != 0
    seen = PointCloud(
        points.points_world, points.rgb, points.seen_point[blind], points.seen_frame[blind], points.seen_px[blind]
    )
    found = filled(replace(room_scene, depth_sensor=None, points=seen), frames[:2], tmp_path)
    known = np.isfinite(found.cells["depth"]).mean(axis=1)
    assert known[0] == known[1] == 0 and min(known[2], known[3]) > 0.5


def test_a_camera_that_looks_past_the_picture_is_left_out(
    room_scene: Scene, frames: tuple[Frame, ...], tmp_path: Path
) -> None:
    """A window far from the line of sight, turned by half a turn, shows nothing of the picture."""
    image = load_query(room_scene, frames[0]).image
    write_jpeg(tmp_path / "far.jpg", image)
    far = replace(frames[0], name="far", image=str(tmp_path / "far.jpg"), camera="far")
    odd = Camera(480, 360, 400.0, 400.0, -4000.0, 180.0)
    scene = replace(room_scene, cameras={**room_scene.cameras, "far": odd}, frames=(frames[0], far), points=None)
    found = filled(scene, scene.frames, tmp_path / "work", turn_deg=180.0, looks=4)
    assert 4 * 64 <= len(found) < 8 * 64
