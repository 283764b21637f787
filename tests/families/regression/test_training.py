"""What a pose-regression network is shown and how it is judged: pictures and labels that stay true to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from families.regression.small import settings as small
from placecell.anchor import Anchor
from placecell.backbones import MEAN, STD, picture_tensor
from placecell.camera import Camera
from placecell.families.regression.losses import reprojection_loss
from placecell.families.regression.network import Answer
from placecell.families.regression.seen import seen_points
from placecell.families.regression.shots import Shots, shots_of
from placecell.families.regression.sight import depth_tensor
from placecell.families.regression.training import RegressionTask, errors
from placecell.log import Silent
from placecell.pose import Pose, pose_error
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene

STILL = {"turn_deg": (0.0, 0.0, 0.0), "colour": 0.0}
Tasks = Callable[..., RegressionTask]


@pytest.fixture(scope="module")
def frames(room_scene: Scene) -> tuple[Frame, ...]:
    return room_scene.split("train").frames[:10]


@pytest.fixture(scope="module")
def shots(room_scene: Scene, frames: tuple[Frame, ...], tmp_path_factory: pytest.TempPathFactory) -> Shots:
    camera = canonical_camera([room_scene.camera_of(frames[0])], 120)
    folder: Path = tmp_path_factory.mktemp("work")
    return shots_of(room_scene, frames, camera, anchor_of(frames), depth=True, folder=folder, log=Silent())


def anchor_of(frames: tuple[Frame, ...]) -> Anchor:
    return Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])


@pytest.fixture
def task(room_scene: Scene, frames: tuple[Frame, ...], shots: Shots) -> Tasks:
    """Makes tasks of ten shots, the last three of them held out."""

    def make(*, depth: bool = False, seed: int = 0, **settings: Any) -> RegressionTask:
        config = small(**{"batch": 4, "short_side": 120, "crop": 0, "new_views": 0.0, **settings})
        points = None
        if config.loss == "reprojection":
            points = seen_points(room_scene, frames, anchor_of(frames), shots.camera, Silent())
        own = shots if depth else replace(shots, depths=None)
        return RegressionTask(
            config, own, np.arange(7), np.arange(7, 10), 100, seed, True, points=points, depth_range=(1.0, 4.0)
        )

    return make


def pixels_of(batch: dict[str, Tensor], index: int) -> NDArray[np.uint8]:
    image = batch["images"][index].permute(1, 2, 0).numpy() * STD + MEAN
    return np.asarray(np.clip(image * 255, 0, 255).round(), dtype=np.uint8)


def colours(image: NDArray[np.uint8], pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    u_px, v_px = (pixels - 0.5).astype(np.float32).T
    return cv2.remap(image.astype(np.float32), u_px, v_px, cv2.INTER_LINEAR)[:, 0].astype(float)


class TestBatches:
    def test_are_the_same_for_the_same_seed_and_step(self, task: Tasks) -> None:
        one, again, other, later = task().batch(5), task().batch(5), task(seed=1).batch(5), task().batch(6)
        for key in one:
            assert torch.equal(one[key], again[key])
        assert not torch.equal(one["images"], other["images"])
        assert not torch.equal(one["images"], later["images"])

    def test_ranks_share_what_one_would_take(self, task: Tasks) -> None:
        whole = task(loss="reprojection").batch(3)
        shares = [task(loss="reprojection").batch(3, rank, 2) for rank in range(2)]
        for key, values in whole.items():
            assert torch.equal(torch.stack([share[key] for share in shares], dim=1).flatten(0, 1), values), key

    def test_an_epoch_shows_every_frame_once(self, task: Tasks) -> None:
        learning = task()
        shown = [name for step in range(7) for name in learning.named(step)]
        known = sorted(learning.shots.names[:7])
        for epoch in range(4):
            assert sorted(shown[7 * epoch : 7 * epoch + 7]) == known
        assert shown[:7] != shown[7:14]

    def test_no_frame_is_shown_that_training_is_judged_by(self, task: Tasks) -> None:
        learning = task()
        assert not {name for step in range(20) for name in learning.named(step)} & set(learning.shots.names[7:])

    def test_of_fewer_frames_than_asked_for_take_all(self, task: Tasks) -> None:
        learning = task(batch=64)
        assert learning.batch_size == 7 and sorted(learning.named(2)) == sorted(learning.shots.names[:7])
        assert learning.batch(0)["images"].shape == (7, 3, 120, 160)

    def test_as_they_are_without_variation(self, task: Tasks) -> None:
        learning = task(**STILL, depth=True)
        batch, shots = learning.batch(2), learning.shots
        rows = [shots.names.index(name) for name in learning.named(2)]
        assert torch.equal(batch["images"], picture_tensor(shots.images[rows]))
        assert torch.equal(batch["centre"], torch.from_numpy(shots.centres[rows]))
        assert torch.equal(batch["rotation"], torch.from_numpy(shots.rotations[rows]))
        assert shots.depths is not None
        assert torch.equal(batch["depth"], depth_tensor([(shots.depths[row], shots.camera) for row in rows]))
        np.testing.assert_allclose(batch["K"][0].numpy(), shots.camera.matrix, rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"turn_deg": (8.0, 8.0, 20.0)},
        {"turn_deg": (0.0, 0.0, 0.0), "crop": 96},
        {"turn_deg": (5.0, 5.0, 30.0), "crop": 96},
    ],
    ids=["turned", "cropped", "both"],
)
def test_a_varied_picture_shows_the_points_where_its_label_says(settings: dict[str, Any], task: Tasks) -> None:
    """Colours at the points' pixels are those of the picture before: with any sign or order swapped they are not."""
    learning = task(loss="reprojection", colour=0.0, **settings)
    shots, differences, strangers = learning.shots, [], []
    for step in range(3):
        batch = learning.batch(step)
        for index, name in enumerate(learning.named(step)):
            row, valid = shots.names.index(name), batch["points_valid"][index].numpy()
            points = batch["points"][index].numpy().astype(float)[valid]
            before = shots.camera.project((points - shots.centres[row]) @ shots.rotations[row].astype(float))
            rotation, K = batch["rotation"][index].numpy().astype(float), batch["K"][index].numpy().astype(float)
            height, width = batch["images"].shape[2:]
            camera = Camera(width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
            after = camera.project((points - batch["centre"][index].numpy()) @ rotation)
            assert camera.contains(after).all() and valid.sum() >= 10
            found = colours(pixels_of(batch, index), after)
            differences.append(np.abs(found - colours(shots.images[row], before)).mean())
            strangers.append(np.abs(found - colours(shots.images[row], after[:, ::-1])).mean())
    assert np.median(differences) < 12 < 0.5 * np.median(strangers)


def test_varied_depth_is_that_of_the_points_where_the_label_says(task: Tasks) -> None:
    learning, wrong = task(loss="reprojection", depth=True, turn_deg=(10.0, 10.0, 30.0), crop=96), []
    for step in range(3):
        batch = learning.batch(step)
        for index in range(len(learning.named(step))):
            points = batch["points"][index].numpy()[batch["points_valid"][index].numpy()].astype(float)
            points_cam = (points - batch["centre"][index].numpy()) @ batch["rotation"][index].numpy().astype(float)
            fx, cx, cy = (float(batch["K"][index][at]) for at in ((0, 0), (0, 2), (1, 2)))
            column, row = Camera(96, 96, fx, fx, cx, cy).project(points_cam).astype(int).T
            code = batch["depth"][index, 2].numpy()[row, column].astype(float)
            known = code > -1
            depth_m = 2 * (1 + code[known]) / (1 - code[known])
            wrong.append(np.median(np.abs(depth_m / points_cam[known, 2] - 1)))
    assert max(wrong) < 0.02


class Fixed(nn.Module):
    """A network that always says the same."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)
        self.s_x, self.s_q = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(-3.0))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, depth: Tensor | None = None) -> list[Answer]:
        self.seen.append(images)
        return [
            Answer(*(part[: len(images)] if isinstance(part, Tensor) else part for part in a)) for a in self.answers
        ]


def answer(centre: Tensor, rotation: Tensor, weight: float = 1.0) -> Answer:
    raw = rotation[:, :, :2].transpose(1, 2).flatten(1)
    return Answer(centre.clone(), rotation.clone(), raw, weight, torch.zeros(len(centre), 1))


class TestLoss:
    @pytest.mark.parametrize("loss", ["beta", "virtual-points", "homography"])
    def test_is_nothing_at_the_truth_and_something_elsewhere(self, loss: str, task: Tasks) -> None:
        learning = task(loss=loss)
        batch = learning.batch(0)
        truth = answer(batch["centre"], batch["rotation"])
        found = learning.loss(Fixed(truth), batch, 0)
        assert float(found["loss"].detach()) == pytest.approx(0, abs=1e-3)
        assert float(found["distance"]) == pytest.approx(0, abs=1e-5)
        off = answer(batch["centre"] + 0.1, batch["rotation"])
        assert float(learning.loss(Fixed(off), batch, 0)["loss"].detach()) > 0.005

    def test_of_reprojection_stops_at_a_tenth_of_a_pixel(self, task: Tasks) -> None:
        learning = task(loss="reprojection", pretrain=0.0)
        batch = learning.batch(0)
        found = learning.loss(Fixed(answer(batch["centre"], batch["rotation"])), batch, 0)
        assert float(found["loss"].detach()) == pytest.approx(np.log(0.1))
        off = answer(batch["centre"] + 0.1, batch["rotation"])
        assert float(learning.loss(Fixed(off), batch, 0)["loss"].detach()) > 0

    def test_of_learned_weights_is_theirs_at_the_truth(self, task: Tasks) -> None:
        learning = task()
        batch = learning.batch(0)
        found = learning.loss(Fixed(answer(batch["centre"], batch["rotation"])), batch, 0)
        assert float(found["loss"].detach()) == pytest.approx(-3.0, abs=1e-3)

    def test_auxiliary_answers_count_by_their_weight(self, task: Tasks) -> None:
        learning = task(loss="beta", norm="l2", beta=1.0)
        batch = learning.batch(0)
        off = batch["centre"] + torch.tensor([0.3, 0.0, 0.4])
        main, extra = answer(off, batch["rotation"]), answer(off, batch["rotation"], 0.3)
        assert float(learning.loss(Fixed(main, extra, extra), batch, 0)["loss"].detach()) == pytest.approx(
            0.8, rel=1e-4
        )
        assert float(learning.loss(Fixed(main), batch, 0)["distance"]) == pytest.approx(0.5, rel=1e-5)

    def test_of_reprojection_begins_after_the_learned_one(self, task: Tasks) -> None:
        learning = task(loss="reprojection", pretrain=0.7)
        batch = learning.batch(0)
        network = Fixed(answer(batch["centre"] + 0.1, batch["rotation"]))
        values = [float(learning.loss(network, batch, step)["loss"].detach()) for step in (0, 69, 70, 99)]
        assert values[0] == values[1] != values[2] == values[3]
        named = {"points_BN3": batch["points"], "valid_BN": batch["points_valid"], "matrix_B33": batch["K"]}
        error_px = reprojection_loss(network.answers[0], batch["centre"], batch["rotation"], **named)
        assert values[2] == pytest.approx(float(error_px.log()), rel=1e-5)  # as if weighed by its own size
        loss = learning.loss(network, batch, 99)["loss"]
        loss.backward()
        assert network.s_x.grad is not None  # several devices wait for it


class TestValidation:
    def test_tells_the_median_errors_in_centimetres_and_degrees(self, task: Tasks) -> None:
        learning = task()
        held = torch.from_numpy(learning.shots.centres[7:]), torch.from_numpy(learning.shots.rotations[7:])
        away = torch.tensor([[0.0, 0.0, 0.1], [0.3, 0.0, 0.0], [0.0, 9.0, 0.0]])
        turn = torch.from_numpy(Rotation.from_rotvec([[0.1, 0, 0], [0, 2.0, 0], [0, 0, 0.3]]).as_matrix()).float()
        found = learning.validate(Fixed(answer(held[0] + away, held[1] @ turn)))
        assert found == pytest.approx({"cm": 30.0, "deg": np.degrees(0.3)}, rel=1e-4)
        told = replace(learning, metric=False).validate(Fixed(answer(held[0] + away, held[1] @ turn)))
        assert told == pytest.approx({"units": 0.3, "deg": np.degrees(0.3)}, rel=1e-4)

    def test_shows_the_middle_of_the_held_out_pictures_as_they_are(self, task: Tasks) -> None:
        learning = task(crop=96)
        network = Fixed(answer(torch.zeros(3, 3), torch.eye(3).expand(3, 3, 3)))
        learning.validate(network)
        (seen,) = network.seen
        assert torch.equal(seen, picture_tensor(learning.shots.images[7:, 12:108, 32:128]))

    def test_of_nothing_says_nothing(self, task: Tasks) -> None:
        assert replace(task(), held=np.zeros(0, np.intp)).validate(Fixed()) == {}


def test_errors_are_those_of_pose_error() -> None:
    truth = Pose.exp([0.1, -0.7, 0.3, 1.0, 2.0, 3.0])
    guess = truth @ Pose.exp([0.3, 0.2, -0.1, 0.1, -0.3, 0.2])
    parts = [torch.tensor(value)[None].float() for p in (guess, truth) for value in (p.translation, p.rotation)]
    away, turned = errors(answer(parts[0], parts[1]), parts[2], parts[3])
    expected = pose_error(guess, truth)
    assert (float(away), float(turned)) == pytest.approx((expected.distance, expected.angle_deg), rel=1e-4)
