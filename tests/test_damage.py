"""Harder pictures: each law of the light, the views and the truth that goes with them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.damage import LEVELS, Kind, damaged, told, truth
from placecell.estimate import Query
from placecell.pose import Pose, pose_error
from placecell.rendering import render
from placecell.synthetic import room, trajectory

PHONE = Camera(320, 240, 250.0, 255.0, 150.0, 130.0)
LENS = replace(PHONE, model="opencv", distortion=(-0.2, 0.05, 0.001, -0.002))
KINDS: tuple[Kind, ...] = get_args(Kind)
RANDOM: tuple[Kind, ...] = ("night", "noise", "motion-blur", "occluded")
WORLD_FROM_CAM = trajectory("across", 8)[3]

every_kind = pytest.mark.parametrize("kind", KINDS)
cameras = pytest.mark.parametrize("camera", [PHONE, LENS], ids=["pinhole", "lens"])


@pytest.fixture(scope="module")
def query() -> Query:
    """What a phone sees in the synthetic room."""
    return seen(PHONE, WORLD_FROM_CAM)


def seen(camera: Camera, world_from_cam: Pose) -> Query:
    found = render(room(seed=0), camera, world_from_cam)
    return Query("a/1.jpg", found.image, camera, found.depth_m, 2.5)


def flat(value: int, camera: Camera = PHONE) -> Query:
    return Query("flat", np.full((camera.height, camera.width, 3), value, np.uint8), camera)


def dot(pixel: tuple[float, float], camera: Camera = PHONE) -> Query:
    """A bright dot on black, its centre at a fraction of a pixel, at a depth of its own."""
    away = np.linalg.norm(camera.pixel_centres - pixel, axis=-1)
    image = np.repeat((250 * np.exp(-(away**2) / (2 * 2.5**2)))[..., None], 3, axis=2)
    return Query("dot", image.astype(np.uint8), camera, np.where(away < 5, 2.0, np.nan).astype(np.float32))


def centre_of(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def spread_of(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Second moments (2, 2) about the centre."""
    away = np.moveaxis(np.indices(weight.shape)[::-1], 0, -1) + 0.5 - centre_of(weight)
    return np.einsum("hw,hwi,hwj->ij", weight, away, away) / weight.sum()


def light(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    """IEC 61966-2-1, written a second time."""
    share = values / 255.0
    return np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)


