from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_array_equal

from conftest import SceneMaker
from placecell.errors import FormatError
from placecell.points import PointCloud, read_points, write_points


@pytest.fixture
def points(scene_of: SceneMaker) -> PointCloud:
    found = scene_of().points
    assert found is not None
    return found


def assert_same(a: PointCloud | None, b: PointCloud) -> None:
    assert a is not None
    for key in ("points_world", "rgb", "seen_point", "seen_frame", "seen_px"):
        mine, theirs = getattr(a, key), getattr(b, key)
        assert mine.dtype == theirs.dtype, key
        assert_array_equal(mine, theirs, err_msg=key)


def test_round_trip(points: PointCloud, tmp_path: Path) -> None:
    write_points(points, tmp_path)
    assert_same(read_points(tmp_path), points)


def test_round_trip_without_observations_and_without_points(points: PointCloud, tmp_path: Path) -> None:
    bare = PointCloud.bare(points.points_world, points.rgb)
    write_points(bare, tmp_path)
    assert not (tmp_path / "tracks.safetensors").exists()
    assert_same(read_points(tmp_path), bare)
    none = PointCloud.bare(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    write_points(none, tmp_path)
    assert_same(read_points(tmp_path), none)


def test_a_folder_without_points_has_none(tmp_path: Path) -> None:
    assert read_points(tmp_path) is None


def test_arrays_that_are_views_are_written_in_their_order(points: PointCloud, tmp_path: Path) -> None:
    flipped = replace(
        points,
        points_world=points.points_world[::-1],
        seen_point=points.seen_point[::-1],
        seen_frame=points.seen_frame[::-1],
        seen_px=np.asfortranarray(points.seen_px)[::-1],
    )
    write_points(flipped, tmp_path)
    assert_same(read_points(tmp_path), flipped)


def test_another_program_reads_the_same_ply(points: PointCloud, tmp_path: Path) -> None:
    write_points(points, tmp_path)
    model = pycolmap.Reconstruction()
    model.import_PLY(str(tmp_path / "points.ply"))
    theirs = {tuple(np.float32(point.xyz)): tuple(point.color) for point in model.points3D.values()}
    assert theirs == {
        tuple(np.float32(xyz)): tuple(rgb) for xyz, rgb in zip(points.points_world, points.rgb, strict=True)
    }


def test_each_frame_tells_which_points_it_sees(points: PointCloud) -> None:
    seen = points.seen_by(5)
    assert len(seen) == 5 and len(seen[4]) == 0
    for frame, found in enumerate(seen[:4]):
        assert_array_equal(np.sort(found), [point for point in range(6) if point % 4 != frame])


def test_observations_follow_the_frames_that_stay(points: PointCloud) -> None:
    kept = points.keep_frames(np.array([False, True, False, True]))
    before = {
        (int(p), {1: 0, 3: 1}[int(f)], tuple(px))
        for p, f, px in zip(points.seen_point, points.seen_frame, points.seen_px, strict=True)
        if f in (1, 3)
    }
    after = {
        (int(p), int(f), tuple(px)) for p, f, px in zip(kept.seen_point, kept.seen_frame, kept.seen_px, strict=True)
    }
    assert after == before
    assert len(kept) == len(points)


@pytest.mark.parametrize(
    "change",
    [
        {"rgb": np.zeros((2, 3), np.uint8)},
        {"seen_frame": np.zeros(1, np.int32)},
        {"seen_px": np.zeros((3, 3), np.float32)},
        {"points_world": np.zeros((6, 2))},
        {"points_world": np.zeros((3, 3)), "rgb": np.zeros((3, 3), np.uint8)},
    ],
)
def test_what_does_not_fit_together_is_refused(points: PointCloud, change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="points"):
        replace(points, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["points.ply", "tracks.safetensors"])
def test_every_truncation_is_told(points: PointCloud, tmp_path: Path, name: str) -> None:
    write_points(points, tmp_path)
    whole = (tmp_path / name).read_bytes()
    for length in (0, 3, len(whole) // 3, len(whole) - 15, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(FormatError, match=f"{name}: .*make the scene again"):
            read_points(tmp_path)


def test_a_foreign_ply_is_told(points: PointCloud, tmp_path: Path) -> None:
    write_points(points, tmp_path)
    whole = (tmp_path / "points.ply").read_bytes()
    for old, new in ((b"little", b"big"), (b"float z", b"float w"), (b"vertex 6", b"vertex x"), (b"vertex 6", b"v 6")):
        (tmp_path / "points.ply").write_bytes(whole.replace(old, new))
        with pytest.raises(FormatError, match="not a PLY file of placecell"):
            read_points(tmp_path)


def test_tracks_of_points_that_are_not_there_are_told(points: PointCloud, tmp_path: Path) -> None:
    write_points(points, tmp_path)
    write_points(PointCloud.bare(points.points_world[:2], points.rgb[:2]), tmp_path)
    with pytest.raises(FormatError, match=r"tracks\.safetensors"):
        read_points(tmp_path)
