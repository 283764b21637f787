"""What a map is calibrated on is never what it was built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import Remembering
from placecell.catalog import load_map
from placecell.combine.calibrating import (
    Candidate,
    answers,
    answers_elsewhere,
    built_without,
    calibrated,
    default_threshold,
    folds,
    known_pictures,
    require_alike,
    threshold_of,
    unseen_frames,
)
from placecell.combine.members import info_of
from placecell.errors import FormatError, MapError
from placecell.estimate import Estimate, Query
from placecell.families.retrieval import Retrieval
from placecell.families.structure import Structure
from placecell.images import load_query
from placecell.localizer import MapInfo, load_info, save_map
from placecell.log import Silent
from placecell.metrics import Threshold
from placecell.pose import Pose, pose_error
from placecell.run import Asked
from placecell.scene import Frame, Scene

Maps = Callable[[str], Path]


def map_of(folder: Path, built_from: Scene, **changes: object) -> Path:
    save_map(folder, replace(MapInfo.of(Structure(), built_from, 0), **changes), {"a": np.zeros(1)})  # type: ignore[arg-type]
    return folder


def sequenced(scene: Scene, count: int) -> Scene:
    """The scene, its training frames cut into so many sequences."""
    training = [frame.name for frame in scene.split("train").frames]
    place = {name: f"s{index * count // len(training)}" for index, name in enumerate(training)}
    frames = tuple(replace(frame, sequence=place.get(frame.name, "test")) for frame in scene.frames)
    return replace(scene, frames=frames)


class TestUnseen:
    def test_of_the_scene_it_was_built_from_it_has_seen_all(self, room_scene: Scene, tmp_path: Path) -> None:
        folder = map_of(tmp_path / "map", room_scene)
        with pytest.raises(MapError, match=r"map was built from all 30 posed train frames of scene room, .*--folds 3"):
            unseen_frames(folder, room_scene)
        assert unseen_frames(folder, room_scene, "test") == room_scene.split("test").posed

    def test_of_a_part_it_has_not_seen_the_rest(self, room_scene: Scene, tmp_path: Path) -> None:
        keep = [frame.split == "test" or index % 3 > 0 for index, frame in enumerate(room_scene.frames)]
        folder = map_of(tmp_path / "map", room_scene.keep(keep))
        left = [f for f, kept in zip(room_scene.frames, keep, strict=True) if not kept]
        assert list(unseen_frames(folder, room_scene)) == left

    @pytest.mark.parametrize("change", [{"scene": "office"}, {"labels": "sfm"}, {"metric": False}])
    def test_of_another_scene_or_ground_truth_it_is_refused(
        self, change: dict[str, object], room_scene: Scene, tmp_path: Path
    ) -> None:
        folder = map_of(tmp_path / "map", room_scene, **change)
        with pytest.raises(MapError, match=r"another place, ground truth or scale; calibrate with the scene of") as e:
            unseen_frames(folder, room_scene)
        assert "\n" not in str(e.value)

    def test_a_map_that_does_not_say_has_seen_all_of_its_own_scene_and_perhaps_others(
        self, room_scene: Scene, tmp_path: Path
    ) -> None:
        folder = map_of(tmp_path / "map", room_scene, extra={})
        with pytest.raises(MapError, match="was built from all 30"):
            unseen_frames(folder, room_scene)
        with pytest.raises(MapError, match="does not say which frames it was built from"):
            unseen_frames(folder, room_scene.keep([True] * 20 + [False] * 16))

    def test_a_damaged_list_is_told(self, room_scene: Scene, tmp_path: Path) -> None:
        folder = map_of(tmp_path / "map", room_scene, extra={"seen": "§§"})
        with pytest.raises(FormatError, match=r"extra\.seen is damaged"):
            unseen_frames(folder, room_scene)

    def test_of_maps_together_it_is_what_none_of_them_has_seen(self, room_scene: Scene, tmp_path: Path) -> None:
        rows = range(len(room_scene.frames))
        parts = [room_scene.keep([row % 4 != skipped[0] and row % 5 != 0 for row in rows]) for skipped in ([1], [2])]
        folders = [map_of(tmp_path / f"{index}.map", part) for index, part in enumerate(parts)]
        both = info_of("ensemble", {"how": "mixture"}, folders)
        names = [{frame.name for frame in load_info(folder).unseen(room_scene)} for folder in folders]
        together = {frame.name for frame in both.unseen(room_scene)}
        assert together == names[0] & names[1] and together < names[0] and together < names[1]

    def test_of_maps_of_which_one_does_not_say_it_is_unknown(self, room_scene: Scene, tmp_path: Path) -> None:
        part = room_scene.keep([row % 4 != 1 for row in range(len(room_scene.frames))])
        folders = [map_of(tmp_path / "0.map", part), map_of(tmp_path / "1.map", room_scene, extra={})]
        for both in (folders, folders[::-1]):
            with pytest.raises(MapError, match="does not say which frames"):
                info_of("ensemble", {"how": "mixture"}, both).unseen(room_scene)

    def test_real_families_say_what_they_have_seen(self, room_map_folder: Maps, room_scene: Scene) -> None:
        for name in ("structure", "retrieval"):
            assert load_info(room_map_folder(name)).unseen(room_scene) == room_scene.split("test").posed


class TestAlike:
    def test_other_settings_are_named(self, room_scene: Scene, tmp_path: Path) -> None:
        one, other = map_of(tmp_path / "one", room_scene), tmp_path / "other"
        save_map(other, MapInfo.of(Structure(ratio=0.7), room_scene, 0), {"a": np.zeros(1)})
        with pytest.raises(MapError, match=r"other has ratio 0\.7, .*one has 0\.85: the errors of one say nothing"):
            require_alike(one, load_info(one), other)
        require_alike(one, load_info(one), one)

    def test_another_family_is_named(self, room_scene: Scene, room_map_folder: Maps, tmp_path: Path) -> None:
        one = map_of(tmp_path / "one", room_scene)
        with pytest.raises(MapError, match=r"has family retrieval, .* has structure"):
            require_alike(one, load_info(one), room_map_folder("retrieval"))


class TestFolds:
    @pytest.mark.parametrize("sequences, count", [(6, 3), (5, 2), (1, 3), (2, 4)])
    def test_every_training_frame_is_asked_once_of_a_scene_without_it(
        self, sequences: int, count: int, room_scene: Scene
    ) -> None:
        scene = sequenced(room_scene, sequences)
        parts = folds(scene, count)
        assert len(parts) == count
        asked = [frame.name for _, frames in parts for frame in frames]
        assert sorted(asked) == sorted(frame.name for frame in scene.split("train").frames)
        for rest, frames in parts:
            names = {frame.name for frame in frames}
            assert names and not names & {frame.name for frame in rest.frames}
            assert len(rest.frames) + len(names) == 30
            assert all(frame.split == "train" for frame in rest.frames)

    def test_a_sequence_stays_whole_and_parts_are_spread(self, room_scene: Scene) -> None:
        parts = folds(sequenced(room_scene, 6), 3)
        assert [sorted({f.sequence for f in frames}) for _, frames in parts] == [
            ["s0", "s3"],
            ["s1", "s4"],
            ["s2", "s5"],
        ]

    @pytest.mark.parametrize("count", [0, 1, 31])
    def test_parts_that_cannot_be_are_refused(self, count: int, room_scene: Scene) -> None:
        with pytest.raises(MapError, match=f"--folds {count}: at least 2, and no more than the 30"):
            folds(room_scene, count)

    def test_maps_are_built_without_what_they_are_asked_and_kept(self, room_scene: Scene, tmp_path: Path) -> None:
        scene, log = sequenced(room_scene, 6), Remembering()
        info = MapInfo.of(Retrieval(words=4, dimensions=16), scene, 3)
        found = list(built_without(info, folds(scene, 2), work=tmp_path, device="cpu", log=log))
        assert len(log.said) == 2
        for candidate, folder in zip(found, sorted(tmp_path.iterdir()), strict=True):
            own = load_info(folder)
            assert (own.family, own.config, own.seed) == ("retrieval", info.config, 3)
            assert {f.name for f in candidate.frames} == {f.name for f in own.unseen(scene.split("train"))}
        log.said.clear()
        list(built_without(info, folds(scene, 2), work=tmp_path, device="cpu", log=log))
        assert log.said == []  # taken as they are
        list(built_without(replace(info, seed=4), folds(scene, 2), work=tmp_path, device="cpu", log=log))
        assert len(log.said) == 2


class Exact:
    """Answers with the truth, off by a bit; a picture is known by its first pixel's colour."""

    wants_depth = False

    def __init__(self, scene: Scene) -> None:
        self.truths = {frame.name: frame.world_from_cam for frame in scene.frames}
        self.asked: list[Query] = []

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        self.asked += queries
        rng = np.random.default_rng(len(self.asked))
        sigma = np.array([0.002] * 3 + [0.01] * 3)
        found = []
        for query in queries:
            truth = self.truths.get(query.name)
            error = Pose.exp(rng.normal(size=6) * sigma)
            pose = Pose.identity() if truth is None else truth @ error
            found.append(Estimate(query.name, pose, np.diag(sigma**2), inliers=100))
        return found

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Exact:
        raise NotImplementedError


