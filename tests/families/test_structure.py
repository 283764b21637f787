"""The structure map on the rendered room: millimetres, refusals, and pictures turned, cut and resized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.damage import damaged
from placecell.errors import FormatError, MapError
from placecell.estimate import Estimate, Query
from placecell.families.structure import Structure, StructureMap
from placecell.families.structure.building import Evidence, assembled, triangulated
from placecell.families.structure.localizer import _Matched
from placecell.families.structure.near import projected
from placecell.localizer import Localizer, map_bytes, save_map
from placecell.log import Silent
from placecell.pose import Array, Pose, pose_error
from placecell.scene import Scene
from placecell.synthetic import SIZE_M, make_scene

Image = NDArray[np.uint8]


@pytest.fixture
def built(room_map: Callable[[str], Localizer]) -> StructureMap:
    return cast("StructureMap", room_map("structure"))


@pytest.fixture
def truths(room_scene: Scene) -> list[Pose]:
    return [frame.world_from_cam for frame in room_scene.split("test").frames if frame.world_from_cam is not None]


def worst(found: list[Estimate], truths: list[Pose]) -> tuple[float, float]:
    """Largest distance and angle; infinite when one is refused."""
    errors = [pose_error(estimate.world_from_cam, truth) for estimate, truth in zip(found, truths, strict=True)]
    return max(error.distance for error in errors), max(error.angle_deg for error in errors)


def mahalanobis(estimate: Estimate, truth: Pose) -> float:
    assert estimate.world_from_cam is not None and estimate.covariance is not None
    error = (truth.inv @ estimate.world_from_cam).log()
    return float(error @ np.linalg.solve(estimate.covariance, error))


@pytest.mark.parametrize(
    "settings",
    [
        {"features": 0},
        {"neighbours": -3},
        {"runs": 0},
        {"ratio": 1.2},
        {"agreement": 1.0},
        {"radius_px": 0.0},
        {"points": 99},
        {"points": -1},
        {"code_bytes": 24},
        {"words": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"count from 1|between 0 and 1|positive|at least enough|is one of"):
        Structure(**settings)  # type: ignore[arg-type]


class TestAccuracy:
    def test_every_picture_is_placed_to_two_centimetres(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        found = built.localize(room_queries)
        distance, angle_deg = worst(found, truths)
        assert distance < 0.02 and angle_deg < 0.5
        assert np.median([pose_error(e.world_from_cam, t).distance for e, t in zip(found, truths, strict=True)]) < 0.005

    def test_the_covariance_is_of_the_size_of_the_error(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        nees = [mahalanobis(e, t) for e, t in zip(built.localize(room_queries), truths, strict=True)]
        assert 1.0 < np.median(nees) < 20.0  # 6 if all were independent; a tenfold sigma would give 0.06 or 600

    def test_an_answer_has_as_many_inliers_as_it_must(self, built: StructureMap, room_queries: list[Query]) -> None:
        for estimate in built.localize(room_queries):
            assert estimate.inliers is not None and estimate.inliers >= built.family.least

    def test_the_points_lie_on_the_room(self, built: StructureMap) -> None:
        assert len(built.points) > 1000
        outside: Array = np.maximum(-built.points, built.points - np.array(SIZE_M)).max(axis=1)
        assert (outside < 0.1).mean() > 0.97
        # Most features are of the shell, so most points lie on a wall, the floor or the ceiling.
        to_shell = np.minimum(np.abs(built.points), np.abs(built.points - np.array(SIZE_M))).min(axis=1)
        assert np.median(to_shell) < 0.03


class TestRuns:
    """RANSACs after the first, which see halves of the matches."""

    def test_they_widen_the_covariance_alone(self, built: StructureMap, room_queries: list[Query]) -> None:
        many = replace(built, family=replace(built.family, runs=8))
        grown = []
        for near in (False, True):
            priors = built.localize(room_queries)
            asked = [m.localize_near(room_queries, priors) if near else m.localize(room_queries) for m in (built, many)]
            for one, more in zip(*asked, strict=True):
                assert one.world_from_cam == more.world_from_cam
                assert (one.inliers, one.matches) == (more.inliers, more.matches)
                assert one.sigma is not None and more.sigma is not None
                grown.append(more.sigma.distance / one.sigma.distance)
        assert min(grown) > 1.001 and np.median(grown) < 2.5

    def test_a_rival_among_the_first_matches_is_within_what_is_stated(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        """Though the matches that refine the answer, found around it, know nothing of the rival."""
        query, truth = room_queries[0], truths[0]
        rival = truth @ Pose.exp([0.0, 0.2, 0.0, 0.4, 0.0, 0.2])
        there, here = (self.matched(built, query, pose, count) for pose, count in ((rival, 18), (truth, 22)))
        around = self.matched(built, query, truth, 200)
        many = replace(built, family=replace(built.family, runs=30))
        answer = many._refine(around, query, truth)
        mixed = _Matched(*(np.concatenate(both) for both in zip(here, there, strict=True)))
        off = {}
        for name, tried in (("alone", around), ("beside a rival", mixed)):
            found = many._doubted(answer, tried, around, query)
            assert found.world_from_cam == answer.world_from_cam and found.covariance is not None
            off[name] = mahalanobis(Estimate("q", found.world_from_cam, found.covariance), rival)
        assert off["alone"] > 1000 and off["beside a rival"] < 12.6  # 95 % of six dimensions lie within

    @staticmethod
    def matched(built: StructureMap, query: Query, pose: Pose, count: int) -> _Matched:
        """Points of the map, and where a pose sees them, off by half a pixel."""
        near = projected(np.arange(len(built.points)), built.points, query.camera, pose)
        rng = np.random.default_rng(count)
        some = rng.choice(len(near.points), count, replace=False)
        return _Matched(near.points[some], near.pixels[some] + 0.5 * rng.normal(size=(count, 2)))


class TestPicturesMadeOtherwise:
    def test_turned_upside_down_the_camera_is_turned_too(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        turned = [
            replace(
                query,
                image=query.image[::-1, ::-1].copy(),
                camera=replace(
                    query.camera, cx=query.camera.width - query.camera.cx, cy=query.camera.height - query.camera.cy
                ),
            )
            for query in room_queries
        ]
        expected = [truth @ Pose.exp([0, 0, np.pi, 0, 0, 0]) for truth in truths]
        distance, angle_deg = worst(built.localize(turned), expected)
        assert distance < 0.03 and angle_deg < 0.7

    def test_cut_the_camera_is_cut_too(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        cut = [
            replace(
                query,
                image=query.image[30:330, 40:400].copy(),
                camera=query.camera.cropped(40, 30, 360, 300),
                depth_m=None,
            )
            for query in room_queries
        ]
        distance, angle_deg = worst(built.localize(cut), truths)
        assert distance < 0.03 and angle_deg < 0.7

    def test_resized_the_camera_is_resized_too(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        larger = [
            replace(
                query, image=cv2.resize(query.image, (720, 540)), camera=query.camera.resized(720, 540), depth_m=None
            )
            for query in room_queries
        ]
        distance, angle_deg = worst(built.localize(larger), truths)
        assert distance < 0.03 and angle_deg < 0.7

    def test_half_covered_it_is_placed_still(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        covered = [damaged(query, "occluded", 0.4, seed=0) for query in room_queries]
        distance, angle_deg = worst(built.localize(covered), truths)
        assert distance < 0.05 and angle_deg < 1.5


def noise(image: Image) -> Image:
    return np.random.default_rng(0).integers(0, 255, image.shape).astype(np.uint8)


def mirrored(image: Image) -> Image:
    return image[:, ::-1].copy()


def shuffled(image: Image) -> Image:
    """The picture's own pieces, 30 px wide, in random places: every feature is right, no geometry is."""
    tiles = image.reshape(12, 30, 16, 30, 3).swapaxes(1, 2).reshape(-1, 30, 30, 3)
    mixed = np.random.default_rng(0).permutation(tiles)
    return mixed.reshape(12, 16, 30, 30, 3).swapaxes(1, 2).reshape(image.shape).copy()