class TestAll:
    @every_kind
    def test_level_0_is_the_picture_as_it_was_taken(self, kind: Kind, query: Query) -> None:
        same = damaged(query, kind, 0, seed=0)
        np.testing.assert_array_equal(same.image, query.image)
        np.testing.assert_array_equal(same.depth_m, query.depth_m)
        assert same.camera == query.camera
        assert truth(WORLD_FROM_CAM, kind, 0) == WORLD_FROM_CAM

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("occluded", "jpeg")])
    def test_there_is_no_leap_from_0(self, kind: Kind, query: Query) -> None:
        least = damaged(query, kind, 1e-4, seed=0)
        assert np.abs(least.image.astype(int) - query.image).mean() < 0.2
        assert least.camera.fx == pytest.approx(query.camera.fx, rel=2e-4)

    @every_kind
    def test_every_level_is_a_sound_query_of_the_same_size(self, kind: Kind, query: Query) -> None:
        before = query.image.copy()
        for level in LEVELS[kind]:
            found = damaged(query, kind, level, seed=0)
            assert (found.defect, found.name, found.time_s) == (None, query.name, query.time_s)
            assert found.image.shape == query.image.shape
            assert found.depth_m is not None
            assert found.depth_m.dtype == np.float32
        np.testing.assert_array_equal(query.image, before)

    @every_kind
    def test_a_query_without_depth_stays_without(self, kind: Kind, query: Query) -> None:
        assert damaged(replace(query, depth_m=None), kind, LEVELS[kind][0], seed=0).depth_m is None

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("rotated", "zoomed", "wrong-focal")])
    def test_a_higher_level_is_farther_from_the_picture(self, kind: Kind, query: Query) -> None:
        away = [
            float(np.abs(damaged(query, kind, level, seed=0).image.astype(int) - query.image).mean())
            for level in (0, *LEVELS[kind])
        ]
        assert (np.diff(away) > 0).all(), away

    @every_kind
    def test_it_is_decided_by_the_seed_and_the_name(self, kind: Kind, query: Query) -> None:
        level = LEVELS[kind][1]
        first = damaged(query, kind, level, seed=3)
        again = damaged(query, kind, level, seed=3)
        np.testing.assert_array_equal(first.image, again.image)
        for other in (
            damaged(query, kind, level, seed=4),
            damaged(replace(query, name="\udc80.jpg"), kind, level, seed=3),
        ):
            assert (other.image != first.image).any() == (kind in RANDOM)

    @every_kind
    def test_the_truth_moves_only_when_the_camera_turns(self, kind: Kind) -> None:
        for level in LEVELS[kind]:
            moved = pose_error(truth(WORLD_FROM_CAM, kind, level), WORLD_FROM_CAM)
            assert moved.distance == 0
            assert moved.angle_deg == pytest.approx(level if kind == "rotated" else 0, abs=1e-5)

    @pytest.mark.parametrize(
        ("kind", "level"),
        [("dusk", -1), ("blur", np.nan), ("occluded", 1.1), ("jpeg", 100), ("zoomed", -1), ("rotated", 181)],
    )
    def test_a_level_outside_its_range_is_refused(self, kind: Kind, level: float, query: Query) -> None:
        for refuse in (
            lambda: damaged(query, kind, level, seed=0),
            lambda: truth(WORLD_FROM_CAM, kind, level),
            lambda: told(kind, level),
        ):
            with pytest.raises(ValueError, match=f"{kind} goes from .* not {level:g}"):
                refuse()

    def test_an_unknown_kind_is_told_the_known_ones(self, query: Query) -> None:
        with pytest.raises(ValueError, match="unknown damage 'rain'; known are dusk, night"):
            damaged(query, "rain", 1, seed=0)  # type: ignore[arg-type]

    def test_levels_are_written_with_their_units(self) -> None:
        assert set(LEVELS) == set(KINDS)
        assert told("night", 6.0) == "6 stops"
        assert told("occluded", 0.5) == "50 %"
        assert told("wrong-focal", 0.05) == "+5 %"
        assert told("zoomed", -0.25) == "-25 %"
        assert told("jpeg", 85) == "quality 15"


