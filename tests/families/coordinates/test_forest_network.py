"""A network in place of the trees: what it answers, how it learns, and that nothing else asks for torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from placecell.camera import Camera
from placecell.errors import FormatError, MissingExtra
from placecell.estimate import Query
from placecell.families.coordinates import forest
from placecell.families.coordinates.forest import teaching
from placecell.families.coordinates.forest.config import Forest
from placecell.families.coordinates.forest.features import COLOUR, Pixels, Planes, Probes, respond
from placecell.families.coordinates.forest.growing import Samples
from placecell.families.coordinates.forest.lessons import drawn
from placecell.families.coordinates.forest.localizer import ForestMap
from placecell.families.coordinates.forest.network import Network, new_head, responses
from placecell.families.coordinates.forest.teaching import PixelsTask, taught
from placecell.families.coordinates.head import Guess
from placecell.images import load_query
from placecell.log import Silent
from placecell.scene import Scene

SMALL: dict[str, Any] = {
    "predictor": "network", "trees": 1, "pixels": 500, "probes": 96, "hidden": 96, "steps": 250, "short_side": 120,
    "queried": 800, "least": 60,
}  # fmt: skip


def build(scene: Scene, **changes: Any) -> ForestMap:
    return Forest(**{**SMALL, **changes}).build(scene, log=Silent())


@pytest.fixture(scope="module")
def found(room_scene: Scene) -> ForestMap:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "BATCH", 1024)
        return build(room_scene)


@pytest.fixture(scope="module")
def queries(room_scene: Scene) -> list[Query]:
    return [load_query(room_scene, frame, depth=True) for frame in room_scene.split("test").frames]


def some(scene: Scene, frames: int) -> Scene:
    """The scene with few training frames."""
    return replace(scene, frames=scene.split("train").frames[:frames], points=None)


def painted(count: int = 6, seed: int = 0) -> tuple[Planes, Samples]:
    """Pictures of one colour each, which look at one place each."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 255, (2, count, 3, 1, 1)).astype(np.int16)
    values = np.concatenate([left + np.zeros((1, 1, 8, 5), np.int16), right + np.zeros((1, 1, 8, 5), np.int16)], -1)
    picture = np.repeat(np.arange(count, dtype=np.int32), 40)
    pixels = Pixels(picture, *np.full((2, len(picture)), 5.0, np.float32), np.full(len(picture), 10.0, np.float32))
    places = rng.uniform(-2, 2, (count, 3)).astype(np.float32)
    return Planes(Camera.from_focal(10, 8, 10.0), values.astype(np.int16)), Samples(pixels, places[picture])


def task(**changes: Any) -> PixelsTask:
    planes, samples = painted()
    probes = Probes.draw((COLOUR,), 32, 0.4, np.random.default_rng(1))
    return replace(PixelsTask(planes, samples, probes, [f"frame {i}" for i in range(6)], 20, 0, 1.0), **changes)


class TestNetwork:
    def test_every_pixel_answers_every_feature(self) -> None:
        learning = task()
        values = responses(learning.planes, learning.samples.pixels, learning.probes)
        assert values.shape == (240, 32) and values.dtype == torch.float32
        for column in (0, 17):
            alone = respond(learning.planes, learning.samples.pixels, learning.probes.take(np.full(240, column)))
            np.testing.assert_array_equal(values[:, column], alone)

    def test_a_spread_is_the_mean_distance_and_a_variance_an_axis(self) -> None:
        """Points scattered by the variance said lie as far off in the mean as the spread says."""
        head = new_head(4, 8)
        with torch.no_grad():
            for value in head.parameters():
                value.zero_()
            head.leave.bias[4] = float(np.log(0.3))
        planes, samples = painted()
        probes = Probes.draw((COLOUR,), 4, 0.4, np.random.default_rng(1))
        modes = Network(probes, head, unit=2.0).modes(planes, samples.pixels.take(slice(0, 1)))
        assert modes.points.shape == (1, 1, 3) and modes.weight.tolist() == [[1.0]]
        scattered = np.random.default_rng(0).multivariate_normal(np.zeros(3), modes.covariance[0, 0], 20_000)
        assert np.linalg.norm(scattered, axis=1).mean() == pytest.approx(2.0 * 0.3, rel=0.02)

    def test_what_is_no_number_has_no_weight(self) -> None:
        head = new_head(4, 8)
        with torch.no_grad():
            head.leave.bias[0] = float("nan")
        planes, samples = painted()
        probes = Probes.draw((COLOUR,), 4, 0.4, np.random.default_rng(1))
        modes = Network(probes, head, 1.0).modes(planes, samples.pixels)
        assert not modes.weight.any() and np.isfinite(modes.covariance).all()