class TestResolution:
    def test_a_picture_of_twice_the_size_is_looked_at_as_finely(
        self, built: StructureMap, room_queries: list[Query]
    ) -> None:
        sight = built.sight
        usual = room_queries[0].camera
        assert (sight.width, sight.fx / usual.fx) == (round(0.7 * usual.width), pytest.approx(0.7, rel=0.01))
        for query in room_queries[:3]:
            size = (2 * query.camera.width, 2 * query.camera.height)
            large = np.asarray(cv2.resize(query.image, size, interpolation=cv2.INTER_NEAREST), np.uint8)
            (plain,), (found,) = (
                built.localize([query]),
                built.localize([Query("2", large, query.camera.resized(*size))]),
            )
            apart = pose_error(plain.world_from_cam, found.world_from_cam)  # type: ignore[arg-type]
            assert apart.distance < 0.01 and apart.angle_deg < 0.1
            assert plain.inliers is not None and found.inliers is not None
            assert found.inliers == pytest.approx(plain.inliers, rel=0.2)

    @pytest.mark.parametrize("share", [0.0, 1.1, -0.5])
    def test_it_is_a_share(self, share: float) -> None:
        with pytest.raises(ValueError, match="resolution is a share"):
            Structure(resolution=share)


class TestRefusal:
    def test_noise_is_refused(self, built: StructureMap, room_queries: list[Query]) -> None:
        for estimate in built.localize([replace(query, image=noise(query.image)) for query in room_queries]):
            assert estimate.world_from_cam is None
            assert estimate.reason is not None and "matches agree" in estimate.reason

    @pytest.mark.parametrize("spoil", [mirrored, shuffled])
    def test_features_of_the_room_in_the_wrong_places_are_refused(
        self, spoil: Callable[[Image], Image], built: StructureMap, room_queries: list[Query]
    ) -> None:
        # Two of them show the brick wall, which looks the same mirrored: hundreds of features fall where points of it
        # should, once a few have suggested a pose, but only few of those that asked the whole map agree on it.
        for estimate in built.localize([replace(query, image=spoil(query.image)) for query in room_queries]):
            assert estimate.world_from_cam is None
            assert estimate.reason is not None and "matches agree" in estimate.reason

    def test_it_is_the_share_that_agrees_by_which_the_mirrored_wall_is_known(
        self, built: StructureMap, room_queries: list[Query]
    ) -> None:
        built = replace(built, family=replace(built.family, resolution=1.0, max_error_px=6.0))  # sees more that agrees
        trusting = replace(built, family=replace(built.family, agreement=0.0))
        wall = replace(room_queries[4], image=mirrored(room_queries[4].image))
        (fooled,), (found,) = trusting.localize([wall]), built.localize([wall])
        assert fooled.inliers is not None and fooled.inliers > 100
        assert found.reason is not None and int(found.reason.split(", ")[1].split()[0]) > built.family.least

    def test_a_blurred_picture_is_placed_or_refused_never_elsewhere(
        self, built: StructureMap, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        blurred = [damaged(query, "blur", 4.3, seed=0) for query in room_queries]
        found = built.localize(blurred)
        answered = [(e, t) for e, t in zip(found, truths, strict=True) if e.world_from_cam is not None]
        assert 0 < len(answered) < len(found)
        assert all(pose_error(estimate.world_from_cam, truth).distance < 0.1 for estimate, truth in answered)

    def test_the_reason_tells_the_number_found_and_the_number_needed(
        self, built: StructureMap, room_queries: list[Query]
    ) -> None:
        strict = replace(built, family=replace(built.family, least=100_000))
        (estimate,) = strict.localize(room_queries[:1])
        assert estimate.world_from_cam is None
        assert estimate.reason is not None and "100000 needed" in estimate.reason
        assert any(character.isdigit() for character in estimate.reason.split("100000")[0])


@pytest.fixture(scope="module")
def evidence(room_scene: Scene) -> Evidence:
    return triangulated(Structure(), room_scene, seed=0, log=Silent())


SMALLER = {
    "codes": Structure(code_bytes=16),
    "points": Structure(points=800),
    "words": Structure(words=8),
    "no words": Structure(words=0),
    "all of it": Structure(points=600, code_bytes=32, words=0),
}


class TestSmaller:
    def test_the_whole_map_of_the_evidence_is_the_map_that_is_built(
        self, evidence: Evidence, built: StructureMap, room_scene: Scene, tmp_path: Path
    ) -> None:
        built.save(tmp_path / "built")
        assembled(Structure(), room_scene, evidence, seed=0).save(tmp_path / "made")
        first, second = ((tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("built", "made"))
        assert first == second

    @pytest.mark.parametrize("name", SMALLER)
    def test_it_places_pictures_still(
        self, name: str, evidence: Evidence, room_scene: Scene, room_queries: list[Query], truths: list[Pose]
    ) -> None:
        found = assembled(SMALLER[name], room_scene, evidence, seed=0).localize(room_queries)
        distance, angle_deg = worst(found, truths)
        assert distance < 0.03 and angle_deg < 0.7

    @pytest.mark.parametrize("name", SMALLER)
    def test_it_is_smaller_on_disk_and_answers_the_same_after_it_was_saved(
        self,
        name: str,
        evidence: Evidence,
        built: StructureMap,
        room_scene: Scene,
        room_queries: list[Query],
        tmp_path: Path,
    ) -> None:
        small = assembled(SMALLER[name], room_scene, evidence, seed=0)
        small.save(tmp_path / "small")
        built.save(tmp_path / "built")
        sizes = map_bytes(tmp_path / "small"), map_bytes(tmp_path / "built")
        assert sizes[0] < (0.15 if name == "all of it" else 0.9) * sizes[1]
        again = StructureMap.load(tmp_path / "small")
        for before, after in zip(small.localize(room_queries), again.localize(room_queries), strict=True):
            assert before.world_from_cam is not None and after.world_from_cam is not None
            np.testing.assert_array_equal(after.world_from_cam.matrix, before.world_from_cam.matrix)
        again.save(tmp_path / "again")
        for file in ("map.json", "weights.safetensors"):
            assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "small" / file).read_bytes()

    def test_it_keeps_the_points_that_cover_the_pictures(
        self, evidence: Evidence, built: StructureMap, room_scene: Scene
    ) -> None:
        few = assembled(Structure(points=600), room_scene, evidence, seed=0)
        assert len(few.points) == len(few.rgb) == len(few.codes) == 600
        seen, all_seen = np.diff(few.seen_start), np.diff(built.seen_start)
        by_chance = all_seen.min() * 600 / len(built.points)
        assert seen.min() > 1.5 * by_chance
        # What is kept is of the whole map: place, covariance, colour and descriptor belong together.
        apart = np.linalg.norm(built.points[:, None] - few.points[None, ::50], axis=2)
        which = apart.argmin(axis=0)
        assert apart.min(axis=0).max() < 1e-3
        np.testing.assert_array_equal(built.rgb[which], few.rgb[::50])
        np.testing.assert_array_equal(built.codes.code[which], few.codes.code[::50])
        mine = few.places.covariance(np.arange(0, 600, 50))
        np.testing.assert_array_equal(built.places.covariance(which), mine)

    def test_noise_is_refused_by_it_too(self, evidence: Evidence, room_scene: Scene, room_queries: list[Query]) -> None:
        small = assembled(SMALLER["all of it"], room_scene, evidence, seed=0)
        for spoil in (noise, mirrored):
            for estimate in small.localize([replace(query, image=spoil(query.image)) for query in room_queries]):
                assert estimate.world_from_cam is None

    def test_more_points_than_there_are_is_all_of_them(
        self, evidence: Evidence, built: StructureMap, room_scene: Scene
    ) -> None:
        many = assembled(Structure(points=10**7), room_scene, evidence, seed=0)
        np.testing.assert_array_equal(many.points, built.points)

    def test_a_map_of_an_older_version_is_refused_in_one_line(self, built: StructureMap, tmp_path: Path) -> None:
        old: dict[str, NDArray[Any]] = {"points": built.points.astype(np.float32), "descriptors": built.codes.code}
        save_map(tmp_path / "old", built.info, old)
        with pytest.raises(FormatError, match="build the map again"):
            StructureMap.load(tmp_path / "old")


class TestBuild:
    @pytest.mark.parametrize("kind, said", [("rotation", "the camera has to move"), ("single", "3 or more")])
    def test_a_place_that_cannot_be_triangulated_is_refused(self, kind: str, said: str, tmp_path: Path) -> None:
        scene = make_scene(tmp_path / "scene", train=6, test=1, size=(320, 240), kind=kind)  # type: ignore[arg-type]
        with pytest.raises(MapError, match=said):
            Structure().build(scene, device="cpu", seed=0, log=Silent())

    def test_fewer_features_make_a_smaller_map(self, built: StructureMap, room_scene: Scene) -> None:
        poor = Structure(features=200).build(room_scene, device="cpu", seed=0, log=Silent())
        assert 100 < len(poor.points) < 0.5 * len(built.points)

    def test_frames_without_a_pose_are_passed_over(self, room_scene: Scene) -> None:
        """Also in the middle of the others, where a slip would shift pictures against poses."""
        few = Structure(features=300)
        train = room_scene.split("train").frames
        bare = [replace(frame, world_from_cam=None) if index % 3 == 1 else frame for index, frame in enumerate(train)]
        with_bare = few.build(replace(room_scene, frames=tuple(bare), points=None), device="cpu", seed=0, log=Silent())
        kept = tuple(frame for frame in bare if frame.world_from_cam is not None)
        without = few.build(replace(room_scene, frames=kept, points=None), device="cpu", seed=0, log=Silent())
        assert len(kept) == 20
        np.testing.assert_array_equal(with_bare.points, without.points)
        np.testing.assert_array_equal(with_bare.vectors, without.vectors)
