"""The head of a fast map tuned end to end: what is learned, from what, and that it can be gone on with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from families.coordinates.conftest import patched
from families.coordinates.small import settings
from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import MapError, PlacecellError
from placecell.families.coordinates.buffer import Buffer
from placecell.families.coordinates.dsac import hypotheses
from placecell.families.coordinates.head import Guess
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.coordinates.tuning import PicturesTask, Tuning, tuned
from placecell.images import load_query
from placecell.log import Silent
from placecell.pose import Pose
from placecell.scene import Scene
from placecell.train.loop import Plan, fit
from placecell.train.optimizers import optimizer

CAMERA = Camera.from_focal(160, 120, 130.0)
LOOKS, CELLS = 4, 80


@pytest.fixture(scope="module")
def few(room_scene: Scene) -> Scene:
    return room_scene.keep([index < 6 for index in range(36)])


@pytest.fixture(scope="module")
def built(few: Scene) -> CoordinatesMap:
    """A map that knows a few frames by heart, more or less."""
    still: dict[str, Any] = {"turn_deg": 0.0, "zoom": 1.0, "colour": 0.0, "looks": 1, "samples": 300}
    learner = {"hidden": 64, "epochs": 60.0, "batch": 600, "clusters": 8, "learning_rate": 5e-3}
    with patched():
        return settings(**still, **learner, max_error_px=10.0).build(few, log=Silent())


class Free(nn.Module):
    """A head that knows where each cell lies, errs by numbers that it learns, and says how sure it is of each."""

    def __init__(self, points: Any, wrong: Any, noise: float = 0.03) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        off = noise * rng.normal(size=points.shape) + np.where(wrong[..., None], rng.normal(size=points.shape), 0.0)
        self.points = nn.Parameter(torch.from_numpy(points + off).float().flatten(0, 1))
        self.spread = nn.Parameter(torch.zeros(len(self.points)))

    def forward(self, features_NC: Tensor) -> Guess:
        which = features_NC[:, 0].long()
        return Guess(self.points[which], self.spread[which])


def place(wrong: float = 0.2) -> tuple[Buffer, Any, Any]:
    """A buffer whose feature is the number of the cell; the points of its cells, and which of them are wrong."""
    rng = np.random.default_rng(0)
    poses = [Pose.exp(0.3 * rng.normal(size=6)) for _ in range(LOOKS)]
    kind = [("feature", np.float32, (1,)), ("ray", np.float32, (2,)), ("depth", np.float32)]
    cells = np.zeros((LOOKS, CELLS), kind)
    cells["feature"][..., 0] = np.arange(LOOKS * CELLS).reshape(LOOKS, CELLS)
    rays = CAMERA.rays(rng.uniform((0, 0), (160, 120), (LOOKS, CELLS, 2)))
    cells["ray"] = rays[..., :2]
    seen = rays * rng.uniform(1.5, 3.0, (LOOKS, CELLS, 1))
    points = np.stack([pose.apply(part) for pose, part in zip(poses, seen, strict=True)])
    buffer = Buffer(
        cells=cells,
        names=tuple(f"{index}.jpg" for index in range(LOOKS)),
        rotations=np.stack([pose.rotation for pose in poses]).astype(np.float32),
        centres=np.stack([pose.translation for pose in poses]).astype(np.float32),
        focals_px=np.full(LOOKS, 130.0, np.float32),
        overall=np.zeros((LOOKS, 1), np.float32),
        looks=np.arange(LOOKS),
    )
    return buffer, points, rng.random((LOOKS, CELLS)) < wrong


def task_of(buffer: Buffer, *, share: float = 1.0, **changes: Any) -> PicturesTask:
    from placecell.families.coordinates.dsac.expected import Ransac

    tuning = Tuning(pictures=2, hypotheses=8, **changes)
    return PicturesTask(buffer, tuning, Ransac(hypotheses=8, measure="sum", refine=4), share, 0)


class TestTask:
    def test_a_truth_loses_nothing(self) -> None:
        buffer, points, wrong = place()
        told = task_of(buffer).loss(Free(points, 0 * wrong > 1, noise=0.0), task_of(buffer).batch(0, 0, 1), 0)
        assert told["loss"] < 0.01 and told["lost"] == 0

    def test_every_look_has_its_turn(self) -> None:
        buffer, *_ = place()
        task = task_of(replace(buffer, looks=np.array([0, 2, 3])))
        assert sorted(task.named(0) + task.named(1) + task.named(2)) == sorted(2 * ["0.jpg", "2.jpg", "3.jpg"])
        whole, one, other = (task.batch(5, *rank) for rank in ((0, 1), (0, 2), (1, 2)))
        for key, value in whole.items():
            assert torch.equal(value, torch.cat([one[key], other[key]]))

    def test_a_step_is_repeated_to_the_bit(self) -> None:
        buffer, points, wrong = place()
        task, head = task_of(buffer), Free(points, wrong)
        first, again, other = (task.loss(head, task.batch(step, 0, 1), step)["loss"] for step in (0, 0, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_only_the_surest_cells_take_part(self) -> None:
        buffer, points, wrong = place()
        task, head = task_of(buffer, share=0.5), Free(points, wrong)
        with torch.no_grad():
            head.spread[:] = torch.randn(len(head.spread), generator=torch.Generator().manual_seed(0))
        batch = task.batch(0, 0, 1)
        task.loss(head, batch, 0)["loss"].backward()  # type: ignore[no-untyped-call]
        assert head.points.grad is not None
        for look in batch["features"][..., 0].long():
            surest = set(look[torch.argsort(head.spread[look])[: CELLS // 2]].tolist())
            learned = look[(head.points.grad[look] != 0).any(1)]
            assert len(learned) > 10 and set(learned.tolist()) <= surest

    def test_a_cell_it_is_unsure_of_counts_less(self) -> None:
        """So that what the head says of its errors is what the pose is made by, and is learned by the pose."""
        buffer, points, wrong = place(wrong=0.0)
        task, head = task_of(buffer), Free(points, wrong, noise=0.02)
        off = torch.zeros_like(head.points)
        off[::3, 0] = 0.06
        with torch.no_grad():
            head.points += off
        losses = []
        for doubt in (0.0, 2.0):
            with torch.no_grad():
                head.spread[::3] = doubt
            losses.append(task.loss(head, task.batch(0, 0, 1), 0)["loss"])
        assert losses[1] < 0.8 * losses[0]
        losses[0].backward()  # type: ignore[no-untyped-call]
        assert head.spread.grad is not None and (head.spread.grad != 0).any()

    def test_tuning_betters_the_poses(self) -> None:
        buffer, points, wrong = place()
        task, head = task_of(buffer), Free(points, wrong, noise=0.05)
        with torch.no_grad():
            head.spread[:] = 1.1  # 3 px, which it is

        def loss() -> float:
            with torch.no_grad():
                return float(np.mean([task.loss(head, task.batch(step, 0, 1), step)["loss"] for step in (100, 101)]))

        before = loss()
        fit(
            head,
            task,
            Plan(steps=30, batch=2, clip_norm=10.0, channels_last=False),
            optimizer=lambda net, steps: optimizer(net, "adam", 2e-3, steps=steps),
            work=None,
            identity={},
            log=Silent(),
        )
        assert loss() < 0.6 * before

    def test_lengths_count_as_the_map_has_them(self, built: CoordinatesMap) -> None:
        buffer, *_ = place()
        task = PicturesTask.of(built, buffer, Tuning(degree_cm=2.0), 0)
        assert (task.ransac.cm_per_unit, task.ransac.max_error) == (50.0, 10.0)
        cells = built.camera.width * built.camera.height / 64
        assert_allclose(task.share, min(1.0, built.family.queried / cells))
        units = replace(built, info=replace(built.info, metric=False), anchor=Anchor(Pose.identity(), 4.0))
        assert PicturesTask.of(units, buffer, Tuning(degree_cm=2.0), 0).ransac.cm_per_unit == 12.5


@pytest.mark.usefixtures("patches")
class TestTuned:
    small = Tuning(cells=100, pictures=2, hypotheses=8)

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hypotheses, "MOST_TRIES", 2000)

    def tuned(self, built: CoordinatesMap, few: Scene, steps: int = 4, **told: Any) -> CoordinatesMap:
        told = {"seed": 0, "log": Silent(), "tuning": self.small, **told}
        return tuned(built, few, few.split("train").posed, steps=steps, **told)

    def test_makes_another_map_and_leaves_the_first_alone(self, built: CoordinatesMap, few: Scene) -> None:
        before = {key: value.clone() for key, value in built.head.state_dict().items()}
        judged: list[dict[str, float]] = []

        def judge(head: nn.Module) -> dict[str, float]:
            judged.append({"cm": 1.0, "deg": 2.0})
            return judged[-1]

        found = self.tuned(built, few, judge=judge)
        assert all(torch.equal(before[key], value) for key, value in built.head.state_dict().items())
        assert any(not torch.equal(before[key], value) for key, value in found.head.state_dict().items())
        assert found.info.extra["end_to_end_steps"] == 4 and found.unfinished is None and judged
        assert found.info.extra["end_to_end_validation"] == {"cm": 1.0, "deg": 2.0}
        assert not found.head.training and "end_to_end_steps" not in built.info.extra
        (estimate,) = found.localize([load_query(few, few.frames[0])])
        assert estimate.name == few.frames[0].name

    @pytest.mark.parametrize("learns", ["spread", "all"])
    def test_what_is_to_learn_does(self, learns: Any, built: CoordinatesMap, few: Scene) -> None:
        """Spreads alone leave every cell where it lies, to the bit."""
        found = self.tuned(built, few, tuning=replace(self.small, learns=learns, learning_rate=1e-2, average=0.0))
        features = torch.randn(50, next(built.head.parameters()).shape[1])
        with torch.no_grad():
            before, after = built.head(features), found.head(features)
        assert torch.equal(before.points_N3, after.points_N3) == (learns == "spread")
        assert (before.spread_N != after.spread_N).all()
        assert not any(parameter._backward_hooks for parameter in found.head.parameters())

    def test_a_tuned_map_is_kept_like_any(self, built: CoordinatesMap, few: Scene, tmp_path: Path) -> None:
        found = self.tuned(built, few)
        found.save(tmp_path / "map")
        again = CoordinatesMap.load(tmp_path / "map")
        a, b = found.head.state_dict(), again.head.state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        assert again.info.extra["end_to_end_steps"] == 4

    def test_an_interrupted_one_goes_on_to_the_same(
        self, built: CoordinatesMap, few: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = self.tuned(built, few, 10)
        batch = PicturesTask.batch

        def stopped(task: PicturesTask, step: int, rank: int, ranks: int) -> Any:
            if step == 6:
                raise KeyboardInterrupt
            return batch(task, step, rank, ranks)

        with monkeypatch.context() as patch:
            patch.setattr(PicturesTask, "batch", stopped)
            part = self.tuned(built, few, 10, work=tmp_path / "work")
        assert part.unfinished is not None
        assert re.fullmatch(r"end-to-end training stopped after step \d of 10", part.unfinished)
        resumed = self.tuned(built, few, 10, work=tmp_path / "work")
        assert resumed.unfinished is None
        a, b = whole.head.state_dict(), resumed.head.state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)

    def test_work_of_another_tuning_is_refused(self, built: CoordinatesMap, few: Scene, tmp_path: Path) -> None:
        self.tuned(built, few, work=tmp_path / "work")
        with pytest.raises(PlacecellError, match=r"alpha was 100\.0") as caught:
            self.tuned(built, few, work=tmp_path / "work", tuning=replace(self.small, alpha=50.0))
        assert "\n" not in str(caught.value)

    def test_several_heads_are_refused(self, built: CoordinatesMap, few: Scene) -> None:
        several = replace(built, family=replace(built.family, experts=3))
        with pytest.raises(MapError, match="a map of 3 experts cannot be tuned") as caught:
            self.tuned(several, few)
        assert "\n" not in str(caught.value)
