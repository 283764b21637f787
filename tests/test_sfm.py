"""Structure from motion against rendered truth, its accounts of what cannot be joined, and real photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pycolmap
import pytest

import dolly
from placecell.align import metric_from_gps, trajectory_error
from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.images import read_exif, read_image, write_jpeg
from placecell.log import Silent
from placecell.mapping import Mapper, reconstructions
from placecell.pose import Pose
from placecell.scene import Scene
from placecell.sfm import PHOTOS, Picture, Sfm, Stages, reconstruct
from placecell.sources import photo_pictures, recognize
from placecell.synthetic import room, trajectory

COUNT = 12
T = TypeVar("T")
KNOWN = Sfm(refine_focal=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    paths = dolly.photo_paths(tmp_path_factory.mktemp("dolly"), COUNT)
    return [Picture(path.name, path, "walk", index / 10, "phone", dolly.CAMERA) for index, path in enumerate(paths)]


@pytest.fixture(scope="module")
def labelled(pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Path, Stages]:
    workspace, stages = tmp_path_factory.mktemp("work"), Stages()
    return reconstruct(pictures, "dolly", KNOWN, workspace, Silent(), stages), workspace, stages


def error(scene: Scene) -> tuple[float, float]:
    poses = {frame.name: frame.world_from_cam for frame in scene.frames if frame.world_from_cam is not None}
    found = trajectory_error(poses, {name: pose for name, pose in dolly.truths(COUNT).items() if name in poses})
    return float(np.median(found.distances)), float(np.median(found.angles_deg))


class TestAgainstTruth:
    def test_poses_are_world_from_cam_of_every_picture(self, labelled: tuple[Scene, Path, Stages]) -> None:
        scene, _, stages = labelled
        assert [(f.name, f.sequence, f.time_s) for f in scene.frames] == [
            (dolly.frame_name(index), "walk", index / 10) for index in range(COUNT)
        ]
        distance_m, angle_deg = error(scene)
        assert distance_m < 0.015  # on a walk of 1.2 m
        assert angle_deg < 2.0
        inverted = replace(
            scene,
            frames=tuple(replace(f, world_from_cam=f.world_from_cam.inv) for f in scene.frames if f.world_from_cam),
        )
        assert error(inverted)[0] > 0.05
        assert (scene.labels, scene.metric) == ("sfm", False)
        assert list(stages.seconds) == ["features", "matching", "mapping", "points"]

    def test_points_project_to_where_they_were_seen(self, labelled: tuple[Scene, Path, Stages]) -> None:
        scene = labelled[0]
        points = scene.points
        assert points is not None
        assert len(points) > 300
        residuals = []
        for index, frame in enumerate(scene.frames):
            seen = points.seen_frame == index
            assert frame.world_from_cam is not None
            projected = scene.camera_of(frame).project(
                frame.world_from_cam.inv.apply(points.points_world[points.seen_point[seen]])
            )
            residuals.append(np.linalg.norm(projected - points.seen_px[seen], axis=1))
        assert np.median(np.concatenate(residuals)) < 0.5
        assert (np.bincount(points.seen_point, minlength=len(points)) >= 2).all()

    def test_points_have_the_colours_of_the_pictures(self, labelled: tuple[Scene, Path, Stages]) -> None:
        scene = labelled[0]
        points = scene.points
        assert points is not None
        seen = np.flatnonzero(points.seen_frame == 0)
        column, row = points.seen_px[seen].astype(int).T
        colours = read_image(scene.image_path(scene.frames[0]))[row, column].astype(float)
        apart = np.abs(points.rgb[points.seen_point[seen]] - colours).mean(axis=1)
        assert np.median(apart) < 15
        assert np.median(np.abs(points.rgb[points.seen_point[seen][::-1]] - colours).mean(axis=1)) > 25

    def test_a_given_focal_length_is_kept_and_a_guess_refined(
        self, labelled: tuple[Scene, Path, Stages], pictures: list[Picture], tmp_path: Path
    ) -> None:
        (camera,) = labelled[0].cameras.values()
        assert camera.fx == dolly.CAMERA.fx
        strangers = [replace(picture, camera=None) for picture in pictures]
        scene = reconstruct(strangers, "dolly", Sfm(), tmp_path, Silent())
        (camera,) = scene.cameras.values()
        assert camera.fx == pytest.approx(dolly.CAMERA.fx, rel=0.12)
        assert camera.fx != 1.2 * 320
        assert error(scene)[0] < 0.06

    @pytest.mark.slow
    def test_the_global_mapper_agrees(
        self, labelled: tuple[Scene, Path, Stages], pictures: list[Picture], tmp_path: Path
    ) -> None:
        scene = reconstruct(pictures, "dolly", replace(KNOWN, global_mapper=True), tmp_path, Silent())
        assert len(scene.frames) == COUNT
        assert error(scene)[0] < 0.02

    def test_large_pictures_are_measured_small_and_scaled_back(self, pictures: list[Picture], tmp_path: Path) -> None:
        small = replace(KNOWN, max_side_px=240)
        scene = reconstruct(pictures, "dolly", small, tmp_path, Silent())
        assert scene.points is not None
        assert scene.points.seen_px[:, 0].max() > 260  # pixels of the whole picture
        assert error(scene)[0] < 0.05


class TestGoingOn:
    def test_nothing_is_done_twice(
        self, labelled: tuple[Scene, Path, Stages], pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene, workspace, _ = labelled

        def never(*_: object, **__: object) -> None:
            raise AssertionError("done before")

        for target in ("placecell.sift.Sift.detect", "placecell.two_view.agree", "pycolmap.incremental_mapping"):
            monkeypatch.setattr(target, never)
        again = reconstruct(pictures, "dolly", KNOWN, workspace, Silent())
        assert again.fingerprint == scene.fingerprint

    def test_half_written_models_are_not_read(self, labelled: tuple[Scene, Path, Stages], tmp_path: Path) -> None:
        (tmp_path / "models.partial" / "0").mkdir(parents=True)
        (tmp_path / "models.partial" / "0" / "images.bin").write_bytes(b"cut short")
        (model, *_) = reconstructions(
            labelled[1] / "database.db", tmp_path / "models", Mapper(), pictures=COUNT, log=Silent()
        )
        assert model.num_reg_images() == COUNT
        assert not (tmp_path / "models.partial").exists()

    def test_an_interrupt_stops_the_mapper_and_leaves_no_models(
        self, labelled: tuple[Scene, Path, Stages], tmp_path: Path
    ) -> None:
        class Impatient(Silent):
            def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
                yield next(iter(items))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reconstructions(labelled[1] / "database.db", tmp_path / "models", Mapper(), pictures=COUNT, log=Impatient())
        assert not (tmp_path / "models").exists()


class TestAccounts:
    def test_too_few_pictures(self, pictures: list[Picture], tmp_path: Path) -> None:
        for count, text in ((1, "1 picture is too few"), (2, "2 pictures are too few"), (0, "0 pictures are")):
            with pytest.raises(SceneError, match=text):
                reconstruct(pictures[:count], "few", KNOWN, tmp_path, Silent())

    def test_black_pictures(self, tmp_path: Path) -> None:
        black = [Picture(f"{i}.jpg", tmp_path / f"{i}.jpg") for i in range(5)]
        for picture in black:
            write_jpeg(picture.path, np.zeros((240, 320, 3), np.uint8))
        with pytest.raises(SceneError, match=r"nothing to see on 5 of 5 pictures \(0\.jpg"):
            reconstruct(black, "night", Sfm(), tmp_path / "work", Silent())

    @pytest.mark.parametrize("kind", ["rotation", "still"])
    def test_a_camera_that_only_turns_or_rests(self, kind: str, tmp_path: Path) -> None:
        from placecell.rendering import render

        place, camera = room(0), Camera.from_focal(320, 240, 262.0)
        around: list[Pose] = trajectory("rotation", 90)[:12] if kind == "rotation" else trajectory("still", 6)
        turning = []
        for index, pose in enumerate(around):
            image = render(place, camera, pose, noise_seed=index).image
            turning.append(Picture(f"{index}.jpg", tmp_path / f"{index}.jpg", lens="one"))
            write_jpeg(turning[-1].path, image)
        with pytest.raises(SceneError, match="only turned or stood still"):
            reconstruct(turning, "spin", Sfm(), tmp_path / "work", Silent())

    @pytest.mark.slow
    def test_two_places_are_two_pieces(self, pictures: list[Picture], tmp_path: Path) -> None:
        elsewhere = trajectory("walk", 120)[60:64]
        from placecell.rendering import render

        strangers = []
        for index, pose in enumerate(elsewhere):
            strangers.append(Picture(f"other-{index}.jpg", tmp_path / f"{index}.jpg", lens="other"))
            write_jpeg(strangers[-1].path, render(room(5), dolly.CAMERA, pose).image)
        scene = reconstruct([*pictures, *strangers], "both", KNOWN, tmp_path / "work", Silent())
        assert len(scene.frames) == COUNT
        assert f"{COUNT} of {COUNT + 4} pictures" in scene.notes[0]
        with pytest.raises(SceneError) as caught:
            reconstruct([*pictures[:4], *strangers, *_blank(tmp_path)], "none", KNOWN, tmp_path / "more", Silent())
        text = str(caught.value)
        assert "\n" not in text
        assert "joined at most 4 of 16 pictures" in text
        assert "blank-0.jpg" in text

    def test_a_damaged_database_is_one_line(
        self, labelled: tuple[Scene, Path, Stages], pictures: list[Picture], tmp_path: Path
    ) -> None:
        (tmp_path / "database.db").write_bytes(b"not a database at all" * 100)
        with pytest.raises(SceneError, match="structure from motion broke off") as caught:
            reconstruct(pictures, "dolly", KNOWN, tmp_path, Silent())
        assert "\n" not in str(caught.value)


def _blank(folder: Path) -> list[Picture]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(8):
        found.append(Picture(f"blank-{index}.jpg", folder / f"blank-{index}.jpg", lens="blank"))
        write_jpeg(found[-1].path, rng.integers(0, 255, (240, 320, 3)).astype(np.uint8))
    return found


@pytest.mark.data
class TestRealPhotos:
    def test_ten_tourists_join(self, data_root: Path, tmp_path: Path) -> None:
        photos = photo_pictures(recognize(data_root / "photos_sacre_coeur"))
        scene = reconstruct(photos, "sacre coeur", PHOTOS, tmp_path, Silent())
        assert len(scene.frames) == 10
        assert len(scene.cameras) == 10

    def test_a_street_joins_only_by_trying_harder_and_gps_agrees(self, data_root: Path, tmp_path: Path) -> None:
        photos = photo_pictures(recognize(data_root / "photos_lund"))
        scene = reconstruct(photos, "lund", PHOTOS, tmp_path, Silent())
        assert len(scene.frames) == 29
        assert "lowered demands" in scene.notes[-1]
        gps = [read_exif(photo.path).gps for photo in photos]
        centres = [frame.world_from_cam.translation for frame in scene.frames if frame.world_from_cam is not None]
        fit = metric_from_gps(
            centres, [one.latitude_deg for one in gps if one], [one.longitude_deg for one in gps if one]
        )
        assert fit.residual < 6.0  # of a way of 200 m, within what a phone knows
        moved = fit.metric_from_world.apply(np.array(centres))
        assert 150 < np.linalg.norm(np.diff(moved, axis=0), axis=1).sum() < 260

    @pytest.mark.parametrize("global_mapper", [False, True])
    def test_a_street_with_gaps_is_accounted_for(self, data_root: Path, tmp_path: Path, global_mapper: bool) -> None:
        photos = photo_pictures(recognize(data_root / "photos_lund"), every=4)
        with pytest.raises(SceneError, match=r"joined at most \d of 8 pictures, no map of the place") as caught:
            reconstruct(photos, "gaps", replace(PHOTOS, global_mapper=global_mapper), tmp_path, Silent())
        assert "01.jpg" in str(caught.value)
        assert "overlap by two thirds" in str(caught.value)


def test_pycolmap_logs_as_loudly_as_before(labelled: tuple[Scene, Path, Stages]) -> None:
    assert pycolmap.logging.minloglevel == 0