class TestAsking:
    def test_frames_are_asked_as_taken_with_their_truth(self, room_scene: Scene) -> None:
        asked = Exact(room_scene)
        frames = room_scene.split("train").posed[:4]
        found = list(answers(Candidate(asked, room_scene, frames), log=Silent()))
        assert [item.estimate.name for item in found] == [frame.name for frame in frames]
        for item, frame, query in zip(found, frames, asked.asked, strict=True):
            assert item.truth == frame.world_from_cam
            assert (query.image == load_query(room_scene, frame).image).all()

    def test_damaged_ones_are_others_alike_each_time_and_their_truth_follows(self, room_scene: Scene) -> None:
        frames = room_scene.split("train").posed[:24]
        one, two = Exact(room_scene), Exact(room_scene)
        found = list(answers(Candidate(one, room_scene, frames), seed=0, log=Silent()))
        list(answers(Candidate(two, room_scene, frames), seed=0, log=Silent()))
        for first, second in zip(one.asked, two.asked, strict=True):
            assert (first.image == second.image).all() and first.camera == second.camera
        changed = [
            not np.array_equal(query.image, load_query(room_scene, frame).image)
            for query, frame in zip(one.asked, frames, strict=True)
        ]
        assert all(changed)
        turned = [
            pose_error(item.truth, frame.world_from_cam)
            for item, frame in zip(found, frames, strict=True)
            if frame.world_from_cam is not None
        ]
        assert all(error.distance < 1e-9 for error in turned)
        assert any(error.angle_deg > 10 for error in turned)  # a camera that was turned has another truth

    def test_pictures_of_elsewhere_have_no_truth(self, room_scene: Scene) -> None:
        frame = room_scene.frames[0]
        pictures = [Asked("away", lambda: replace(load_query(room_scene, frame), name="away"))]
        (found,) = answers_elsewhere(Exact(room_scene), pictures, log=Silent())
        assert found.truth is None and found.estimate.name == "away"

    def test_a_picture_that_cannot_be_read_is_left_out(self, room_scene: Scene, tmp_path: Path) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"no picture")
        good = room_scene.split("train").posed[0]
        bad = replace(good, name="bad.jpg", image=str(tmp_path / "bad.jpg"))
        log = Remembering()
        found = list(answers(Candidate(Exact(room_scene), room_scene, (bad, good)), log=log))
        assert [item.estimate.name for item in found] == [good.name]
        assert len(log.warned) == 1 and "bad.jpg" in log.warned[0]

    def test_maps_that_see_vectors_know_their_pictures(self, room_map_folder: Maps, room_scene: Scene) -> None:
        frames = room_scene.split("train").posed
        known = known_pictures(load_map(room_map_folder("retrieval")), room_scene, frames)
        assert known is not None and len(known.vectors) == 30
        assert known_pictures(load_map(room_map_folder("structure")), room_scene, frames) is None


