"""What every family promises. A new family is held to this by its line in `placecell.catalog.FAMILIES` alone."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SMALL
from placecell.align import Similarity, align_scene
from placecell.camera import Camera
from placecell.catalog import FAMILIES, family, load_map
from placecell.errors import PlacecellError
from placecell.estimate import Estimate, Query
from placecell.localizer import Localizer, config_from_json, config_to_json, load_info
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.scene import Frame, Scene

every_family = pytest.mark.parametrize("name", FAMILIES)
Maps = Callable[[str], Localizer]

# How far the moved world may move an answer beside itself: (distance in metres, degrees). Others are exact.
MOVED = {"structure": (0.002, 0.05)}


def build(name: str, scene: Scene, **settings: Any) -> Localizer:
    return family(name)(**{**SMALL.get(name, {}), **settings}).build(scene, device="cpu", seed=0, log=Silent())


def said(estimate: Estimate) -> tuple[object, ...]:
    """Everything an estimate says but the time it took, to the bit."""
    pose, covariance = estimate.world_from_cam, estimate.covariance
    return (
        estimate.name,
        None if pose is None else pose.matrix.tolist(),
        None if covariance is None else covariance.tolist(),
        estimate.confidence,
        estimate.inliers,
        estimate.matches,
        estimate.reason,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unplaceable(camera: Camera) -> list[Query]:
    """Pictures that nothing can place, named by what is wrong with them."""
    height, width = camera.height, camera.width
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    small, dot = Camera.from_focal(16, 12, 14.0), Camera.from_focal(1, 1, 1.0)
    return [
        Query("black", np.zeros((height, width, 3), np.uint8), camera),
        Query("white", np.full((height, width, 3), 255, np.uint8), camera),
        Query("nearly black", np.zeros((height, width, 3), np.uint8) + (noise > 250).astype(np.uint8), camera),
        Query("tiny", noise[:12, :16].copy(), small),
        Query("one pixel", noise[:1, :1].copy(), dot),
        Query("floats", noise.astype(np.float32), camera),  # type: ignore[arg-type]
        Query("sixteen bits", noise.astype(np.uint16), camera),  # type: ignore[arg-type]
        Query("camera of another size", noise, camera.resized(width * 2, height * 2)),
        Query("camera on its side", noise, Camera.from_focal(height, width, 400.0)),
        Query("grey", noise[:, :, 0].copy(), camera),
        Query("with alpha", np.dstack([noise, noise[:, :, :1]]), camera),
        Query("empty", np.zeros((0, 0, 3), np.uint8), camera),
        Query("depth of another size", noise, camera, depth_m=np.ones((5, 5), np.float32)),
        Query("smooth", np.tile(np.linspace(60, 120, width)[None, :, None], (height, 1, 3)).astype(np.uint8), camera),
    ]


@every_family
class TestSettings:
    def test_the_defaults_make_one(self, name: str) -> None:
        kind = family(name)
        assert is_dataclass(kind) and kind() == kind()
        assert all(item.default is not MISSING or item.default_factory is not MISSING for item in fields(kind))

    def test_it_is_frozen(self, name: str) -> None:
        settings: Any = family(name)()
        first = fields(settings)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(settings, first, getattr(settings, first))

    def test_every_setting_says_what_it_means(self, name: str) -> None:
        (definition,) = ast.parse(inspect.getsource(family(name))).body
        assert isinstance(definition, ast.ClassDef) and ast.get_docstring(definition)
        after = dict(zip(definition.body, definition.body[1:], strict=False))
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                following = after.get(node)
                assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant), (
                    f"{ast.unparse(node.target)} has no docstring"
                )

    def test_they_survive_map_json(self, name: str) -> None:
        settings = family(name)()
        text = json.dumps(config_to_json(settings))
        assert config_from_json(family(name), json.loads(text)) == settings


@every_family
class TestLocalize:
    def test_a_map_is_a_localizer(self, name: str, room_map: Maps) -> None:
        assert isinstance(room_map(name), Localizer)

    def test_nothing_asked_is_nothing_answered(self, name: str, room_map: Maps) -> None:
        assert room_map(name).localize([]) == []

    def test_answers_come_in_the_order_of_the_questions(
        self, name: str, room_map: Maps, room_queries: list[Query]
    ) -> None:
        shuffled = [room_queries[index] for index in (3, 0, 5, 1, 3)]
        found = room_map(name).localize(shuffled)
        assert [estimate.name for estimate in found] == [query.name for query in shuffled]
        assert said(found[0]) == said(found[4])

    def test_a_batch_is_its_singles(self, name: str, room_map: Maps, room_queries: list[Query]) -> None:
        localizer = room_map(name)
        batch = localizer.localize(room_queries)
        singles = [localizer.localize([query])[0] for query in room_queries]
        assert [said(estimate) for estimate in batch] == [said(estimate) for estimate in singles]

    def test_most_of_the_room_is_answered(self, name: str, room_map: Maps, room_queries: list[Query]) -> None:
        """So that the laws here are about answers, not about refusals."""
        found = room_map(name).localize(room_queries)
        assert sum(estimate.world_from_cam is not None for estimate in found) >= 5
        assert all(estimate.seconds is not None and estimate.seconds > 0 for estimate in found)

    def test_what_cannot_be_placed_gets_a_reason(self, name: str, room_map: Maps, room_scene: Scene) -> None:
        queries = unplaceable(room_scene.cameras["camera"])
        found = room_map(name).localize(queries)
        assert [estimate.name for estimate in found] == [query.name for query in queries]
        for estimate in found:
            assert estimate.world_from_cam is None and estimate.covariance is None, estimate
            assert estimate.reason and "\n" not in estimate.reason

    def test_a_bad_picture_does_not_touch_its_neighbours(
        self, name: str, room_map: Maps, room_scene: Scene, room_queries: list[Query]
    ) -> None:
        bad = unplaceable(room_scene.cameras["camera"])
        mixed = [query for pair in zip(room_queries, bad, strict=False) for query in pair]
        found, alone = room_map(name).localize(mixed), room_map(name).localize(room_queries)
        assert [said(estimate) for estimate in found[::2]] == [said(estimate) for estimate in alone]

    def test_the_picture_is_left_as_it_was(self, name: str, room_map: Maps, room_queries: list[Query]) -> None:
        query = room_queries[0]
        before = query.image.copy()
        room_map(name).localize([query])
        np.testing.assert_array_equal(query.image, before)

    def test_a_covariance_is_symmetric_and_positive(self, name: str, room_map: Maps, room_queries: list[Query]) -> None:
        for estimate in room_map(name).localize(room_queries):
            if estimate.covariance is not None:
                assert estimate.covariance.shape == (6, 6)
                np.testing.assert_array_equal(estimate.covariance, estimate.covariance.T)
                assert np.linalg.eigvalsh(estimate.covariance)[0] > 0

    def test_a_confidence_is_a_probability(self, name: str, room_map: Maps, room_queries: list[Query]) -> None:
        for estimate in room_map(name).localize(room_queries):
            assert estimate.confidence is None or 0 <= estimate.confidence <= 1

    def test_no_more_agree_than_there_are_matches(self, name: str, room_map: Maps, room_queries: list[Query]) -> None:
        found = [(e.inliers, e.matches) for e in room_map(name).localize(room_queries) if e.world_from_cam is not None]
        assert all((inliers is None) == (matches is None) for inliers, matches in found)
        told = [(inliers, matches) for inliers, matches in found if inliers is not None and matches is not None]
        assert all(0 < inliers <= matches for inliers, matches in told)
        assert not told or any(inliers < matches for inliers, matches in told)  # so the law is not empty


@every_family
class TestMapFolder:
    def test_a_map_answers_the_same_after_it_was_saved(
        self, name: str, room_map: Maps, room_queries: list[Query], tmp_path: Path
    ) -> None:
        before = room_map(name)
        before.save(tmp_path / "map")
        after = load_map(tmp_path / "map")
        assert type(after) is type(before)
        assert [said(e) for e in after.localize(room_queries)] == [said(e) for e in before.localize(room_queries)]
        after.save(tmp_path / "again")
        assert files_of(tmp_path / "again") == files_of(tmp_path / "map")

    def test_it_says_where_it_comes_from(self, name: str, room_map: Maps, room_scene: Scene, tmp_path: Path) -> None:
        room_map(name).save(tmp_path / "map")
        info = load_info(tmp_path / "map")
        assert (info.family, info.scene, info.scene_fingerprint) == (name, room_scene.name, room_scene.fingerprint)
        assert (info.labels, info.metric, info.seed) == ("synthetic", True, 0)
        assert info.config == config_to_json(family(name)(**SMALL.get(name, {})))

    def test_an_existing_folder_is_not_overwritten(self, name: str, room_map: Maps, tmp_path: Path) -> None:
        folder = tmp_path / "map"
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
        with pytest.raises(PlacecellError, match="exists already"):
            room_map(name).save(folder)
        assert files_of(tmp_path) == {"map/thesis.txt": b"mine"}

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
    def test_a_crash_in_the_middle_leaves_nothing(
        self, name: str, error: BaseException, room_map: Maps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = []

        def crash(path: Path, *_: object, **__: object) -> int:
            written.append([file.name for file in path.parent.iterdir()])
            raise error

        monkeypatch.setattr(Path, "write_text", crash)
        with pytest.raises(PlacecellError if isinstance(error, OSError) else type(error)):
            room_map(name).save(tmp_path / "map")
        assert written == [["weights.safetensors"]]  # in the middle indeed
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def blind_scene(room_scene: Scene) -> Scene:
    """The room without anything of its test frames: no picture to open, no pose to know."""

    def blind(frame: Frame) -> Frame:
        return replace(frame, image="gone.jpg", depth=None, world_from_cam=None) if frame.split == "test" else frame

    return replace(room_scene, frames=tuple(blind(frame) for frame in room_scene.frames))


@every_family
class TestBuild:
    def test_the_same_seed_makes_the_same_files_whatever_the_test_frames(
        self, name: str, room_map: Maps, room_scene: Scene, blind_scene: Scene, tmp_path: Path
    ) -> None:
        room_map(name).save(tmp_path / "first")
        build(name, blind_scene).save(tmp_path / "second")
        first, second = (files_of(tmp_path / folder) for folder in ("first", "second"))
        fingerprints = room_scene.fingerprint.encode(), blind_scene.fingerprint.encode()
        second["map.json"] = second["map.json"].replace(fingerprints[1], fingerprints[0])
        assert first.keys() == second.keys()
        for path, content in first.items():
            assert second[path] == content, f"{path} differs"

    def test_the_scene_is_left_as_it_was(self, name: str, room_map: Maps, room_scene: Scene) -> None:
        room_map(name)
        untouched = Scene.load(room_scene.root)
        assert room_scene.fingerprint == untouched.fingerprint
        assert room_scene.frames[0].image == untouched.frames[0].image
        assert room_scene.points is not None and untouched.points is not None
        for key, value in vars(untouched.points).items():
            np.testing.assert_array_equal(getattr(room_scene.points, key), value)
        stray = {path.relative_to(room_scene.root).parts[0] for path in room_scene.root.rglob("*")}
        assert stray == {"scene.json", "frames.jsonl", "images", "depth", "points.ply", "tracks.safetensors"}

    def test_moving_the_world_moves_every_answer(
        self, name: str, room_map: Maps, room_scene: Scene, room_queries: list[Query]
    ) -> None:
        moved_from_world = Pose.exp([0.4, -1.1, 0.7, 5.0, -3.0, 2.0])
        similarity = Similarity(1.0, moved_from_world.rotation, moved_from_world.translation)
        moved = build(name, align_scene(room_scene, similarity, metric=True, note="moved")).localize(room_queries)
        within = MOVED.get(name, (1e-9, 1e-6))
        for before, after in zip(room_map(name).localize(room_queries), moved, strict=True):
            assert (before.world_from_cam is None) == (after.world_from_cam is None)
            if before.world_from_cam is not None and after.world_from_cam is not None:
                error = pose_error(after.world_from_cam, moved_from_world @ before.world_from_cam)
                assert error.distance <= within[0] and error.angle_deg <= within[1]

    @pytest.mark.parametrize("flaw", ["no training frames", "no poses", "black pictures"])
    def test_a_scene_that_makes_no_map_is_refused_in_one_line(
        self, name: str, flaw: str, room_scene: Scene, tmp_path: Path
    ) -> None:
        with pytest.raises(PlacecellError, match=room_scene.name) as caught:
            build(name, spoilt(room_scene, flaw, tmp_path))
        assert "\n" not in str(caught.value)

    def test_a_missing_picture_is_named(self, name: str, room_scene: Scene) -> None:
        frames: Sequence[Frame] = room_scene.split("train").frames[:4]
        broken = replace(room_scene, frames=(*frames[:3], replace(frames[3], image="gone.jpg")), points=None)
        with pytest.raises(PlacecellError, match=r"gone\.jpg"):
            build(name, broken)


def spoilt(scene: Scene, flaw: str, folder: Path) -> Scene:
    """A scene of that flaw, made of the first training frames."""
    from placecell.images import write_jpeg

    frames = scene.split("train").frames[:5]
    if flaw == "no training frames":
        return scene.split("test")
    if flaw == "no poses":
        return replace(scene, frames=tuple(replace(frame, world_from_cam=None) for frame in frames), points=None)
    camera = scene.camera_of(frames[0])
    write_jpeg(folder / "black.jpg", np.zeros((camera.height, camera.width, 3), np.uint8))
    return replace(scene, frames=tuple(replace(f, image="black.jpg") for f in frames), root=folder, points=None)
