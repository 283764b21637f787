"""A grown forest: where it says pictures of the room were taken, what it refuses, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import Remembering
from placecell.align import Similarity, align_scene
from placecell.errors import FormatError, MapError
from placecell.estimate import Query
from placecell.families.coordinates.forest.config import Features, Forest
from placecell.families.coordinates.forest.lessons import drawn
from placecell.families.coordinates.forest.localizer import ForestMap
from placecell.images import load_query, register_depth
from placecell.localizer import Localizer, map_bytes
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.resample import resample
from placecell.scene import DepthSensor, Scene

SMALL: dict[str, Any] = {"trees": 3, "pixels": 400, "candidates": 8, "short_side": 120, "queried": 800, "least": 100}


def build(scene: Scene, **changes: Any) -> ForestMap:
    return Forest(**{**SMALL, **changes}).build(scene, log=Silent())


@pytest.fixture(scope="module")
def found(room_scene: Scene) -> ForestMap:
    return build(room_scene)


@pytest.fixture(scope="module")
def queries(room_scene: Scene) -> list[Query]:
    return [load_query(room_scene, frame, depth=True) for frame in room_scene.split("test").frames]


def truths(scene: Scene) -> list[Pose]:
    return [frame.world_from_cam for frame in scene.split("test").frames if frame.world_from_cam is not None]


def errors(found: ForestMap, queries: Sequence[Query], world_from_cam: Sequence[Pose]) -> np.ndarray:
    answers = found.localize(queries)
    return np.array([pose_error(a.world_from_cam, truth) for a, truth in zip(answers, world_from_cam, strict=True)])


def test_the_room_is_known_to_centimetres(found: ForestMap, queries: list[Query], room_scene: Scene) -> None:
    off = errors(found, queries, truths(room_scene))
    assert np.median(off[:, 0]) < 0.015 and off[:, 0].max() < 0.06
    assert np.median(off[:, 1]) < 0.4 and off[:, 1].max() < 2.0


@pytest.mark.parametrize("features", ["da-rgb+d", "depth"])
def test_depth_tells_places_apart(room_scene: Scene, features: Features) -> None:
    """Pixels that were not learned from, of pictures that were: in a room of flat walls depth says little more."""
    found = build(room_scene, features=features, trees=1)
    near = []
    for frame in room_scene.split("train").posed[:4]:
        query = load_query(room_scene, frame, depth=True)
        _, points_cam = drawn(query, 500, np.random.default_rng(7))
        modes = found.modes(query, points_cam)
        assert frame.world_from_cam is not None
        points = (found.world_from_anchor.inv @ frame.world_from_cam).apply(points_cam)
        off = np.linalg.norm(modes.points - points[:, None], axis=-1)
        near.append(np.where(modes.weight > 0, off, np.inf).min(axis=1) < 0.2)
    assert np.mean(near) > 0.15  # what is drawn at random is so near in one of two hundred


def test_the_answer_says_how_sure_it_is(found: ForestMap, queries: list[Query], room_scene: Scene) -> None:
    for estimate, truth in zip(found.localize(queries), truths(room_scene), strict=True):
        assert estimate.world_from_cam is not None and estimate.covariance is not None
        assert estimate.inliers is not None and SMALL["least"] <= estimate.inliers <= SMALL["queried"]
        off = (estimate.world_from_cam.inv @ truth).log()
        assert off @ np.linalg.solve(estimate.covariance, off) < 60
        assert 1e-3 < np.sqrt(np.trace(estimate.covariance[3:, 3:])) < 0.3


def test_the_weights_of_a_pixel_sum_to_one_at_most(found: ForestMap, queries: list[Query]) -> None:
    _, points_cam = drawn(queries[0], 300, np.random.default_rng(0))
    modes = found.modes(queries[0], points_cam)
    assert modes.points.shape == (300, 9, 3) and modes.covariance.shape == (300, 9, 3, 3)
    total = modes.weight.sum(axis=1)
    assert total.max() <= 1 + 1e-6 and np.median(total) > 0.3


def test_another_camera_may_ask(found: ForestMap, queries: list[Query], room_scene: Scene) -> None:
    """Half the pixels, another focal length, the principal point elsewhere: the same rays, the same answer."""
    seen = []
    for query in queries:
        camera = replace(query.camera.resized(240, 180), fx=260.0, fy=250.0, cx=110.0)
        assert query.depth_m is not None
        depth_m = register_depth(query.depth_m, DepthSensor(query.camera, Pose.identity()), camera)
        seen.append(replace(query, image=resample(query.image, query.camera, camera), camera=camera, depth_m=depth_m))
    off = errors(found, seen, truths(room_scene))
    assert np.median(off[:, 0]) < 0.03 and np.median(off[:, 1]) < 0.6


class TestWithoutDepth:
    def test_pictures_it_has_learned_from_are_placed_without_their_depth(self, room_scene: Scene) -> None:
        """In a room of thirty pictures others are not; real scenes are denser."""
        bare = replace(room_scene, frames=tuple(replace(frame, depth=None) for frame in room_scene.frames))
        frames = room_scene.split("train").posed[::5]
        queries = [load_query(room_scene, frame) for frame in frames]
        for scene in (room_scene, replace(bare, metric=False)):  # by its depth, and by its points
            found = build(scene, features="rgb", auto_context=False, least=50, reach_m=0.88, bandwidth_m=0.03)
            assert not found.wants_depth and found.unit == (1.0 if scene.metric else pytest.approx(1.5, abs=1.0))
            off = errors(found, queries, [f.world_from_cam for f in frames if f.world_from_cam is not None])
            assert np.median(off[:, 0]) < 0.15 and np.median(off[:, 1]) < 3.0

    def test_it_refuses_in_one_line(self, room_scene: Scene, queries: list[Query]) -> None:
        found = build(room_scene, features="rgb", auto_context=False, least=400)
        height, width = queries[0].image.shape[:2]
        noise = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
        wall = np.tile(np.linspace(120, 131, width)[None, :, None], (height, 1, 3)).astype(np.uint8)
        few = replace(found, family=replace(found.family, queried=3, least=3))
        for localizer, image, told in (
            (found, noise, "400 needed"),
            (found, wall, "400 needed"),
            (few, noise, "4 needed"),
        ):
            (estimate,) = localizer.localize([replace(queries[0], image=image, depth_m=None)])
            assert estimate.reason is not None and told in estimate.reason and "\n" not in estimate.reason

    def test_a_second_forest_reads_the_first_and_is_kept_with_it(
        self, room_scene: Scene, queries: list[Query], tmp_path: Path
    ) -> None:
        found = build(room_scene, features="rgb", least=3, pixels=100)
        assert [len(stage.trees) for stage in found.stages] == [3, 3]
        assert max(tree.probes.plane.max() for tree in found.stages[0].trees) == 2
        assert max(tree.probes.plane.max() for tree in found.stages[1].trees) == 6
        found.save(tmp_path / "map")
        after = ForestMap.load(tmp_path / "map")
        _, points_cam = drawn(queries[0], 50, np.random.default_rng(0))
        rays = points_cam / points_cam[:, 2:]
        before = found.modes(queries[0], rays)
        np.testing.assert_array_equal(after.modes(queries[0], rays).points, before.points)
        assert before.points.shape == (50, 18, 3) and before.weight.sum(axis=1).max() <= 1 + 1e-6
        alone = replace(found, stages=found.stages[:1]).modes(queries[0], rays)
        np.testing.assert_array_equal(before.points[:, :9], alone.points)
        np.testing.assert_allclose(before.weight[:, :9], alone.weight / 2)
        misled = replace(found, stages=(found.stages[0].only(np.array([True, False, False])), found.stages[1]))
        assert not np.array_equal(misled.modes(queries[0], rays).points, before.points)

    def test_a_scene_of_poses_alone_teaches_nothing(self, room_scene: Scene) -> None:
        bare = replace(room_scene, frames=tuple(replace(f, depth=None) for f in room_scene.frames), points=None)
        with pytest.raises(MapError, match="neither depth nor points"):
            build(bare, features="rgb")


class TestRefusals:
    def reason(self, found: ForestMap, query: Query) -> str:
        (estimate,) = found.localize([query])
        assert estimate.world_from_cam is None and estimate.reason is not None and "\n" not in estimate.reason
        return estimate.reason

    def test_a_picture_without_depth(self, found: ForestMap, queries: list[Query]) -> None:
        assert found.wants_depth
        assert "needs the depth of each picture" in self.reason(found, replace(queries[0], depth_m=None))

    @pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
    def test_depth_that_says_nothing(self, found: ForestMap, queries: list[Query], value: float) -> None:
        depth_m = np.full(queries[0].image.shape[:2], value, np.float32)
        assert self.reason(found, replace(queries[0], depth_m=depth_m)) == "0 pixels have depth, 100 needed"

    def test_hardly_any_depth(self, found: ForestMap, queries: list[Query]) -> None:
        depth_m = np.full(queries[0].image.shape[:2], np.nan, np.float32)
        depth_m[:7, :7] = 2.0
        assert self.reason(found, replace(queries[0], depth_m=depth_m)) == "49 pixels have depth, 100 needed"

    def test_unregistered_depth_of_another_size(self, found: ForestMap, queries: list[Query]) -> None:
        query = replace(queries[0], depth_m=np.ones((48, 64), np.float32))
        assert "align the depth with the colour camera" in self.reason(found, query)

    @pytest.mark.parametrize(("times", "told"), [(1000.0, "e+03 m"), (0.001, "0.00")])
    def test_depth_in_another_unit(self, found: ForestMap, queries: list[Query], times: float, told: str) -> None:
        assert queries[0].depth_m is not None and found.usual_depth_m is not None
        reason = self.reason(found, replace(queries[0], depth_m=queries[0].depth_m * np.float32(times)))
        assert told in reason and f"{found.usual_depth_m:.3g} m in training; is it in metres?" in reason

    def test_depth_of_another_camera_gives_no_pose_or_nearly_the_right_one(
        self, found: ForestMap, queries: list[Query], room_scene: Scene
    ) -> None:
        """As raw depth of 7-Scenes taken for registered: another focal length, a thumb's breadth beside."""
        depth_camera = replace(queries[0].camera, fx=1.114 * queries[0].camera.fx, fy=1.114 * queries[0].camera.fy)
        depth_from_cam = Pose.exp([0.0, 0.0, 0.0, 0.025, 0.0, 0.0])
        for query, truth in zip(queries, truths(room_scene), strict=True):
            assert query.depth_m is not None
            raw_m = register_depth(query.depth_m, DepthSensor(query.camera, depth_from_cam), depth_camera)
            (estimate,) = found.localize([replace(query, depth_m=raw_m)])
            if estimate.world_from_cam is None:
                assert estimate.reason is not None and "100 needed" in estimate.reason
            else:
                assert pose_error(estimate.world_from_cam, truth).distance < 0.5
            registered_m = register_depth(raw_m, DepthSensor(depth_camera, depth_from_cam.inv), query.camera)
            (estimate,) = found.localize([replace(query, depth_m=registered_m)])
            assert estimate.world_from_cam is not None
            assert pose_error(estimate.world_from_cam, truth).distance < 0.06

    def test_a_textureless_wall(self, found: ForestMap, queries: list[Query]) -> None:
        height, width = queries[0].image.shape[:2]
        image = np.tile(np.linspace(120, 131, width)[None, :, None], (height, 1, 3)).astype(np.uint8)
        wall = replace(queries[0], image=image, depth_m=np.full((height, width), 1.7, np.float32))
        assert "agree on a pose, 100 needed" in self.reason(found, wall)

    def test_noise_and_the_wrong_depth(self, found: ForestMap, queries: list[Query]) -> None:
        noise = np.random.default_rng(0).integers(0, 255, queries[0].image.shape).astype(np.uint8)
        for query in (replace(queries[0], image=noise), replace(queries[0], depth_m=queries[3].depth_m)):
            assert "100 needed" in self.reason(found, query) or "distances" in self.reason(found, query)

    def test_a_refusal_touches_no_other_answer(self, found: ForestMap, queries: list[Query]) -> None:
        alone, among = found.localize(queries[1:2])[0], found.localize([replace(queries[0], depth_m=None), queries[1]])
        assert among[1].world_from_cam == alone.world_from_cam


