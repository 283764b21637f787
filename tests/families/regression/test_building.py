"""From a scene to a trained map: which frames, what is said, what is refused, and what is left to go on from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import Remembering
from families.regression.small import settings as small
from placecell.align import Similarity, align_scene
from placecell.errors import MapError, MissingDevice, PlacecellError
from placecell.families.regression import building, seen
from placecell.families.regression.alignment import Alignment
from placecell.families.regression.building import chosen
from placecell.families.regression.config import Regression
from placecell.families.regression.localizer import RegressionMap
from placecell.families.regression.network import PoseNetwork
from placecell.families.regression.training import RegressionTask
from placecell.images import load_query, write_jpeg
from placecell.points import PointCloud
from placecell.pose import Pose, pose_error
from placecell.scene import Frame, Scene

pytestmark = pytest.mark.usefixtures("patches")
T = TypeVar("T")


class Told(Remembering):
    """A log that keeps the names of long work, too."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        self.said.append(what)
        yield from items


def settings(**changes: Any) -> Regression:
    tiny = {"weights": "none", "hidden": 16, "crop": 0, "epochs": 1.0, "batch": 8, "new_views": 0.0}
    return small(**{**tiny, **changes})


def build(
    scene: Scene, *, log: Told | None = None, work: Path | None = None, seed: int = 0, **changes: Any
) -> RegressionMap:
    return settings(**changes).build(scene, log=log or Told(), work=work, seed=seed)


def with_frames(scene: Scene, frames: Iterable[Frame], **changes: Any) -> Scene:
    return replace(scene, frames=tuple(frames), points=None, **changes)


def same_weights(one: RegressionMap, other: RegressionMap) -> bool:
    a, b = one.network.state_dict(), other.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class TestChosen:
    def test_all_are_learned_from_or_held_out(self, room_scene: Scene) -> None:
        frames = room_scene.split("train").frames
        learned, held = chosen(settings(validation=0.2), frames)
        assert sorted(learned + held) == list(range(30)) and 0 < len(held) <= 15
        assert chosen(settings(validation=0.0), frames) == (list(range(30)), [])

    def test_fewer_are_spread_evenly_over_what_is_not_held_out(self, room_scene: Scene) -> None:
        frames = room_scene.split("train").frames
        rest, held = chosen(settings(validation=0.2), frames)
        learned, same = chosen(settings(validation=0.2, frames=5), frames)
        assert same == held and len(learned) == 5 and set(learned) <= set(rest)
        assert (learned[0], learned[-1]) == (rest[0], rest[-1]) and np.ptp(np.diff(learned)) <= 2
        assert chosen(settings(validation=0.2, frames=500), frames) == (rest, held)


