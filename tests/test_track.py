"""A recording, frame by frame."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.estimate import Estimate, Query, estimate_from_json
from placecell.images import write_jpeg
from placecell.live import LiveFrame
from placecell.pose import Pose, pose_error
from placecell.track import Step, ahead, followed, line, live_steps, steps
from placecell.video import write_video

USUAL = Camera.from_focal(64, 48, 55.0)
NOISE = [np.random.default_rng(i).integers(0, 256, (48, 64, 3)).astype(np.uint8) for i in range(6)]


class Here:
    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        return [Estimate(query.name, Pose.exp([0, 0, 0.5, query.camera.fx, 2, 3])) for query in queries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in (1, 2, 10):
        write_jpeg(tmp_path / "photos" / f"{index}.jpg", NOISE[0])
    (tmp_path / "photos" / "3.jpg").write_bytes(b"broken")
    return tmp_path / "photos"


def test_pictures_come_in_natural_order_and_a_bad_one_is_a_refusal(folder: Path) -> None:
    found = list(followed(Here(), steps(folder, USUAL, fps=10)))  # type: ignore[arg-type]
    assert [step.name for step, _ in found] == ["1.jpg", "2.jpg", "3.jpg", "10.jpg"]
    assert [step.time_s for step, _ in found] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [estimate.world_from_cam is None for _, estimate in found] == [False, False, True, False]
    assert "not a picture" in str(found[2][1].reason)


def test_each_so_many_th_keeps_its_time(folder: Path) -> None:
    assert [(s.name, s.time_s) for s in steps(folder, USUAL, every=2, fps=10)] == [("1.jpg", 0.0), ("3.jpg", 0.2)]


def test_a_video_has_numbers_and_times_and_the_maps_camera(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", NOISE, fps=20)
    found = list(steps(tmp_path / "a.mp4", USUAL))
    assert [step.name for step in found] == [f"frame-{index:06d}" for index in range(6)]
    assert [step.time_s for step in found] == pytest.approx([index / 20 for index in range(6)], abs=0.01)
    assert all(step.query is not None and step.query.camera == USUAL for step in found)
    (first, *_) = steps(tmp_path / "a.mp4", USUAL, focal_px=70.0)
    assert first.query is not None and first.query.camera.fx == 70.0


@pytest.mark.parametrize("what", ["nothing there", "empty", "text.txt"])
def test_what_is_no_recording_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ImageError) as caught:
        list(steps(tmp_path / what, USUAL))
    assert what in str(caught.value) and "\n" not in str(caught.value)


def test_the_next_one_is_fetched_meanwhile_and_no_more() -> None:
    fetched, second = [], threading.Event()

    def items() -> Iterator[int]:
        for index in range(5):
            fetched.append(index)
            if index == 1:
                second.set()
            yield index

    taken = ahead(items())
    assert next(taken) == 0
    assert second.wait(5) and len(fetched) <= 3
    assert list(taken) == [1, 2, 3, 4]


def test_what_goes_wrong_while_fetching_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ImageError("the end of the tape")

    with pytest.raises(ImageError, match="tape"):
        list(ahead(items()))


def test_decoding_and_answering_overlap() -> None:
    """An answer that waits for the next frame to be fetched comes; without a thread it would wait for ever."""
    fetched = [threading.Event() for _ in range(4)]

    def frames() -> Iterator[Step]:
        for index, event in enumerate(fetched):
            event.set()
            yield Step(str(index), index / 10, Query(str(index), NOISE[0], USUAL))

    class Waiting(Here):
        def localize(self, queries: Sequence[Query]) -> list[Estimate]:
            following = int(queries[0].name) + 1
            assert following == len(fetched) or fetched[following].wait(10)
            return super().localize(queries)

    assert [step.name for step, _ in followed(Waiting(), frames())] == ["0", "1", "2", "3"]


def test_a_live_frame_is_fetched_when_it_is_needed() -> None:
    answered: list[str] = []

    def frames() -> Iterator[Step]:
        for index in range(4):
            assert len(answered) == index  # none is fetched before the one before it is answered
            yield Step(str(index), 0.0, Query(str(index), NOISE[0], USUAL))

    for step, _ in followed(Here(), frames(), live=True):
        answered.append(step.name)
    assert answered == ["0", "1", "2", "3"]


def test_a_camera_has_numbers_times_and_what_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [LiveFrame(0, 0.0, NOISE[0], 0), LiveFrame(4, 0.13, NOISE[1], 3)]
    monkeypatch.setattr("placecell.track.live_frames", lambda camera: iter(shown))
    first, second = live_steps(0, USUAL)
    assert (first.name, second.name, second.time_s, second.dropped) == ("frame-000000", "frame-000004", 0.13, 3)
    assert second.query is not None and second.query.camera == USUAL
    assert "(3 dropped)" in (line(second, Estimate("x", Pose.identity()), "text") or "")
    assert "(3 dropped)" in (line(second, Estimate.refusal("x", "dark"), "text") or "")


class TestLines:
    step = Step("a.jpg", 1.5, None)
    pose = Pose.exp([0.1, -0.2, 0.5, 1, 2, 3])

    def test_tum_is_read_back_as_the_pose(self) -> None:
        told = line(self.step, Estimate("a.jpg", self.pose), "tum")
        assert told is not None
        time_s, x, y, z, qx, qy, qz, qw = map(float, told.split())
        assert time_s == 1.5
        error = pose_error(Pose.from_quat_wxyz([qw, qx, qy, qz], [x, y, z]), self.pose)
        assert error.distance < 1e-5 and error.angle_deg < 1e-4

    def test_json_is_a_prediction_with_its_time(self) -> None:
        estimate = Estimate("a.jpg", self.pose, np.eye(6), 0.5, 10)
        row = json.loads(line(self.step, estimate, "jsonl") or "")
        assert row.pop("time_s") == 1.5
        assert pose_error(estimate_from_json(row).world_from_cam, self.pose).distance < 1e-9

    def test_a_refusal_is_a_reason_or_no_line(self) -> None:
        estimate = Estimate.refusal("a.jpg", "too dark")
        assert line(self.step, estimate, "tum") is None
        assert "not placed: too dark" in (line(self.step, estimate, "text") or "")
        assert json.loads(line(self.step, estimate, "jsonl") or "")["reason"] == "too dark"
