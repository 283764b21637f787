"""Retrieval: the poses of training pictures, and nothing it does not know."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from placecell.errors import FormatError, MissingDevice, MissingExtra
from placecell.estimate import Query
from placecell.families.retrieval import Retrieval, RetrievalMap
from placecell.families.retrieval.describers import Convnet
from placecell.floors import oracle
from placecell.images import load_query, write_jpeg
from placecell.localizer import Localizer, PoseFeatures, Salient
from placecell.log import Silent
from placecell.pose import Pose, mean_pose, pose_error
from placecell.resample import resample
from placecell.scene import Frame, Scene


@pytest.fixture
def built(room_map: Callable[[str], Localizer]) -> RetrievalMap:
    return cast("RetrievalMap", room_map("retrieval"))


def pose_of(frame: Frame) -> Pose:
    assert frame.world_from_cam is not None
    return frame.world_from_cam


def averaging(built: RetrievalMap, top: int) -> RetrievalMap:
    return replace(built, family=replace(built.family, top=top))


def test_a_training_picture_gets_its_own_pose(built: RetrievalMap, room_scene: Scene) -> None:
    train = room_scene.split("train").frames[::5]
    for estimate, frame in zip(built.localize([load_query(room_scene, f) for f in train]), train, strict=True):
        error = pose_error(estimate.world_from_cam, pose_of(frame))
        assert error.distance < 1e-9 and error.angle_deg < 1e-6


def test_an_answer_is_a_training_pose_and_no_better_than_the_oracle(
    built: RetrievalMap, room_scene: Scene, room_queries: list[Query]
) -> None:
    train = [pose_of(frame) for frame in room_scene.split("train").frames]
    asked = room_scene.split("test").frames
    for estimate, best, frame in zip(built.localize(room_queries), oracle(room_scene, asked), asked, strict=True):
        assert min(pose_error(estimate.world_from_cam, pose).distance for pose in train) < 1e-9
        errors = [pose_error(e.world_from_cam, pose_of(frame)) for e in (estimate, best)]
        ours, least = (error.distance + 0.1 * error.angle_deg for error in errors)
        assert ours >= least - 1e-9


def test_a_new_picture_is_found_near_by(built: RetrievalMap, room_scene: Scene, room_queries: list[Query]) -> None:
    """Near by in view: the room is six metres wide, and a wall is seen from anywhere in it."""
    frames = room_scene.split("test").frames
    turned = [
        pose_error(estimate.world_from_cam, pose_of(frame)).angle_deg
        for estimate, frame in zip(built.localize(room_queries), frames, strict=True)
    ]
    assert np.median(turned) < 45.0


def test_it_claims_no_certainty(built: RetrievalMap, room_queries: list[Query]) -> None:
    for estimate in built.localize(room_queries):
        assert estimate.covariance is None and estimate.confidence is None and estimate.inliers is None


def test_the_mean_of_several_lies_among_them(built: RetrievalMap, room_queries: list[Query]) -> None:
    similarity = built.vectors @ built.pose_features(room_queries[:1])[0]
    nearest = np.argsort(-similarity)[:3]
    poses = [Pose.nearest(built.world_from_cam[index]) for index in nearest]
    expected = mean_pose(poses, similarity[nearest])
    (estimate,) = averaging(built, 3).localize(room_queries[:1])
    error = pose_error(estimate.world_from_cam, expected)
    assert error.distance < 1e-6 and error.angle_deg < 1e-4
    (alone,) = built.localize(room_queries[:1])
    assert pose_error(alone.world_from_cam, poses[0]).distance < 1e-9
    assert pose_error(alone.world_from_cam, expected).distance > 1e-3


def test_more_than_there_are_is_all_of_them(built: RetrievalMap, room_queries: list[Query]) -> None:
    count = len(built.vectors)
    (many,), (all_of_them,) = (averaging(built, top).localize(room_queries[:1]) for top in (10_000, count))
    assert many.world_from_cam is not None and many.world_from_cam == all_of_them.world_from_cam


def test_pictures_alike_that_look_opposite_ways_have_no_mean(room_scene: Scene) -> None:
    frame = room_scene.split("train").frames[0]
    behind = pose_of(frame) @ Pose.exp([0, np.pi, 0, 0, 0, 0])
    twins = (frame, replace(frame, name="twin.jpg", world_from_cam=behind))
    scene = replace(room_scene, frames=twins, points=None)
    built = Retrieval(top=2).build(scene, device="cpu", seed=0, log=Silent())
    (estimate,) = built.localize([load_query(room_scene, frame)])
    assert estimate.world_from_cam is None
    assert estimate.reason is not None and "opposite" in estimate.reason


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_pictures_are_enough(room_scene: Scene, room_queries: list[Query], count: int) -> None:
    frames = room_scene.split("train").frames[:count]
    built = Retrieval().build(replace(room_scene, frames=frames, points=None), device="cpu", seed=0, log=Silent())
    (estimate,) = built.localize(room_queries[:1])
    assert min(pose_error(estimate.world_from_cam, pose_of(frame)).distance for frame in frames) < 1e-9


def test_a_blank_training_picture_is_passed_over_with_its_pose(room_scene: Scene, tmp_path: Path) -> None:
    """Where a slip would shift the poses against the vectors."""
    frames = room_scene.split("train").frames[:4]
    blank = np.full((360, 480, 3), 128, np.uint8)
    for index, frame in enumerate(frames):
        write_jpeg(tmp_path / f"{index}.jpg", blank if index == 1 else load_query(room_scene, frame).image)
    scene = replace(
        room_scene,
        frames=tuple(replace(frame, image=f"{index}.jpg") for index, frame in enumerate(frames)),
        root=tmp_path,
        points=None,
    )
    built = Retrieval().build(scene, device="cpu", seed=0, log=Silent())
    assert len(built.vectors) == len(built.world_from_cam) == 3
    for estimate, frame in zip(
        built.localize([load_query(scene, f) for f in scene.frames[2:]]), frames[2:], strict=True
    ):
        assert pose_error(estimate.world_from_cam, pose_of(frame)).distance < 1e-9


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ResNet18 weights that nobody trained, but that are always the same."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from placecell.backbones import backbone

    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file(dict(backbone("resnet18").state_dict()), path)
    return path


@pytest.fixture(scope="module")
def convnet(room_scene: Scene, weights: Path) -> RetrievalMap:
    family = Retrieval(descriptor="convnet", backbone="resnet18", weights=str(weights), dimensions=16)
    return family.build(room_scene, device="cpu", seed=0, log=Silent())


class TestConvnetFeatures:
    def test_a_training_picture_gets_its_own_pose(self, convnet: RetrievalMap, room_scene: Scene) -> None:
        train = room_scene.split("train").frames[::7]
        for estimate, frame in zip(convnet.localize([load_query(room_scene, f) for f in train]), train, strict=True):
            assert pose_error(estimate.world_from_cam, pose_of(frame)).distance < 1e-9

    def test_vectors_are_the_principal_part_of_the_generalised_mean(
        self, convnet: RetrievalMap, room_scene: Scene, weights: Path
    ) -> None:
        """Said again in other words: the unfused network, NumPy, the covariance's eigenvectors."""
        torch = pytest.importorskip("torch")
        from placecell.backbones import MEAN, STD, backbone, load_weights

        assert isinstance(convnet.describer, Convnet)
        with torch.random.fork_rng(devices=[]):
            network = backbone("resnet18").eval()
        load_weights(network, "resnet18", str(weights), log=Silent())
        rows = []
        for frame in room_scene.split("train").frames:
            query = load_query(room_scene, frame)
            image = resample(query.image, query.camera, convnet.describer.camera)
            normal = torch.from_numpy((image / 255.0 - MEAN) / STD).permute(2, 0, 1).float()
            with torch.inference_mode():
                last = list(network(normal[None]).values())[-1][0].numpy().astype(np.float64)
            pooled = np.cbrt((np.maximum(last, 1e-6) ** 3).mean(axis=(1, 2)))
            rows.append(pooled / np.linalg.norm(pooled))
        centred = np.array(rows) - np.mean(rows, axis=0)
        _, axes = np.linalg.eigh(centred.T @ centred)
        found = centred @ axes[:, -16:]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        # Axes are known up to their sign, so compare what is compared: the similarities.
        np.testing.assert_allclose(convnet.vectors @ convnet.vectors.T, found @ found.T, atol=2e-3)

    def test_a_map_answers_the_same_after_it_was_saved(
        self, convnet: RetrievalMap, room_queries: list[Query], tmp_path: Path
    ) -> None:
        convnet.save(tmp_path / "map")
        again = RetrievalMap.load(tmp_path / "map")
        assert again.family == convnet.family and again.info.extra["weights"].startswith("resnet18.safetensors, sha256")
        np.testing.assert_array_equal(again.pose_features(room_queries), convnet.pose_features(room_queries))
        again.save(tmp_path / "again")
        assert (tmp_path / "again" / "map.json").read_bytes() == (tmp_path / "map" / "map.json").read_bytes()

    def test_weights_of_another_backbone_are_refused(self, convnet: RetrievalMap, tmp_path: Path) -> None:
        convnet.save(tmp_path / "map")
        info = tmp_path / "map" / "map.json"
        info.write_text(info.read_text().replace('"backbone": "resnet18"', '"backbone": "resnet34"'))
        with pytest.raises(FormatError, match="build the map again"):
            RetrievalMap.load(tmp_path / "map")

    def test_the_size_and_lens_of_a_picture_do_not_matter(
        self, convnet: RetrievalMap, room_scene: Scene, room_queries: list[Query]
    ) -> None:
        query = room_queries[0]
        lens = replace(query.camera.resized(640, 480), model="opencv", distortion=(-0.1, 0.02, 0.0, 0.0))
        other = Query(query.name, resample(query.image, query.camera, lens), lens)
        first, second = convnet.pose_features([query, other])
        stranger = convnet.pose_features(room_queries[1:2])[0]
        assert first @ second > 0.9 > first @ stranger

    def test_what_shows_nothing_is_refused(self, convnet: RetrievalMap, room_scene: Scene) -> None:
        camera = room_scene.cameras["camera"]
        smooth = np.tile(np.linspace(60, 120, camera.width)[None, :, None], (camera.height, 1, 3)).astype(np.uint8)
        black = np.zeros_like(smooth)
        found = convnet.localize([Query("smooth", smooth, camera), Query("black", black, camera)])
        assert [estimate.reason for estimate in found] == [Convnet.blind, "image is blank"]
        assert np.isnan(convnet.pose_features([Query("smooth", smooth, camera)])).all()

    def test_random_weights_come_from_the_seed(self, room_scene: Scene, room_queries: list[Query]) -> None:
        scene = replace(room_scene, frames=room_scene.split("train").frames[:4], points=None)
        family = Retrieval(descriptor="convnet", backbone="resnet18", weights="none")
        first, same, other = (
            family.build(scene, seed=seed, log=Silent()).pose_features(room_queries[:1]) for seed in (3, 3, 4)
        )
        assert np.array_equal(first, same) and not np.array_equal(first, other)

    def test_without_torch_one_line_tells_what_to_install(
        self, room_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtra, match=r"placecell\[train\]"):
            Retrieval(descriptor="convnet").build(room_scene, log=Silent())

    def test_a_device_that_is_not_there_is_refused(self, room_scene: Scene, weights: Path) -> None:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("it is there")
        family = Retrieval(descriptor="convnet", backbone="resnet18", weights=str(weights))
        with pytest.raises(MissingDevice, match="--device cuda"):
            family.build(room_scene, device="cuda", log=Silent())


def test_vlad_needs_no_torch(room_scene: Scene, room_map_folder: Callable[[str], Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from placecell.catalog import load_map; "
        f"load_map(Path({str(room_map_folder('retrieval'))!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_pose_features_are_what_pictures_are_compared_by(
    built: RetrievalMap, room_scene: Scene, room_queries: list[Query]
) -> None:
    assert isinstance(built, PoseFeatures) and not isinstance(built, Salient)
    train = [load_query(room_scene, frame) for frame in room_scene.split("train").frames[:3]]
    blank = Query("blank", np.zeros((360, 480, 3), np.uint8), room_scene.cameras["camera"])
    found = built.pose_features([*train, blank])
    np.testing.assert_allclose(found[:3], built.vectors[:3], atol=1e-6)
    assert found.dtype == np.float32 and np.isnan(found[3]).all()
    assert built.pose_features([]).shape == (0, built.vectors.shape[1])


@pytest.mark.parametrize("settings", [{"descriptor": "gist"}, {"top": 0}, {"dimensions": 0}])
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"known are|count from 1"):
        Retrieval(**settings)