def doubled(scene: Scene) -> tuple[Frame, ...]:
    """Sixty frames out of thirty."""
    frames = scene.split("train").posed
    return (*frames, *frames)


class TestCalibrated:
    def test_learns_from_all_candidates(self, room_scene: Scene) -> None:
        exact = Exact(room_scene)
        frames = room_scene.split("train").posed
        found = calibrated(
            exact,
            room_scene,
            [Candidate(exact, room_scene, frames), Candidate(exact, room_scene, frames[:25])],
            threshold=default_threshold(room_scene),
            damage_seed=None,
            log=Silent(),
        )
        own = found.calibration
        assert (own.frames, own.answered, own.damaged, own.elsewhere) == (55, 55, 0, 0)
        assert own.threshold == Threshold("10cm/5deg", 0.10, 5.0)
        assert 0.5 < np.median(own.scaling.factors) < 1.6

    def test_of_many_frames_some_are_asked(self, room_scene: Scene) -> None:
        exact = Exact(room_scene)
        calibrated(
            exact,
            room_scene,
            [Candidate(exact, room_scene, doubled(room_scene))],
            threshold=default_threshold(room_scene),
            damage_seed=None,
            limit=52,
            log=Silent(),
        )
        assert len(exact.asked) == 52

    def test_few_frames_are_asked_damaged_several_times_each(self, room_scene: Scene) -> None:
        exact = Exact(room_scene)
        candidates = [Candidate(exact, room_scene, doubled(room_scene))]
        found = calibrated(exact, room_scene, candidates, threshold=default_threshold(room_scene), log=Silent())
        assert (found.calibration.frames, found.calibration.damaged) == (60, 300)


class TestThreshold:
    def test_of_a_scene_without_scale_it_is_a_share_of_its_extent(self, room_scene: Scene) -> None:
        found = default_threshold(replace(room_scene, metric=False))
        centres = np.array([f.world_from_cam.translation for f in room_scene.posed if f.world_from_cam])
        assert found.distance_m == pytest.approx(0.02 * np.linalg.norm(np.ptp(centres, axis=0)), rel=0.05)
        assert found.name == f"{found.distance_m:g}units/5deg"

    @pytest.mark.parametrize("distance, name", [(0.05, "5cm/2deg"), (0.005, "0.5cm/2deg"), (2.0, "2m/2deg")])
    def test_its_name_has_units(self, distance: float, name: str) -> None:
        assert threshold_of(distance, 2.0, metric=True) == Threshold(name, distance, 2.0)