class TestLight:
    def test_a_stop_halves_the_light_not_the_values(self) -> None:
        # 188 is half of the light of white, and half of that is 137; gamma-encoded values would give 94.
        red, green, blue = damaged(flat(188), "dusk", 1, seed=0).image[0, 0]
        assert green == 137
        assert red < green < blue

    @pytest.mark.parametrize("kind", ["dusk", "night", "noise", "blur", "motion-blur"])
    def test_decoding_and_encoding_lose_nothing(self, kind: Kind) -> None:
        ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None], 3, axis=2)
        image = np.tile(ramp, (2, 2, 1))
        found = damaged(Query("ramp", image, Camera.from_focal(32, 32, 30.0)), kind, 1e-9, seed=0)
        np.testing.assert_array_equal(found.image, image)

    @pytest.mark.parametrize("stops", [1.0, 3.0, 5.0])
    def test_noise_is_that_of_the_electrons_that_are_left(self, stops: float) -> None:
        full_well, read, kept = 6000, 2.5, 0.5**stops
        found = light(damaged(flat(150), "noise", stops, seed=0).image) * full_well
        electrons = light(np.uint8(150)) * full_well  # the flat picture has no noise: binomial, not Poisson
        expected = np.sqrt(electrons * kept * (1 - kept) + read**2 * (1 - kept**2)) / kept
        assert found.mean() == pytest.approx(electrons, rel=0.01)
        assert found.std() == pytest.approx(expected, rel=0.05)

    def test_noise_of_a_noisy_scene_is_poisson(self) -> None:
        """A picture with the shot noise of its light, darkened, has that of the darker light: nothing counts twice."""
        rng, mean, stops = np.random.default_rng(0), 2000, 2.0
        values = np.interp(rng.poisson(mean, (240, 320, 3)) / 6000, light(np.arange(256)), np.arange(256))
        taken = Query("noisy", values.round().astype(np.uint8), PHONE)
        found = light(damaged(taken, "noise", stops, seed=0).image) * 6000 * 0.5**stops
        assert found.mean() == pytest.approx(mean / 4, rel=0.01)
        assert found.var() == pytest.approx(mean / 4, rel=0.05)

    def test_night_is_half_as_dark_in_stops_as_its_light(self) -> None:
        found = light(damaged(flat(200), "night", 4, seed=0).image)
        assert found.mean() == pytest.approx(light(np.uint8(200)) / 4, rel=0.02)
        dusk = light(damaged(flat(200), "dusk", 4, seed=0).image[..., 1])
        assert dusk.mean() == pytest.approx(light(np.uint8(200)) / 16, rel=0.03)

    def test_noise_differs_between_colours_and_pixels(self) -> None:
        found = damaged(flat(128), "noise", 6, seed=0).image.astype(float)
        assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.02
        assert abs(np.corrcoef(found[:, :-1, 0].ravel(), found[:, 1:, 0].ravel())[0, 1]) < 0.02

    def test_a_blurred_edge_is_half_of_the_light(self) -> None:
        image = np.zeros((240, 320, 3), np.uint8)
        image[:, 160:] = 255
        edge = light(damaged(Query("edge", image, PHONE), "blur", 4, seed=0).image[120, 152:168, 0])
        assert edge[7:9].mean() == pytest.approx(0.5, abs=0.01)  # in encoded values it would be 0.21
        np.testing.assert_allclose(edge + edge[::-1], 1.0, atol=0.01)

    def test_blur_widens_a_dot_by_its_deviation(self) -> None:
        still = dot((160.3, 119.6))
        wider = damaged(still, "blur", 4, seed=0)
        before, after = light(still.image[..., 0]), light(wider.image[..., 0])
        assert after.sum() == pytest.approx(before.sum(), rel=0.03)
        np.testing.assert_allclose(spread_of(after) - spread_of(before), 16 * np.eye(2), atol=1.2)
        np.testing.assert_allclose(centre_of(after), centre_of(before), atol=0.05)

    @pytest.mark.parametrize("length", [6.0, 15.5, 40.0])
    def test_motion_draws_a_dot_along_a_line_about_where_it_was(self, length: float) -> None:
        still = dot((160.3, 119.6))
        moved = damaged(still, "motion-blur", length, seed=1)
        before, after = light(still.image[..., 0]), light(moved.image[..., 0])
        across, along = np.linalg.eigvalsh(spread_of(after) - spread_of(before))
        assert along == pytest.approx(length**2 / 12, rel=0.1, abs=0.3)
        assert abs(across) < 0.5
        np.testing.assert_allclose(centre_of(after), centre_of(before), atol=0.1)

    def test_motion_goes_in_every_direction(self) -> None:
        angles = []
        for seed in range(24):
            spread = spread_of(light(damaged(dot((160, 120)), "motion-blur", 30, seed=seed).image[..., 0]))
            angles.append(0.5 * np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]) % np.pi)
        assert np.histogram(angles, 4, (0, np.pi))[0].min() >= 2

    def test_jpeg_keeps_the_colours_in_their_order(self) -> None:
        image = np.zeros((64, 64, 3), np.uint8)
        image[:] = (200, 90, 20)
        found = damaged(Query("flat", image, Camera.from_focal(64, 64, 60.0)), "jpeg", 20, seed=0).image
        assert np.abs(found.astype(int) - image).max() < 6


class TestOccluded:
    @given(share=st.floats(0.05, 1.0), seed=st.integers(0, 50))
    def test_covers_its_share_and_nothing_else(self, share: float, seed: int) -> None:
        shown = replace(flat(0), depth_m=np.ones((240, 320), np.float32))
        found = damaged(shown, "occluded", share, seed=seed)
        assert found.depth_m is not None
        behind = np.isnan(found.depth_m)
        assert behind.mean() == pytest.approx(share, abs=0.01)
        assert (found.image[~behind] == 0).all()
        assert found.image[behind].any(axis=1).mean() > 0.99

    def test_more_covers_what_less_did(self, query: Query) -> None:
        less, more = (damaged(query, "occluded", share, seed=5) for share in (0.3, 0.6))
        assert less.depth_m is not None
        assert more.depth_m is not None
        behind = np.isnan(less.depth_m)
        assert np.isnan(more.depth_m[behind]).all()
        np.testing.assert_array_equal(less.image[behind], more.image[behind])

    def test_what_is_in_front_has_things_to_find(self, query: Query) -> None:
        covered = damaged(query, "occluded", 1.0, seed=0).image
        detector = cv2.SIFT_create()
        assert len(detector.detect(covered, None)) > 100