class TestMapFolder:
    def test_it_answers_the_same_after_it_was_saved(
        self, found: ForestMap, queries: list[Query], tmp_path: Path
    ) -> None:
        assert isinstance(found, Localizer)
        found.save(tmp_path / "map")
        after = ForestMap.load(tmp_path / "map")
        for a, b in zip(found.localize(queries), after.localize(queries), strict=True):
            assert a.world_from_cam == b.world_from_cam and a.inliers == b.inliers
        after.save(tmp_path / "again")
        for name in ("map.json", "weights.safetensors"):
            assert (tmp_path / "map" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    def test_it_is_small(self, found: ForestMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        (stage,) = found.stages
        modes = sum(len(leaves.place) for leaves in stage.leaves)
        nodes = sum(len(tree.divides) for tree in stage.trees)
        assert map_bytes(tmp_path / "map") < 19 * modes + 5 * nodes + 20_000

    def test_a_damaged_folder_is_named(self, found: ForestMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        weights, told = tmp_path / "map" / "weights.safetensors", tmp_path / "map" / "map.json"
        tensors = load_file(weights)
        save_file({key: value for key, value in tensors.items() if key != "0.1.probe"}, weights)
        with pytest.raises(FormatError, match=r"no tensor 0\.1\.probe"):
            ForestMap.load(tmp_path / "map")
        row = json.loads(told.read_text())
        del row["extra"]["canonical_camera"]
        told.write_text(json.dumps(row))
        with pytest.raises(FormatError, match=r"map\.json: damaged"):
            ForestMap.load(tmp_path / "map")


class TestBuild:
    def test_the_same_seed_makes_the_same_files(self, found: ForestMap, room_scene: Scene, tmp_path: Path) -> None:
        found.save(tmp_path / "first")
        build(room_scene).save(tmp_path / "second")
        for name in ("map.json", "weights.safetensors"):
            assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()

    def test_moving_the_world_moves_every_answer(
        self, found: ForestMap, room_scene: Scene, queries: list[Query]
    ) -> None:
        moved_from_world = Pose.exp([0.4, -1.1, 0.7, 5.0, -3.0, 2.0])
        similarity = Similarity(1.0, moved_from_world.rotation, moved_from_world.translation)
        moved = build(align_scene(room_scene, similarity, metric=True, note="moved"))
        for before, after in zip(found.localize(queries), moved.localize(queries), strict=True):
            assert before.world_from_cam is not None
            error = pose_error(after.world_from_cam, moved_from_world @ before.world_from_cam)
            assert error.distance < 1e-9 and error.angle_deg < 1e-6

    def test_more_trees_know_more(self, found: ForestMap, room_scene: Scene, queries: list[Query]) -> None:
        (stage,) = found.stages
        one = replace(found, stages=(stage.only(np.array([True, False, False])),))
        agreeing = [[e.inliers or 0 for e in forest.localize(queries)] for forest in (one, found)]
        assert np.mean(agreeing[1]) > 1.3 * np.mean(agreeing[0])

    def test_a_scene_without_depth_is_refused(self, room_scene: Scene) -> None:
        bare = tuple(replace(frame, depth=None) for frame in room_scene.frames)
        for scene in (replace(room_scene, frames=bare), replace(room_scene, depth_sensor=None)):
            with pytest.raises(MapError, match="has no depth pictures"):
                build(scene)

    def test_a_scene_of_unknown_scale_is_refused(self, room_scene: Scene) -> None:
        with pytest.raises(MapError, match="is not in metres"):
            build(replace(room_scene, metric=False))

    def test_frames_without_depth_teach_nothing_and_are_told(self, room_scene: Scene) -> None:
        frames = room_scene.split("train").frames[:6]
        scene = replace(room_scene, frames=(replace(frames[0], depth=None), *frames[1:]), points=None)
        log = Remembering()
        Forest(**{**SMALL, "trees": 1}).build(scene, log=log)
        assert log.warned == ["1 of 6 training frames have no depth and teach nothing"]


@pytest.mark.data
def test_real_frames_between_known_ones_are_placed(data_root: Path) -> None:
    from placecell.datasets import seven_scenes

    scene = seven_scenes.read((data_root / "redkitchen").resolve(), labels="kinectfusion")
    part = scene.keep([frame.sequence == "seq-01" for frame in scene.frames])
    known = [index % 5 != 2 for index in range(len(part.frames))]
    found = build(part.keep(known), pixels=800)
    asked = [frame for frame, is_known in zip(part.frames, known, strict=True) if not is_known][::3]
    answers = found.localize([load_query(scene, frame, depth=True) for frame in asked])
    off = np.array([pose_error(a.world_from_cam, f.world_from_cam) for a, f in zip(answers, asked, strict=True)])  # type: ignore[arg-type]
    assert ((off[:, 0] < 0.05) & (off[:, 1] < 5)).mean() >= 0.8
