"""placecell localize: which pictures are asked, with which cameras, and what is said of the answers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Command
from placecell.camera import Camera
from placecell.estimate import Estimate, read_predictions
from placecell.exif import Exif, photo_camera
from placecell.images import load_query
from placecell.localizer import load_info
from placecell.pose import pose_error
from placecell.run import RunInfo
from placecell.scene import Scene

Maps = Callable[[str], Path]


def answers(run: Path) -> dict[str, Estimate]:
    return {estimate.name: estimate for estimate in read_predictions(run / "predictions.jsonl")}


def near(estimate: Estimate, scene: Scene, name: str, distance_m: float = 0.02) -> bool:
    (frame,) = [frame for frame in scene.frames if frame.name == name]
    assert frame.world_from_cam is not None
    return pose_error(estimate.world_from_cam, frame.world_from_cam).distance < distance_m


@pytest.fixture
def photo(room_scene: Scene) -> Path:
    """A test picture of the room, without EXIF."""
    return room_scene.image_path(room_scene.split("test").frames[1])


class TestScene:
    def test_its_test_frames_are_asked_with_their_own_cameras(
        self,
        room_scene: Scene,
        room_map_folder: Maps,
        placecell: Command,
        tmp_path: Path,
    ) -> None:
        said = placecell("localize", room_map_folder("structure"), room_scene.root, tmp_path / "run")
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"{tmp_path / 'run'}: 6 of 6 pictures placed, median ")
        found = answers(tmp_path / "run")
        assert list(found) == [frame.name for frame in room_scene.split("test").frames]
        assert all(near(estimate, room_scene, name) for name, estimate in found.items())
        info = RunInfo.load(tmp_path / "run")
        told = {"name": "room", "fingerprint": room_scene.fingerprint, "labels": "synthetic", "split": "test"}
        assert (info.scene, info.images) == (told, 6)

    @pytest.mark.parametrize("split, count", [("train", 30), ("all", 36)])
    def test_another_split(
        self, split: str, count: int, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        placecell("localize", room_map_folder("retrieval"), room_scene.root, tmp_path / "run", "--split", split)
        found = answers(tmp_path / "run")
        assert len(found) == count
        # A training picture is most similar to itself.
        frames = room_scene.split("train").frames
        assert all(near(found[frame.name], room_scene, frame.name, 1e-6) for frame in frames)

    def test_a_split_without_frames_is_refused(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        room_scene.split("train").save(tmp_path / "scene")
        said = placecell("localize", room_map_folder("retrieval"), tmp_path / "scene", tmp_path / "run")
        assert (said.code, said.out) == (1, "")
        assert said.err == "placecell localize: scene room has no test frames, only train; choose with --split\n"
        assert not (tmp_path / "run").exists()

    def test_the_next_command_works_when_pasted(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("localize", room_map_folder("retrieval"), room_scene.root, tmp_path / "a run")
        assert said.following[:2] == ["placecell", "evaluate"]
        assert placecell(*said.following[1:]).code == 0

    def test_of_another_scene_than_the_map_evaluation_is_not_proposed(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        replace(room_scene, name="elsewhere").save(tmp_path / "scene")
        said = placecell("localize", room_map_folder("retrieval"), tmp_path / "scene", tmp_path / "run")
        assert said.code == 0 and said.following[0] == "head"

    def test_its_cameras_are_not_overruled(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell(
            "localize", room_map_folder("retrieval"), room_scene.root, tmp_path / "run", "--focal-px", "500"
        )
        assert (said.code, said.err) == (1, "placecell localize: scene room knows its cameras; drop --focal-px\n")


class TestPictures:
    def test_a_folder_is_asked_by_paths_relative_to_it(
        self, photo: Path, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        names = ["10.jpg", "9.jpg", "day one/küche/a.JPG"]
        for name in names:
            (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo, tmp_path / "photos" / name)
        (tmp_path / "photos" / "notes.txt").write_text("no picture")
        (tmp_path / "photos" / ".hidden.jpg").write_text("no picture either")
        said = placecell("localize", room_map_folder("structure"), tmp_path / "photos", tmp_path / "run")
        assert (said.code, said.err) == (0, "")
        found = answers(tmp_path / "run")
        assert list(found) == ["9.jpg", "10.jpg", "day one/küche/a.JPG"]
        assert all(near(estimate, room_scene, room_scene.split("test").frames[1].name) for estimate in found.values())
        assert RunInfo.load(tmp_path / "run").scene is None
        assert subprocess.run(said.following, capture_output=True, check=True, timeout=60).stdout

    def test_a_single_picture_is_called_by_its_name(
        self, photo: Path, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("localize", room_map_folder("structure"), photo, tmp_path / "run")
        assert said.code == 0 and "1 of 1 pictures placed" in said.out
        assert list(answers(tmp_path / "run")) == [photo.name]

    def test_without_a_picture_there_is_no_run(self, room_map_folder: Maps, placecell: Command, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for pictures, why in (("empty", "holds no pictures and is not a scene"), ("nowhere", "no such file or folder")):
            said = placecell("localize", room_map_folder("retrieval"), tmp_path / pictures, tmp_path / "run")
            assert (said.code, said.out) == (1, "") and why in said.err and said.err.count("\n") == 1
            assert not (tmp_path / "run").exists()

    def test_reasons_are_shown_but_not_by_the_hundred(
        self, photo: Path, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "photos").mkdir()
        for index in range(8):
            Image.new("RGB", (480, 360), "black").save(tmp_path / "photos" / f"{index}.png")
        shutil.copyfile(photo, tmp_path / "photos" / "good.jpg")
        said = placecell("localize", room_map_folder("structure"), tmp_path / "photos", tmp_path / "run")
        assert said.code == 0 and "1 of 9 pictures placed" in said.out
        told = said.err.splitlines()
        assert told[:5] == [f"warning: {index}.png: image is blank" for index in range(5)]
        assert told[5:] == ["warning: 3 more have no answer either; their reasons are in predictions.jsonl"]

    def test_a_lens_that_nobody_knows_is_told(
        self, photo: Path, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "photos").mkdir()
        for index in range(3):
            Image.open(photo).crop((0, 0, 480, 200)).save(tmp_path / "photos" / f"{index}.png")
        words = ("localize", room_map_folder("structure"), tmp_path / "photos")
        said = placecell(*words, tmp_path / "run")
        assert said.err.startswith("warning: 0.png and 2 more: ") and "--focal-px" in said.err
        assert "--focal-px" not in placecell(*words, tmp_path / "run2", "--focal-px", "393.6").err

    @pytest.mark.parametrize(
        "flags", [("--threads", "0"), ("--focal-px", "-3"), ("--focal-px", "nan"), ("--focal-px", "0")]
    )
    def test_flags_that_cannot_be(
        self, flags: tuple[str, str], photo: Path, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("localize", room_map_folder("retrieval"), photo, tmp_path / "run", *flags)
        assert (said.code, said.out) == (1, "") and flags[0] in said.err
        assert not (tmp_path / "run").exists()


class TestInterrupted:
    def test_the_same_command_goes_on(
        self,
        room_scene: Scene,
        room_map_folder: Maps,
        placecell: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        words = ("localize", room_map_folder("retrieval"), room_scene.root, tmp_path / "run", "--split", "all")
        asked: list[str] = []

        def load_or_stop(scene: Scene, frame: object, *, depth: bool) -> object:
            asked.append(frame.name)  # type: ignore[attr-defined]
            if len(asked) == 20:
                raise KeyboardInterrupt
            return load_query(scene, frame, depth=depth)  # type: ignore[arg-type]

        monkeypatch.setattr("placecell.run.load_query", load_or_stop)
        said = placecell(*words)
        assert said.code == 130 and "stopped; the same command goes on" in said.err
        assert placecell("evaluate", tmp_path / "run", room_scene.root).err.startswith(
            f"placecell evaluate: {tmp_path / 'run'}: this run is unfinished"
        )
        said = placecell(*words)
        assert said.code == 0 and "36 of 36" in said.out
        assert said.err == "going on after 16 of 36 pictures that an interrupted run answered\n"
        assert asked[20:] == [frame.name for frame in room_scene.frames[16:]]

    def test_other_pictures_of_the_same_names_do_not_go_on(
        self,
        photo: Path,
        room_map_folder: Maps,
        placecell: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for folder, times in (("monday", 1), ("tuesday", 2)):
            (tmp_path / folder).mkdir()
            for name in ("1.jpg", "2.jpg"):
                (tmp_path / folder / name).write_bytes(photo.read_bytes() * times)  # what follows a JPEG is ignored

        def stop(path: Path) -> None:
            raise KeyboardInterrupt

        words, run = ("localize", room_map_folder("retrieval")), tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr("placecell.cli.localize.read_image", stop)
            assert placecell(*words, tmp_path / "monday", run).code == 130
        for changed in ([tmp_path / "tuesday", run], [tmp_path / "monday", run, "--focal-px", "400"]):
            said = placecell(*words, *changed)
            assert said.code == 1 and "interrupted run of another map or version, or other pictures" in said.err
        assert placecell(*words, tmp_path / "monday", run).code == 0


class TestPhotoCamera:
    usual = Camera(640, 480, 520.0, 522.0, 318.0, 243.0, "opencv", (0.1, -0.2, 0.0, 0.0))

    def test_what_the_user_says_comes_first(self) -> None:
        camera, known = photo_camera(Exif(640, 480, focal_px=700.0), self.usual, 333.0)
        assert (camera, known) == (Camera.from_focal(640, 480, 333.0), True)

    @pytest.mark.parametrize("size", [(640, 480), (1280, 960), (320, 240), (213, 160), (505, 379)])
    def test_the_camera_of_the_map_serves_its_shape_at_any_size(self, size: tuple[int, int]) -> None:
        camera, known = photo_camera(Exif(*size), self.usual)
        assert (camera, known) == (self.usual.resized(*size), True)

    def test_turned_it_keeps_the_focal_length(self) -> None:
        camera, known = photo_camera(Exif(240, 320), self.usual)
        assert (camera.width, camera.height, camera.cx, camera.cy) == (240, 320, 120.0, 160.0)
        assert camera.fx == camera.fy == pytest.approx(np.sqrt(260.0 * 261.0)) and known

    def test_exif_that_agrees_leaves_the_camera_of_the_map(self) -> None:
        """A 35 mm equivalent is rounded to whole millimetres."""
        assert photo_camera(Exif(640, 480, focal_px=545.0), self.usual) == (self.usual, True)

    def test_exif_that_contradicts_is_another_lens(self) -> None:
        camera, known = photo_camera(Exif(640, 480, focal_px=900.0), self.usual)
        assert (camera, known) == (Camera.from_focal(640, 480, 900.0), True)

    def test_another_shape_is_another_camera(self) -> None:
        assert photo_camera(Exif(640, 360, focal_px=600.0), self.usual) == (Camera.from_focal(640, 360, 600.0), True)
        assert photo_camera(Exif(640, 360), self.usual) == (Camera.from_focal(640, 360, 768.0), False)

    def test_the_map_keeps_its_camera(self, room_scene: Scene, room_map_folder: Maps) -> None:
        camera = load_info(room_map_folder("structure")).extra["camera"]
        assert camera["size"] == [480, 360]
        assert camera["fx_fy_cx_cy"][0] == room_scene.camera_of(room_scene.frames[0]).fx

    @pytest.mark.parametrize("scale", [0.5, 1.4])
    def test_a_photo_of_another_resolution_is_placed(
        self, scale: float, photo: Path, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        picture = Image.open(photo)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture.resize(size, Image.Resampling.LANCZOS).save(tmp_path / "resized.png")
        said = placecell("localize", room_map_folder("structure"), tmp_path / "resized.png", tmp_path / "run")
        assert (said.code, said.err) == (0, "")
        (found,) = answers(tmp_path / "run").values()
        assert near(found, room_scene, room_scene.split("test").frames[1].name)