class TestViews:
    @cameras
    @settings(max_examples=15)
    @given(angle=st.floats(-180, 180), u=st.floats(130, 190), v=st.floats(100, 140))
    def test_a_point_is_where_the_true_pose_of_the_turned_camera_projects_it(
        self, camera: Camera, angle: float, u: float, v: float
    ) -> None:
        point_world = WORLD_FROM_CAM.apply(camera.rays([u, v]) * 2.0)
        found = damaged(dot((u, v), camera), "rotated", angle, seed=0)
        expected = found.camera.project(truth(WORLD_FROM_CAM, "rotated", angle).inv.apply(point_world))
        assert np.abs(centre_of(found.image[..., 0]) - expected).max() < 0.35
        assert found.depth_m is not None
        assert np.abs(centre_of(np.isfinite(found.depth_m).astype(float)) - expected).max() < 0.6

    @cameras
    @settings(max_examples=15)
    @given(added=st.floats(-0.5, 1.0), u=st.floats(130, 170), v=st.floats(115, 140))
    def test_a_point_is_where_the_longer_lens_projects_it(
        self, camera: Camera, added: float, u: float, v: float
    ) -> None:
        found = damaged(dot((u, v), camera), "zoomed", added, seed=0)
        assert found.camera.fx == pytest.approx(camera.fx * (1 + added))
        expected = found.camera.project(camera.rays([u, v]))
        assert np.abs(centre_of(found.image[..., 0]) - expected).max() < 0.35
        assert found.depth_m is not None
        assert np.abs(centre_of(np.isfinite(found.depth_m).astype(float)) - expected).max() < 0.6

    @cameras
    @pytest.mark.parametrize(("kind", "level"), [("rotated", 40.0), ("rotated", -90.0), ("zoomed", 0.6)])
    def test_it_is_what_such_a_camera_sees(self, camera: Camera, kind: Kind, level: float) -> None:
        """Against the renderer, which knows nothing of resampling; of the picture and its depth."""
        found = damaged(seen(camera, WORLD_FROM_CAM), kind, level, seed=0)
        expected = seen(found.camera, truth(WORLD_FROM_CAM, kind, level))
        assert found.depth_m is not None
        assert expected.depth_m is not None
        known = cv2.erode(np.isfinite(found.depth_m).astype(np.uint8), np.ones((41, 41))).astype(bool)
        assert known.mean() > 0.3
        # Neither the finest things, which stretching does not bring, nor the vignette, which it moves.
        details = [
            cv2.GaussianBlur(view.astype(np.float32), (0, 0), 2) - cv2.GaussianBlur(view.astype(np.float32), (0, 0), 8)
            for view in (found.image, expected.image)
        ]
        assert np.corrcoef(*(detail[known].ravel() for detail in details))[0, 1] > 0.97
        assert np.median(np.abs(found.depth_m - expected.depth_m)[known]) < 0.01

    def test_beyond_the_picture_there_is_nothing(self) -> None:
        shown = replace(flat(90), depth_m=np.ones((240, 320), np.float32))
        for kind, level in (("rotated", 45.0), ("zoomed", -0.5)):
            found = damaged(shown, kind, level, seed=0)  # type: ignore[arg-type]
            assert found.depth_m is not None
            beyond = cv2.erode(np.isnan(found.depth_m).astype(np.uint8), np.ones((3, 3))).astype(bool)
            assert beyond.mean() > 0.1
            assert (found.image[beyond] == 0).all()

    def test_depth_is_never_mixed_of_two_surfaces(self, query: Query) -> None:
        depth_m = np.where(np.indices((240, 320))[1] % 2 == 0, 1.0, 4.0).astype(np.float32)
        found = damaged(replace(query, depth_m=depth_m), "rotated", 30, seed=0).depth_m
        assert found is not None
        assert set(np.unique(found[np.isfinite(found)])) == {1.0, 4.0}

    def test_a_wrong_focal_length_changes_what_is_told_alone(self, query: Query) -> None:
        found = damaged(query, "wrong-focal", 0.1, seed=0)
        np.testing.assert_array_equal(found.image, query.image)
        assert found.camera == replace(PHONE, fx=PHONE.fx * 1.1, fy=PHONE.fy * 1.1)
