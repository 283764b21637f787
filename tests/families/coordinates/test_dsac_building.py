"""From a scene to a coordinate network: what it starts from, its stages, and what is left to go on from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from conftest import Remembering
from placecell.errors import MapError, PlacecellError
from placecell.families.coordinates.dsac import building, hypotheses
from placecell.families.coordinates.dsac.config import Dsac
from placecell.families.coordinates.dsac.end_to_end import EndToEnd, Scored
from placecell.families.coordinates.dsac.localizer import DsacMap
from placecell.families.coordinates.dsac.reading import chosen
from placecell.images import load_query, write_jpeg
from placecell.pose import pose_error
from placecell.scene import Scene

T = TypeVar("T")


class Told(Remembering):
    """A log that keeps the names of long work, too."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        self.said.append(what)
        yield from items


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without training make no hypotheses, and nobody is to wait for them."""
    monkeypatch.setattr(hypotheses, "MOST_TRIES", 200)


@pytest.fixture(scope="module")
def few(room_scene: Scene) -> Scene:
    """Six neighbouring frames of the room."""
    return room_scene.keep([index < 6 for index in range(36)])


def settings(**changes: Any) -> Dsac:
    small: dict[str, Any] = {"short_side": 72, "width": 16, "epochs": 2.0, "batch": 2, "precision": "fp32"}
    small |= {"end_to_end": 3, "score_steps": 2, "hypotheses": 4, "least": 6}
    return Dsac(**(small | changes))


def build(scene: Scene, *, log: Told | None = None, work: Path | None = None, seed: int = 0, **changes: Any) -> DsacMap:
    return settings(**changes).build(scene, log=log or Told(), work=work, seed=seed)


def same(one: DsacMap, other: DsacMap) -> bool:
    a, b = one.network.state_dict(), other.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def bare(scene: Scene) -> Scene:
    """Poses and pictures alone."""
    frames = tuple(replace(frame, depth=None) for frame in scene.frames)
    return replace(scene, frames=frames, points=None, depth_sensor=None)


class TestChosen:
    def test_all_are_learned_from_or_held_out(self, room_scene: Scene) -> None:
        frames = room_scene.split("train").frames
        learned, held = chosen(settings(validation=0.2), room_scene)
        assert sorted(frame.name for frame in learned + held) == [frame.name for frame in frames] and held
        fewer, as_many = chosen(settings(validation=0.2, frames=5), room_scene)
        assert as_many == held and len(fewer) == 5

    def test_with_depth_only_frames_with_depth(self, few: Scene) -> None:
        frames = (replace(few.frames[0], depth=None), *few.frames[1:])
        scene = replace(few, frames=frames)
        assert len(chosen(settings(rgbd=True), scene)[0]) == 5
        assert len(chosen(settings(), scene)[0]) == 6

    @pytest.mark.parametrize(
        "start, flaw, told",
        [
            ("depth", "bare", "no depth pictures to start from; try --start points or --start reprojection"),
            ("points", "bare", "no points to start from; try --start reprojection"),
            ("depth", "not metric", "not in metres, as its depth is; align it, or try --start points"),
            ("reprojection", "no poses", "no posed training frame"),
        ],
    )
    def test_what_is_missing_is_told(self, start: str, flaw: str, told: str, few: Scene) -> None:
        scene = {
            "bare": bare(few),
            "not metric": replace(few, metric=False),
            "no poses": replace(few, frames=tuple(replace(frame, world_from_cam=None) for frame in few.frames)),
        }[flaw]
        with pytest.raises(MapError, match=told) as caught:
            build(scene, start=start)
        assert "\n" not in str(caught.value) and few.name in str(caught.value)


class TestStages:
    @pytest.mark.parametrize("start", ["depth", "points", "reprojection"])
    def test_every_start_makes_a_map(self, start: str, few: Scene) -> None:
        scene = bare(few) if start == "reprojection" else few
        found = build(scene, start=start)
        assert list(found.logs) == ["start", "end-to-end"] and found.unfinished is None
        rows = {name: log.splitlines() for name, log in found.logs.items()}
        assert rows["start"][0].startswith("step,loss,within_10px") and len(rows["start"]) == 1 + 6
        assert rows["end-to-end"][0].startswith("step,loss,best,entropy,lost") and len(rows["end-to-end"]) == 1 + 3

    def test_a_start_knows_what_it_starts_from(self, few: Scene) -> None:
        """Points and depth put the middle of the network where the room is, not before its cameras."""
        middles = [build(few, start=start, end_to_end=0).network.get_buffer("middle") for start in ("depth", "points")]
        assert few.points is not None
        anchor = build(few, end_to_end=0).anchor
        seen = few.points.points_world[np.unique(few.points.seen_point)]
        middle = anchor.world_from_anchor.inv.apply(seen).mean(axis=0)
        for found in middles:
            assert np.linalg.norm(found.numpy() - middle) < 0.5 * np.linalg.norm(seen.std(axis=0))

    @pytest.mark.slow
    @pytest.mark.parametrize("rgbd", [False, True])
    def test_learns_a_few_frames_by_heart(self, rgbd: bool, few: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hypotheses, "MOST_TRIES", 50_000)
        still: dict[str, Any] = {"turn_deg": 0.0, "zoom": 1.0, "colour": 0.0, "learning_rate": 3e-3}
        found = build(few, rgbd=rgbd, short_side=96, width=32, epochs=150.0, batch=3, end_to_end=30, **still)
        errors = []
        for frame in few.frames:
            (estimate,) = found.localize([load_query(few, frame, depth=rgbd)])
            assert frame.world_from_cam is not None
            errors.append(pose_error(estimate.world_from_cam, frame.world_from_cam))
        distance, angle = np.median(errors, axis=0)
        assert distance < 0.15 and angle < 4, (distance, angle)

    def test_scores_learn_first_and_alone(self, few: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hypotheses, "MOST_TRIES", 3000)
        begun = build(few, scores="learned", end_to_end=0, score_steps=0)
        scored = build(few, scores="learned", end_to_end=0, score_rate=0.1, max_error_px=60.0)
        again = build(few, scores="learned", end_to_end=0, score_steps=0, max_error_px=60.0)
        assert list(begun.logs) == ["start"] and list(scored.logs) == ["start", "scores"]
        one, other = scored.network, again.network
        assert isinstance(one, Scored) and isinstance(other, Scored)
        a, b = one.coordinates.state_dict(), other.coordinates.state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert any(not torch.equal(x, y) for x, y in zip(one.score.parameters(), other.score.parameters(), strict=True))
        assert all(parameter.requires_grad for parameter in one.parameters())

    def test_poses_move_the_coordinates(self, few: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hypotheses, "MOST_TRIES", 3000)
        told: dict[str, Any] = {"max_error_px": 60.0, "average": 0.0}
        assert not same(build(few, end_to_end=0, **told), build(few, **told))

    def test_validation_is_of_poses(self, few: Scene) -> None:
        found = build(few, validation=0.3)
        assert found.logs["end-to-end"].splitlines()[0].endswith("val_cm,val_deg")
        assert set(found.info.extra["validation"]) == {"cm", "deg"}
        _, held = chosen(settings(validation=0.3), few)
        assert held and [frame.name for frame in found.info.unseen(few)] == [frame.name for frame in held]

    def test_the_seed_decides(self, few: Scene) -> None:
        one, again, other = (build(few, seed=seed) for seed in (0, 0, 1))
        assert same(one, again) and one.logs == again.logs and not same(one, other)

    def test_it_draws_from_no_generator_of_others(self, few: Scene) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        build(few)
        assert torch.equal(torch.get_rng_state(), before)

    def test_blank_pictures_among_others_are_left_out_and_told(self, few: Scene, tmp_path: Path) -> None:
        write_jpeg(tmp_path / "black.jpg", np.zeros((360, 480, 3), np.uint8))
        frames = (*few.frames[:5], replace(few.frames[5], image=str(tmp_path / "black.jpg")))
        log = Told()
        found = build(replace(few, frames=frames, points=None), log=log)
        assert log.warned == [f"1 of 6 pictures are blank and teach nothing: {frames[5].name}, …"]
        assert len(found.logs["start"].splitlines()) == 1 + 5


class TestWork:
    @pytest.mark.parametrize("stage", ["start", "end-to-end"])
    def test_an_interrupted_one_makes_a_map_and_goes_on_to_the_same(
        self, stage: str, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = build(few, end_to_end=8)
        task = EndToEnd if stage == "end-to-end" else building.Initial
        batch = task.batch

        def stopped(task: Any, step: int, rank: int = 0, ranks: int = 1) -> Any:
            if step == 4:
                raise KeyboardInterrupt
            return batch(task, step, rank, ranks)

        with monkeypatch.context() as patch:
            patch.setattr(task, "batch", stopped)
            part = build(few, end_to_end=8, work=tmp_path / "work")
        assert part.unfinished is not None
        assert re.fullmatch(rf"training stopped after step \d of its stage {stage}", part.unfinished)
        assert list(part.logs)[-1] == stage
        log = Told()
        resumed = build(few, end_to_end=8, work=tmp_path / "work", log=log)
        assert resumed.unfinished is None and "decoding pictures" not in log.said
        assert same(resumed, whole) and resumed.logs == whole.logs

    @pytest.mark.parametrize(
        "other, told", [("scene", "scene was"), ("settings", "width was 16"), ("seed", "seed was")]
    )
    def test_of_another_training_is_refused(self, other: str, told: str, few: Scene, tmp_path: Path) -> None:
        build(few, work=tmp_path / "work", end_to_end=0)
        scene = replace(few, name="cellar") if other == "scene" else few
        changes: dict[str, Any] = {"settings": {"width": 24}, "seed": {"seed": 3}}.get(other, {})
        with pytest.raises(PlacecellError, match=told) as caught:
            build(scene, work=tmp_path / "work", end_to_end=0, **changes)
        assert "\n" not in str(caught.value)

    def test_a_folder_of_something_else_is_refused(self, few: Scene, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(PlacecellError, match=r"thesis\.txt"):
            build(few, work=tmp_path)

    def test_without_one_nothing_is_left(self, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        build(few)
        assert list(tmp_path.iterdir()) == []