class TestTraining:
    @pytest.mark.slow
    def test_learns_where_pictures_were_taken(self, room_scene: Scene) -> None:
        """A few frames by heart: the map answers these far better than their mean would."""
        few = room_scene.split("train").keep([index < 6 for index in range(30)])
        changes = {
            "turn_deg": (0.0, 0.0, 0.0),
            "colour": 0.0,
            "epochs": 300.0,
            "batch": 6,
            "validation": 0.0,
            "average": 0.9,
        }
        found = build(few, **changes, learning_rate=3e-3, hidden=64)
        errors, floor = [], []
        for frame in few.frames:
            (estimate,) = found.localize([load_query(few, frame)])
            assert frame.world_from_cam is not None
            errors.append(pose_error(estimate.world_from_cam, frame.world_from_cam))
            floor.append(pose_error(found.anchor.world_from_anchor, frame.world_from_cam))
        for part in ("distance", "angle_deg"):
            assert np.median([getattr(e, part) for e in errors]) < 0.2 * np.median([getattr(e, part) for e in floor])

    @pytest.mark.parametrize(
        "changes",
        [
            {"loss": "reprojection", "pretrain": 0.5},
            {"loss": "virtual-points"},
            {"loss": "homography", "rotation": "quaternion"},
            {"loss": "beta", "norm": "l2", "head": "posenet", "auxiliary": True, "dropout": 0.5, "crop": 64},
            {"depth": True, "short_side": 72, "crop": 64},
            {"optimizer": "adagrad", "bias_multiplier": 2.0, "schedule": "step", "average": 0.0},
            {"precision": "bf16", "rotation": "9d", "head": "lstm", "hidden": 64},
        ],
        ids=lambda changes: "-".join(map(str, changes.values())),
    )
    def test_of_every_kind_runs_to_its_end(self, changes: dict[str, Any], room_scene: Scene) -> None:
        found = build(room_scene, **changes)
        (estimate,) = found.localize([load_query(room_scene, room_scene.frames[-1], depth=True)])
        assert estimate.world_from_cam is not None and found.unfinished is None
        rows = found.log_csv.splitlines()
        assert rows[0].startswith("step,loss,distance,angle_deg,learning_rate") and len(rows) == 1 + 3
        assert found.info.extra["steps"] == 3 and found.info.extra["validation"].keys() == {"cm", "deg"}

    def test_of_frames_held_out_the_map_says_that_it_has_not_seen_them(self, room_scene: Scene) -> None:
        scene, config = room_scene.split("train"), settings(validation=0.2)
        _, held = chosen(config, scene.posed)
        assert held and build(scene, validation=0.2).info.unseen(scene) == tuple(scene.posed[i] for i in held)

    def test_the_seed_decides(self, room_scene: Scene) -> None:
        one, again, other = (build(room_scene, seed=seed) for seed in (0, 0, 1))
        assert same_weights(one, again) and one.log_csv == again.log_csv
        assert not same_weights(one, other)

    def test_it_draws_from_no_generator_of_others(self, room_scene: Scene) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        build(room_scene)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_world_far_away_trains_the_same_network(self, room_scene: Scene) -> None:
        moved_from_world = Pose.exp([0.4, -1.1, 0.7, 5e3, -3e3, 2e3])
        moved = with_frames(
            room_scene,
            (
                replace(frame, world_from_cam=moved_from_world @ frame.world_from_cam)
                for frame in room_scene.frames
                if frame.world_from_cam is not None
            ),
        )
        assert same_weights(build(replace(room_scene, points=None)), build(moved))


