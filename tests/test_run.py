"""The run folder: answers in order, interrupted runs that go on as if nothing had happened, nothing overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pytest

from placecell.camera import Camera
from placecell.errors import FormatError, ImageError, PlacecellError, SceneError
from placecell.estimate import Estimate, Query, dump_predictions, read_predictions
from placecell.localizer import MapInfo, map_fingerprint, save_map
from placecell.log import Silent
from placecell.pose import Pose
from placecell.run import Asked, RunInfo, asked_of, localize_all, localize_into
from placecell.scene import Scene

T = TypeVar("T")

CAMERA = Camera.from_focal(64, 48, 50.0)
NAMES = [f"{index:02d}.jpg" for index in range(40)]


class Stopwatch:
    """A localizer whose answer depends on the picture alone; it can be made to stop after some answers."""

    def __init__(self, stop_after: int | None = None, error: BaseException | None = None) -> None:
        self.seen: list[str] = []
        self.stop_after, self.error = stop_after, error

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        if self.error is not None and self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise self.error
        self.seen += [query.name for query in queries]
        return [self._answer(query) for query in queries]

    @staticmethod
    def _answer(query: Query) -> Estimate:
        shade = int(query.image[0, 0, 0])
        if shade % 7 == 0:
            return Estimate.refusal(query.name, "too dark")
        pose = Pose.exp([0.01 * shade, 0.2, 0.0, shade / 3, 0.0, 1.0])
        return Estimate(query.name, pose, np.eye(6) * shade, inliers=shade, seconds=0.25)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        raise NotImplementedError


def picture(name: str) -> Asked:
    shade = NAMES.index(name) + 1
    return Asked(name, lambda: Query(name, np.full((48, 64, 3), shade, np.uint8), CAMERA), state=f"{shade}")


def unreadable(name: str) -> Asked:
    def load() -> Query:
        raise ImageError(f"{name}: damaged; copy it again")

    return Asked(name, load)


ASKED = [picture(name) for name in NAMES]


@pytest.fixture
def map_folder(tmp_path: Path) -> Path:
    return make_map(tmp_path / "map")


def make_map(folder: Path, seed: int = 0) -> Path:
    save_map(folder, MapInfo("structure", {}, "room", "0" * 16, "by hand", True, seed), {})
    return folder


def run(folder: Path, map_folder: Path, localizer: Stopwatch, **options: Any) -> list[Estimate]:
    settings: dict[str, Any] = {"asked": ASKED, "scene": None, "threads": 2, "log": Silent()} | options
    return localize_into(folder, localizer, map_folder, settings.pop("asked"), **settings)


def interrupted(folder: Path, map_folder: Path, after: int = 16) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, map_folder, Stopwatch(after, KeyboardInterrupt()))


class TestLocalizeAll:
    def test_answers_are_those_of_the_localizer_in_order(self) -> None:
        found = list(localize_all(Stopwatch(), ASKED, at_once=7))
        assert dump_predictions(found) == dump_predictions([Stopwatch._answer(item.load()) for item in ASKED])

    def test_a_picture_that_cannot_be_read_gets_a_reason_and_the_rest_goes_on(self) -> None:
        asked = [ASKED[0], unreadable("bad.jpg"), ASKED[1], unreadable("worse.jpg")]
        found = list(localize_all(Stopwatch(), asked, at_once=3))
        assert [estimate.name for estimate in found] == ["00.jpg", "bad.jpg", "01.jpg", "worse.jpg"]
        assert [estimate.world_from_cam is None for estimate in found] == [False, True, False, True]
        assert found[1].reason == "bad.jpg: damaged; copy it again"

    def test_pictures_are_loaded_when_their_turn_comes(self) -> None:
        loaded: list[str] = []

        def spied(item: Asked) -> Asked:
            return replace(item, load=lambda: (loaded.append(item.name), item.load())[1])  # type: ignore[func-returns-value]

        answers = localize_all(Stopwatch(), [spied(item) for item in ASKED], at_once=4)
        assert loaded == []
        next(answers)
        assert loaded == NAMES[:4]


class TestFinishedRun:
    def test_holds_the_answers_and_what_made_them(self, tmp_path: Path, map_folder: Path) -> None:
        scene = {"name": "room", "fingerprint": "0" * 16, "labels": "by hand", "split": "test"}
        found = run(tmp_path / "run", map_folder, Stopwatch(), scene=scene, threads=3)
        assert (tmp_path / "run" / "predictions.jsonl").read_text() == dump_predictions(found)
        info = RunInfo.load(tmp_path / "run")
        assert info.map == {
            "family": "structure",
            "fingerprint": map_fingerprint(map_folder),
            "scene": "room",
            "scene_fingerprint": "0" * 16,
        }
        assert (info.scene, info.images, info.threads, info.device) == (scene, 40, 3, "cpu")
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["predictions.jsonl", "run.json"]

    def test_is_not_overwritten_unless_asked(self, tmp_path: Path, map_folder: Path) -> None:
        run(tmp_path / "run", map_folder, Stopwatch(), asked=ASKED[:3])
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        with pytest.raises(PlacecellError, match=r"finished run already.*--overwrite"):
            run(tmp_path / "run", map_folder, Stopwatch())
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before

    def test_overwriting_leaves_nothing_of_the_old_one(self, tmp_path: Path, map_folder: Path) -> None:
        run(tmp_path / "run", map_folder, Stopwatch())
        (tmp_path / "run" / "metrics.json").write_text("figures of the old answers")
        localizer = Stopwatch()
        run(tmp_path / "run", map_folder, localizer, asked=ASKED[:2], overwrite=True)
        assert localizer.seen == NAMES[:2]
        assert [estimate.name for estimate in read_predictions(tmp_path / "run" / "predictions.jsonl")] == NAMES[:2]
        assert not (tmp_path / "run" / "metrics.json").exists()

    def test_a_kill_while_overwriting_never_mixes_old_answers_with_new_ones(
        self, tmp_path: Path, map_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = make_map(tmp_path / "other", seed=1)
        steps, remove = 0, Path.unlink
        while True:  # stop before the first removal, then before the second, and so on until none is left to stop at
            folder, left = tmp_path / f"run{steps}", steps
            run(folder, map_folder, Stopwatch(), asked=ASKED[:2])

            def unlink(path: Path, missing_ok: bool = False) -> None:
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                remove(path, missing_ok)

            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", unlink)
                try:
                    run(folder, other, Stopwatch(), asked=ASKED[:2], overwrite=True)
                except KeyboardInterrupt:
                    pass
                else:
                    break
            localizer = Stopwatch()
            run(folder, other, localizer, asked=ASKED[:2], overwrite=True)
            if steps < 4:  # from the fifth on, the new answers are there already
                assert localizer.seen == NAMES[:2]
            assert RunInfo.load(folder).map["fingerprint"] == map_fingerprint(other)
            steps += 1
        assert steps >= 4

    def test_a_kill_just_before_the_end_leaves_it_finished(self, tmp_path: Path, map_folder: Path) -> None:
        folder, marks = tmp_path / "run", list[bytes]()

        class Watching(Silent):
            def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
                marks.append((folder / "unfinished.json").read_bytes())
                yield from items

        run(folder, map_folder, Stopwatch(), log=Watching())
        (folder / "unfinished.json").write_bytes(marks[0])
        with pytest.raises(PlacecellError, match="finished run already"):
            run(folder, map_folder, Stopwatch())
        assert RunInfo.load(folder).images == 40
        localizer = Stopwatch()
        run(folder, map_folder, localizer, overwrite=True)
        assert localizer.seen == NAMES

    @pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"predictions.jsonl": "mine"}])
    def test_a_folder_of_something_else_is_left_alone(
        self, content: dict[str, str], tmp_path: Path, map_folder: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        for name, text in content.items():
            (tmp_path / "run" / name).write_text(text)
        with pytest.raises(PlacecellError, match="not a run; name another folder"):
            run(tmp_path / "run", map_folder, Stopwatch())
        assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == content

    def test_a_file_in_its_place_is_left_alone(self, tmp_path: Path, map_folder: Path) -> None:
        (tmp_path / "run").write_text("mine")
        with pytest.raises(PlacecellError, match="not a run"):
            run(tmp_path / "run", map_folder, Stopwatch())
        with pytest.raises(PlacecellError):
            run(tmp_path / "run", map_folder, Stopwatch(), overwrite=True)
        assert (tmp_path / "run").read_text() == "mine"

    def test_names_that_are_not_utf8_survive(self, tmp_path: Path, map_folder: Path) -> None:
        name = os.fsdecode(b"caf\xe9 \xe2\x82\xac.jpg")
        asked = [Asked(name, ASKED[0].load), unreadable("\udce9.jpg")]
        run(tmp_path / "run", map_folder, Stopwatch(), asked=asked)
        found = read_predictions(tmp_path / "run" / "predictions.jsonl")
        assert [estimate.name for estimate in found] == ["00.jpg", "\udce9.jpg"]
        assert found[1].reason == "\udce9.jpg: damaged; copy it again"


class TestInterruptedRun:
    @pytest.mark.parametrize("after", [0, 16, 32])
    def test_goes_on_and_ends_as_if_it_had_not_been(self, after: int, tmp_path: Path, map_folder: Path) -> None:
        run(tmp_path / "whole", map_folder, Stopwatch())
        interrupted(tmp_path / "run", map_folder, after)
        localizer = Stopwatch()
        found = run(tmp_path / "run", map_folder, localizer)
        assert localizer.seen == NAMES[after:]
        assert [estimate.name for estimate in found] == NAMES
        whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
        assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == whole
        assert RunInfo.load(tmp_path / "run").images == 40

    @pytest.mark.parametrize("tail", ['{"name": "17.jp', "", '{"name": "17.jpg", "quat_wxyz": null}', "\udcc3"])
    def test_a_line_that_a_kill_cut_is_asked_again(self, tail: str, tmp_path: Path, map_folder: Path) -> None:
        run(tmp_path / "whole", map_folder, Stopwatch())
        interrupted(tmp_path / "run", map_folder)
        with (tmp_path / "run" / "predictions.jsonl").open("ab") as file:
            file.write(tail.encode("utf-8", "surrogateescape"))
        localizer = Stopwatch()
        run(tmp_path / "run", map_folder, localizer)
        assert localizer.seen == NAMES[16:]
        whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
        assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == whole

    def test_goes_on_with_overwrite_too(self, tmp_path: Path, map_folder: Path) -> None:
        run(tmp_path / "run", map_folder, Stopwatch(), asked=ASKED[:3])
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", map_folder, Stopwatch(16, KeyboardInterrupt()), overwrite=True)
        localizer = Stopwatch()
        run(tmp_path / "run", map_folder, localizer, overwrite=True)
        assert localizer.seen == NAMES[16:]

    def changed(self, folder: Path, asked: Sequence[Asked], what: str) -> dict[str, Any]:
        """Options of a run that differs in one thing from the one interrupted."""
        if what == "pictures":
            return {"asked": asked[1:]}
        if what == "order":
            return {"asked": [*asked[1:], asked[0]]}
        if what == "content":
            return {"asked": [replace(asked[0], state="newer"), *asked[1:]]}
        return {"scene": {"name": "room", "fingerprint": "1" * 16, "labels": "sfm", "split": "test"}}

    @pytest.mark.parametrize("what", ["pictures", "order", "content", "scene", "map", "version"])
    def test_is_not_continued_by_another(
        self, what: str, tmp_path: Path, map_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupted(tmp_path / "run", map_folder)
        before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
        options: dict[str, Any] = {}
        if what == "map":
            map_folder = make_map(tmp_path / "other", seed=1)
        elif what == "version":
            monkeypatch.setattr("placecell.run.versions", lambda: {"placecell": "0.0"})
        else:
            options = self.changed(tmp_path, ASKED, what)
        with pytest.raises(PlacecellError, match="interrupted run of another"):
            run(tmp_path / "run", map_folder, Stopwatch(), **options)
        assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before
        localizer = Stopwatch()
        found = run(tmp_path / "run", map_folder, localizer, overwrite=True, **options)
        assert len(localizer.seen) == len(found)

    def test_a_first_write_that_was_killed_does_not_block_the_next_run(self, tmp_path: Path, map_folder: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".unfinished.json.host.1.abc.partial").write_text("{")
        assert len(run(tmp_path / "run", map_folder, Stopwatch())) == 40

    def test_answers_out_of_order_are_refused(self, tmp_path: Path, map_folder: Path) -> None:
        interrupted(tmp_path / "run", map_folder)
        path = tmp_path / "run" / "predictions.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([lines[1], lines[0], *lines[2:]]))
        with pytest.raises(FormatError, match=r"predictions\.jsonl: not the answers of this run"):
            run(tmp_path / "run", map_folder, Stopwatch())

    def test_is_told_when_it_goes_on(self, tmp_path: Path, map_folder: Path) -> None:
        told: list[str] = []

        class Spy(Silent):
            def say(self, text: str) -> None:
                told.append(text)

        interrupted(tmp_path / "run", map_folder)
        run(tmp_path / "run", map_folder, Stopwatch(), log=Spy())
        assert told == ["going on after 16 of 40 pictures that an interrupted run answered"]


class TestRunInfo:
    @pytest.fixture
    def finished(self, tmp_path: Path, map_folder: Path) -> Path:
        run(tmp_path / "run", map_folder, Stopwatch(), asked=ASKED[:1])
        return tmp_path / "run"

    def test_an_unfinished_run_is_refused_and_told_how_to_finish(self, tmp_path: Path, map_folder: Path) -> None:
        interrupted(tmp_path / "run", map_folder)
        with pytest.raises(FormatError, match="unfinished; give its placecell localize command again"):
            RunInfo.load(tmp_path / "run")

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="not a run"):
            RunInfo.load(tmp_path / "nothing")

    @pytest.mark.parametrize(
        "change",
        [
            lambda row: row.pop("map"),
            lambda row: row.update(map="structure"),
            lambda row: row["map"].pop("scene_fingerprint"),
            lambda row: row.update(scene={"name": "room"}),
            lambda row: row.update(scene=[1]),
            lambda row: row.update(colour=3),
            lambda row: row.update(format=2),
        ],
    )
    def test_a_damaged_one_is_refused_by_name(self, change: Callable[[dict[str, Any]], Any], finished: Path) -> None:
        row = json.loads((finished / "run.json").read_text())
        change(row)
        (finished / "run.json").write_text(json.dumps(row))
        with pytest.raises(FormatError, match=r"run\.json: .*run localize again"):
            RunInfo.load(finished)

    def test_belongs_to_the_scene_of_its_map_alone(self, finished: Path, room_scene: Scene) -> None:
        info = RunInfo.load(finished)
        of_room = replace(info, map={**info.map, "scene_fingerprint": room_scene.fingerprint})
        of_room.require_scene(room_scene)
        with pytest.raises(SceneError, match="another place, split or ground truth"):
            info.require_scene(room_scene)
        asked_elsewhere = {"name": "x", "fingerprint": "1" * 16, "labels": "sfm", "split": "test"}
        with pytest.raises(SceneError, match="the run was asked with"):
            replace(of_room, scene=asked_elsewhere).require_scene(room_scene)


class TestAskedOf:
    def test_frames_are_asked_with_their_own_cameras(self, room_scene: Scene) -> None:
        frames = room_scene.split("test").frames
        asked = asked_of(room_scene, frames)
        assert [item.name for item in asked] == [frame.name for frame in frames]
        query = asked[2].load()  # not the last one: every item loads its own frame
        assert (query.name, query.camera) == (frames[2].name, room_scene.camera_of(frames[2]))

    def test_a_missing_picture_is_an_image_error(self, room_scene: Scene, tmp_path: Path) -> None:
        (item,) = asked_of(replace(room_scene, root=tmp_path), room_scene.frames[:1])
        with pytest.raises(ImageError, match="not readable"):
            item.load()