class TestTask:
    def test_a_round_shows_every_pixel_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("placecell.families.coordinates.forest.teaching.BATCH", 60)
        numbered = task()
        numbered.samples.points[:, 0] = np.arange(240)
        first, second = (
            [number for step in steps for number in numbered.batch(step)["points"][:, 0].int().tolist()]
            for steps in (range(4), range(4, 8))
        )
        assert sorted(first) == sorted(second) == list(range(240)) and first != second
        whole = numbered.batch(5)["features"]
        shares = [numbered.batch(5, rank, 2)["features"] for rank in (0, 1)]
        torch.testing.assert_close(torch.stack(shares, dim=1).flatten(0, 1), whole)

    def test_a_step_names_its_frames(self) -> None:
        assert task().named(3) == ["frame 0", "frame 1", "frame 2"]

    def test_the_loss_is_bounded_by_a_tolerance_that_shrinks(self) -> None:
        learning = task()
        batch = {"features": torch.zeros(2, 32), "points": torch.tensor([[0.0, 0, 0], [0, 0, 50.0]])}

        def still(_: torch.Tensor) -> Guess:
            return Guess(torch.tensor([[0.003, 0, 0], [0, 0, 0.0]]), torch.tensor([np.log(0.003), np.log(10.0)]))

        first, last = (float(learning.loss(still, batch, step)["loss"]) for step in (0, 20))  # type: ignore[arg-type]
        told = 0.02 * (1 + np.log(0.003) + 1 + np.log(10.0)) / 2
        assert first - told == pytest.approx((0.003 + 5.0) / 2, rel=1e-3)
        assert last - told == pytest.approx((0.003 + 0.05) / 2, rel=5e-3)

    def test_no_other_spread_is_better_than_the_distance(self) -> None:
        learning = task(unit=2.0)
        batch = {"features": torch.zeros(1, 32), "points": torch.tensor([[0.0, 0, 0.8]])}
        spread = torch.tensor([np.log(0.4)], requires_grad=True)
        learning.loss(lambda _: Guess(torch.zeros(1, 3), spread), batch, 0)["loss"].backward()  # type: ignore[arg-type, no-untyped-call]
        assert spread.grad is not None and abs(float(spread.grad)) < 1e-6

    def test_it_learns_which_colour_looks_where(self) -> None:
        planes, samples = painted()
        config = Forest(predictor="network", features="da-rgb", probes=32, hidden=32, steps=150, reach_m=0.4)
        learned = taught(
            config, planes, samples, [f"frame {i}" for i in range(6)], unit=1.0, device="cpu", seed=0, log=Silent()
        )
        off = np.linalg.norm(learned.modes(planes, samples.pixels).points[:, 0] - samples.points, axis=1)
        assert off.max() < 0.1
        constant = np.linalg.norm(samples.points - samples.points.mean(axis=0), axis=1)
        assert constant.min() > 0.3


class TestMap:
    def test_it_knows_the_room_better_than_a_constant(self, found: ForestMap, room_scene: Scene) -> None:
        """Pixels that were not learned from, of pictures that were."""
        points, said = [], []
        for frame in room_scene.split("train").posed[::4]:
            assert frame.world_from_cam is not None
            query = load_query(room_scene, frame, depth=True)
            _, points_cam = drawn(query, 300, np.random.default_rng(7))
            points.append((found.world_from_anchor.inv @ frame.world_from_cam).apply(points_cam))
            said.append(found.modes(query, points_cam).points[:, 0])
        truths, answers = np.concatenate(points), np.concatenate(said)
        off = np.median(np.linalg.norm(answers - truths, axis=1))
        assert off < 0.5 * np.median(np.linalg.norm(truths - np.median(truths, axis=0), axis=1))

    def test_it_answers_the_same_after_it_was_saved(
        self, found: ForestMap, queries: list[Query], tmp_path: Path
    ) -> None:
        found.save(tmp_path / "map")
        after = ForestMap.load(tmp_path / "map")
        before, again = found.guesses(queries[0]), after.guesses(queries[0])
        assert not isinstance(before, str) and not isinstance(again, str)
        for key, value in vars(before).items():
            np.testing.assert_array_equal(getattr(again, key), value)
        assert found.localize(queries)[0].inliers == after.localize(queries)[0].inliers
        after.save(tmp_path / "again")
        for name in ("map.json", "weights.safetensors"):
            assert (tmp_path / "map" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    def test_the_same_seed_makes_the_same_network(self, room_scene: Scene) -> None:
        few, settings = some(room_scene, 4), Forest(**SMALL | {"steps": 3})
        built = [settings.build(few, seed=seed, log=Silent()).network for seed in (1, 1, 2)]
        first, same, other = ({k: v.tobytes() for k, v in found.tensors().items()} for found in built if found)
        assert first == same and first != other

    def test_a_damaged_folder_is_named(self, found: ForestMap, tmp_path: Path) -> None:
        found.save(tmp_path / "map")
        weights = tmp_path / "map" / "weights.safetensors"
        tensors = load_file(weights)
        save_file({**tensors, "head.last.weight": tensors["head.last.weight"][:-1].copy()}, weights)
        with pytest.raises(FormatError, match=r"head\.last\.weight does not fit map\.json"):
            ForestMap.load(tmp_path / "map")
        save_file({key: value for key, value in tensors.items() if key != "head.last.weight"}, weights)
        with pytest.raises(FormatError, match=r"no tensor head\.last\.weight"):
            ForestMap.load(tmp_path / "map")

    def test_it_answers_pictures_without_depth_too(self, room_scene: Scene, queries: list[Query]) -> None:
        built = build(room_scene, features="rgb", steps=20, least=3)
        assert not built.wants_depth and built.stages == ()
        guesses = built.guesses(replace(queries[0], depth_m=None))
        assert not isinstance(guesses, str) and guesses.points_cam is None and guesses.weight.shape == (800, 1)


class TestWithoutTorch:
    def test_trees_need_none(self) -> None:
        code = (
            "import sys, placecell.families.coordinates.forest.building\n"
            "sys.exit(bool({'torch', 'lightning_fabric'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_a_network_says_what_to_install(
        self, found: ForestMap, room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found.save(tmp_path / "map")
        for name in ("network", "teaching"):
            monkeypatch.delitem(sys.modules, f"{forest.__name__}.{name}")
            monkeypatch.delattr(forest, name)
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtra, match=r"torch is not installed; run: pip install 'placecell\[train\]'"):
            build(room_scene)
        with pytest.raises(MissingExtra, match="torch is not installed"):
            ForestMap.load(tmp_path / "map")