class TestWork:
    def test_a_finished_training_is_taken_from_it(self, room_scene: Scene, tmp_path: Path) -> None:
        first = build(room_scene, work=tmp_path / "work")
        log = Told()
        assert same_weights(first, build(room_scene, work=tmp_path / "work", log=log))
        assert "decoding pictures" not in log.said

    def test_an_interrupted_one_makes_a_map_and_goes_on_to_the_same(
        self, room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = build(room_scene, epochs=4.0)
        batch = building.RegressionTask.batch

        def stopped(task: building.RegressionTask, step: int, rank: int = 0, ranks: int = 1) -> Any:
            if step == 6:
                raise KeyboardInterrupt
            return batch(task, step, rank, ranks)

        with monkeypatch.context() as patch:
            patch.setattr(building.RegressionTask, "batch", stopped)
            part = build(room_scene, epochs=4.0, work=tmp_path / "work")
        assert part.unfinished is not None and re.fullmatch(r"training stopped after step \d of 14", part.unfinished)
        (estimate,) = part.localize([load_query(room_scene, room_scene.frames[-1])])
        assert estimate.world_from_cam is not None
        resumed = build(room_scene, epochs=4.0, work=tmp_path / "work")
        assert resumed.unfinished is None
        assert same_weights(resumed, whole) and resumed.log_csv == whole.log_csv

    @pytest.mark.parametrize(
        "other, told", [("scene", "scene was"), ("settings", "hidden was 16"), ("seed", "seed was")]
    )
    def test_of_another_training_is_refused(self, other: str, told: str, room_scene: Scene, tmp_path: Path) -> None:
        build(room_scene, work=tmp_path / "work")
        scene = replace(room_scene, name="cellar") if other == "scene" else room_scene
        changes: dict[str, Any] = {"settings": {"hidden": 24}, "seed": {"seed": 3}}.get(other, {})
        with pytest.raises(PlacecellError, match=told) as caught:
            build(scene, work=tmp_path / "work", **changes)
        assert "\n" not in str(caught.value)

    def test_without_one_nothing_is_left(
        self, room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        build(room_scene)
        assert list(tmp_path.iterdir()) == []


ALIGN: dict[str, Any] = {"head": "align", "rotation": "9d", "loss": "virtual-points"}


class TestAlign:
    def test_cells_are_those_of_the_encoders_maps(self, room_scene: Scene) -> None:
        """Which round up or down: of 72 px these make four cells of 16, torchvision's networks five."""
        found = build(room_scene, **ALIGN, short_side=72)
        assert found.network.head.grid == (4, 6) and found.unfinished is None  # type: ignore[union-attr]

    def test_it_begins_in_the_middle_of_the_place_in_any_unit(self, room_scene: Scene) -> None:
        bare = replace(room_scene, frames=tuple(replace(frame, depth=None) for frame in room_scene.frames))
        scale = 2.0**-10
        small = align_scene(bare, Similarity(scale, np.eye(3), np.zeros(3)), metric=False, note="scaled")
        one, other = (build(scene, **ALIGN).network.head for scene in (bare, small))
        assert isinstance(one, Alignment) and isinstance(other, Alignment)
        assert one.middle.norm() > 0.1
        torch.testing.assert_close(other.middle / scale, one.middle, rtol=0.05, atol=0.05)


class TestUnits:
    def test_guessed_depths_follow_the_spread_of_a_scene_that_is_not_metric(self, room_scene: Scene) -> None:
        bare = replace(room_scene, points=None, depth_sensor=None, metric=False)
        similarity = Similarity(100.0, np.eye(3), np.zeros(3))
        ranges = []
        for scene in (bare, align_scene(bare, similarity, metric=False, note="scaled")):
            log = Told()
            build(scene, loss="virtual-points", log=log)
            ranges.append([float(number) for number in re.findall(r"lie ([\d.]+) to ([\d.]+) away", log.warned[0])[0]])
        np.testing.assert_allclose(ranges[1], 100 * np.array(ranges[0]), rtol=1e-4)


def test_depths_are_taken_from_frames_that_are_learned_from(room_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    seen_points = seen.seen_points

    def remembered(scene: Scene, frames: Any, *rest: Any) -> Any:
        asked.extend(frame.name for frame in frames)
        return seen_points(scene, frames, *rest)

    monkeypatch.setattr(seen, "seen_points", remembered)
    build(room_scene, loss="virtual-points", validation=0.3)
    frames = room_scene.split("train").frames
    learned, held = chosen(settings(validation=0.3), frames)
    assert held and asked == [frames[index].name for index in learned]


class TestBadInput:
    def test_no_points_and_no_depth_for_the_reprojection_loss(self, room_scene: Scene) -> None:
        bare = replace(room_scene, points=None, depth_sensor=None)
        with pytest.raises(MapError, match="neither points nor depth for the reprojection loss") as caught:
            build(bare, loss="reprojection")
        assert "\n" not in str(caught.value)

    def test_no_points_and_no_depth_is_told_where_a_guess_will_do(self, room_scene: Scene) -> None:
        log = Told()
        build(replace(room_scene, points=None, depth_sensor=None), loss="homography", log=log)
        assert len(log.warned) == 1 and "things are taken to lie 0.5 to 5" in log.warned[0]

    def test_no_depth_for_a_network_of_two_streams(self, room_scene: Scene) -> None:
        for bare in (
            replace(room_scene, depth_sensor=None),
            with_frames(room_scene, (replace(f, depth=None) for f in room_scene.frames)),
        ):
            with pytest.raises(MapError, match=r"no depth; leave out --depth") as caught:
                build(bare, depth=True)
            assert "\n" not in str(caught.value)

    def test_fewer_frames_than_a_batch_are_all_taken(self, room_scene: Scene) -> None:
        log = Told()
        found = build(room_scene, frames=5, batch=32, epochs=4.0, validation=0.0, log=log)
        assert "5 training frames are fewer than a batch of 32, so a step takes all of them" in log.said
        assert found.info.extra["steps"] == 4

    def test_nothing_to_average_in_a_batch_norm(self, room_scene: Scene) -> None:
        with pytest.raises(MapError, match=r"one picture a step of 32 px.*raise --batch") as caught:
            build(room_scene, batch=1, short_side=32, crop=32, head="posenet", rotation="6d")
        assert "\n" not in str(caught.value)

    def test_one_frame_is_enough(self, room_scene: Scene) -> None:
        found = build(room_scene.split("train").keep([index == 0 for index in range(30)]))
        assert found.anchor.scale == 1.0

    def test_one_pose_repeated_is_told(self, room_scene: Scene) -> None:
        log, frames = Told(), room_scene.split("train").frames
        still = with_frames(room_scene, (replace(frame, world_from_cam=frames[0].world_from_cam) for frame in frames))
        found = build(still, log=log)
        assert len(log.warned) == 1 and "were taken from one place" in log.warned[0]
        assert found.anchor.scale == 1.0

    def test_blank_pictures_among_others_are_left_out_and_told(self, room_scene: Scene, tmp_path: Path) -> None:
        write_jpeg(tmp_path / "black.jpg", np.zeros((360, 480, 3), np.uint8))
        frames = room_scene.split("train").frames[:6]
        spoilt = (*frames[:5], replace(frames[5], image=str(tmp_path / "black.jpg")))
        log = Told()
        found = build(with_frames(room_scene, spoilt), validation=0.0, log=log)
        assert log.warned == [f"1 of 6 pictures are blank and teach nothing: {frames[5].name}, …"]
        assert found.least_detail > 1

    def test_weights_of_another_architecture(self, room_scene: Scene, tmp_path: Path) -> None:
        save_file({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "mobile.safetensors")
        with pytest.raises(PlacecellError, match=r"mobile\.safetensors") as caught:
            build(room_scene, backbone="resnet18", weights=str(tmp_path / "mobile.safetensors"))
        assert "\n" not in str(caught.value)

    def test_an_unknown_backbone(self, room_scene: Scene) -> None:
        with pytest.raises(PlacecellError, match="mobilenet_v2"):
            build(room_scene, backbone="alexnet-2031")

    def test_a_loss_that_is_not_a_number_names_the_frames(self, room_scene: Scene) -> None:
        with pytest.raises(PlacecellError, match=r"nan|inf|not finite") as caught:
            build(room_scene, learning_rate=1e30, epochs=10.0, average=0.0, optimizer="sgd", schedule="constant")
        assert "train/" in str(caught.value) and "\n" not in str(caught.value)

    def test_points_that_no_training_frame_sees_are_none(self, room_scene: Scene) -> None:
        points, frames = room_scene.points, tuple(replace(frame, depth=None) for frame in room_scene.frames)
        assert points is not None
        tested = np.isin(points.seen_frame, range(30, 36))
        observed = (points.seen_point[tested], points.seen_frame[tested], points.seen_px[tested])
        unseen = replace(room_scene, frames=frames, points=PointCloud(points.points_world, points.rgb, *observed))
        log = Told()
        build(unseen, loss="virtual-points", log=log)
        assert len(log.warned) == 1 and "things are taken to lie 0.5 to 5" in log.warned[0]
        with pytest.raises(MapError, match="neither points nor depth"):
            build(unseen, loss="reprojection")

    def test_new_views_of_nothing_are_told_and_not_learned_from(
        self, room_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tasks: list[RegressionTask] = []
        begin = building.begin

        def remembered(network: PoseNetwork, task: RegressionTask) -> None:
            tasks.append(task)
            begin(network, task)

        monkeypatch.setattr(building, "begin", remembered)
        log = Told()
        build(room_scene, new_views=0.5, new_view_distance=1e4, log=log)
        count = round(0.5 * len(tasks[0].learned))
        assert log.warned == [f"{count} of {count} new views show nothing and teach nothing; lower --new-view-distance"]
        assert tasks[0].views is None

    def test_more_devices_than_pictures_in_a_step(self, room_scene: Scene) -> None:
        with pytest.raises(MapError, match="--devices 9 cannot share out 8 pictures a step; lower --devices"):
            build(room_scene, devices=9)

    def test_a_network_that_does_not_fit_into_memory(self, room_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 384 GB.\nError 12")

        monkeypatch.setattr(building, "PoseNetwork", full)
        with pytest.raises(PlacecellError, match=r"^out of memory making the network; lower --hidden$"):
            build(room_scene)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a graphics card")
    def test_a_device_that_is_not_there(self, room_scene: Scene) -> None:
        with pytest.raises(MissingDevice, match="--device cuda: this machine has no such device"):
            settings().build(room_scene, device="cuda", log=Told())
