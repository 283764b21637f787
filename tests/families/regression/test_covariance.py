"""What a network expects of its error, and how far its passes and windows differ."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from scipy.stats import multivariate_normal
from torch import Tensor

from families.regression.small import Patches, pictures, settings
from placecell.families.regression import network as network_module
from placecell.families.regression.covariance import CovarianceHead, covariance_of
from placecell.families.regression.losses import likelihood_loss
from placecell.families.regression.network import Answer, PoseNetwork
from placecell.families.regression.spreads import Spread, spread
from placecell.geometry_torch import twist_from_pose
from placecell.pose import Pose, pose_error, scatter


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(network_module, "backbone", lambda name: Patches())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def some_whitening(batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(batch, 6, 6, generator=generator, dtype=torch.float64).tril(-1)
    return lower + torch.diag_embed(torch.rand(batch, 6, generator=generator, dtype=torch.float64) * 20 + 5)


def some_pose(seed: int, size: float = 0.3) -> Pose:
    return Pose.exp(np.random.default_rng(seed).normal(size=6) * size)


def answer_of(estimates: list[Pose], whitening: Tensor) -> Answer:
    centre = torch.tensor(np.array([pose.translation for pose in estimates]))
    rotation = torch.tensor(np.array([pose.rotation for pose in estimates]))
    return Answer(centre, rotation, rotation.flatten(1), 1.0, centre, None, whitening)


def truth_of(poses: list[Pose]) -> tuple[Tensor, Tensor]:
    answer = answer_of(poses, torch.zeros(0))
    return answer.centre_B3, answer.rotation_B33


class TestTheTwist:
    @pytest.mark.parametrize("size", [1e-9, 1e-4, 1e-2, 0.5, 1.2])
    def test_is_that_of_the_pose(self, size: float) -> None:
        poses = [some_pose(seed, size) for seed in range(8)]
        found = twist_from_pose(*reversed(truth_of(poses)))
        assert_allclose(found.numpy(), np.array([pose.log() for pose in poses]), rtol=1e-6, atol=1e-12)

    def test_has_finite_gradients_at_no_motion(self) -> None:
        rotation, centre = torch.eye(3).expand(1, 3, 3).clone().requires_grad_(), torch.zeros(1, 3, requires_grad=True)
        twist_from_pose(rotation, centre).sum().backward()  # type: ignore[no-untyped-call]
        assert rotation.grad is not None and rotation.grad.isfinite().all()
        assert centre.grad is not None and bool((centre.grad == 1).all())


class TestTheLikelihood:
    def test_gaussian_is_scipys(self) -> None:
        estimates, truths, whitening = (
            [some_pose(i) for i in range(3)],
            [some_pose(i + 9) for i in range(3)],
            some_whitening(),
        )
        found = likelihood_loss(answer_of(estimates, whitening), *truth_of(truths))
        errors = [(estimate.inv @ truth).log() for estimate, truth in zip(estimates, truths, strict=True)]
        expected = [
            -multivariate_normal(np.zeros(6), covariance).logpdf(error)
            for error, covariance in zip(errors, covariance_of(whitening), strict=True)
        ]
        assert float(found) == pytest.approx(np.mean(expected), rel=1e-9)

    def test_laplace_integrates_to_one_and_has_the_covariance(self) -> None:
        axis = np.linspace(-8, 8, 1601)
        whitening = torch.diag_embed(torch.tensor([[2.0, 3, 4, 5, 6, 7]], dtype=torch.float64))
        still = [Pose.exp(np.zeros(6))]
        at_zero = float(likelihood_loss(answer_of(still, whitening), *truth_of(still), kind="laplace"))
        values = []
        for x in axis:
            moved = [Pose.exp(np.array([0, 0, 0, x, 0, 0]))]
            loss = float(likelihood_loss(answer_of(still, whitening), *truth_of(moved), kind="laplace"))
            values.append(math.exp(at_zero - loss))
        weights, step = np.array(values), axis[1] - axis[0]
        # One axis of the density, relative to its top: its integral is √2 / a, its variance 1 / a², a = 5.
        assert weights.sum() * step == pytest.approx(math.sqrt(2) / 5, rel=0.03)
        assert (weights * axis**2).sum() / weights.sum() == pytest.approx(1 / 25, rel=0.05)
        assert at_zero == pytest.approx(3 * math.log(2) - math.log(2 * 3 * 4 * 5 * 6 * 7))

    def test_is_least_where_the_covariance_is_that_of_the_errors(self) -> None:
        rng = np.random.default_rng(0)
        spread_of = np.array([0.02, 0.05, 0.01, 0.1, 0.2, 0.03])
        truths = [Pose.exp(rng.normal(size=6) * spread_of) for _ in range(400)]
        answer = answer_of([Pose.exp(np.zeros(6))] * 400, torch.zeros(400, 6, 6))
        log = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([log], lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            whitening = torch.diag_embed(log.exp()).expand(400, 6, 6)
            likelihood_loss(answer._replace(whitening_B66=whitening), *truth_of(truths)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert_allclose((-log.detach()).exp().numpy(), spread_of, rtol=0.1)

    def test_needs_a_covariance(self) -> None:
        answer = answer_of([some_pose(0)], torch.zeros(0))._replace(whitening_B66=None)
        with pytest.raises(ValueError, match="set covariance to gaussian or laplace"):
            likelihood_loss(answer, *truth_of([some_pose(0)]))


class TestTheHead:
    def test_begins_with_a_tenth_of_a_radian_and_of_the_scale(self) -> None:
        (found,) = covariance_of(CovarianceHead(5, 3.0)(torch.randn(1, 5)).detach())
        assert_allclose(found, np.diag([0.01] * 3 + [0.09] * 3), rtol=0.02, atol=1e-3)

    def test_answers_with_the_inverse_of_ata(self) -> None:
        whitening = some_whitening()
        precision = whitening.mT @ whitening
        assert_allclose(covariance_of(whitening) @ precision.numpy(), np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-9)

    @pytest.mark.parametrize("covariance", ["gaussian", "laplace"])
    def test_moves_no_pose_when_it_is_learned_beside_it(self, covariance: str) -> None:
        network = PoseNetwork(settings(covariance=covariance), 1.0)
        answer = network(pictures())[0]
        assert answer.whitening_B66 is not None
        apart = answer._replace(centre_B3=answer.centre_B3.detach(), rotation_B33=answer.rotation_B33.detach())
        truth = torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3)
        likelihood_loss(apart, *truth, kind=covariance).backward()  # type: ignore[arg-type, no-untyped-call]
        moved = {name for name, value in network.named_parameters() if value.grad is not None}
        assert moved
        assert all(name.startswith("covariance.") for name in moved)

    def test_draws_nothing_that_the_pose_begins_with(self) -> None:
        networks = []
        for covariance in ("none", "gaussian"):
            torch.manual_seed(3)
            networks.append(PoseNetwork(settings(covariance=covariance), 1.0))
        without, beside = (dict(network.named_parameters()) for network in networks)
        assert all(torch.equal(value, beside[name]) for name, value in without.items())

    def test_moves_the_pose_by_the_likelihood_loss(self) -> None:
        network = PoseNetwork(settings(loss="likelihood"), 1.0)
        likelihood_loss(network(pictures())[0], torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3)).backward()  # type: ignore[no-untyped-call]
        slope = network.get_parameter("head.centre.weight").grad
        assert slope is not None and float(slope.abs().max()) > 0


class TestPasses:
    def network(self, **changes: object) -> PoseNetwork:
        chosen = {"head": "posenet", "dropout": 0.5, "map_dropout": 0.5, "passes": 8} | changes
        return PoseNetwork(settings(**chosen), 1.0).eval()

    def test_differ_and_are_the_same_again(self) -> None:
        network = self.network()
        with torch.no_grad():
            first, second = (network.passes(pictures(), None, 8, seed=1) for _ in range(2))
            other = network.passes(pictures(), None, 8, seed=2)
        assert [len(answer.centre_B3) for answer in first] == [8, 8]
        assert len({tuple(row) for row in first[0].centre_B3.tolist()}) == 8
        assert torch.equal(first[1].centre_B3, second[1].centre_B3)
        assert not torch.equal(first[1].centre_B3, other[1].centre_B3)

    def test_leave_the_network_and_the_randomness_of_others_alone(self) -> None:
        network = self.network()
        with torch.no_grad():
            before, state = network(pictures())[0], torch.random.get_rng_state()
            network.passes(pictures(), None, 4, seed=0)
            assert torch.equal(torch.random.get_rng_state(), state)
            assert torch.equal(network(pictures())[0].centre_B3, before.centre_B3)
        assert not any(module.training for module in network.modules())

    def test_have_the_pose_without_dropout_as_their_mean(self) -> None:
        network = self.network(map_dropout=0.0)
        with torch.no_grad():
            (answer,) = network(pictures(1))
            (passes,) = network.passes(pictures(1), None, 4000, seed=0)
        standard_error = passes.centre_B3.std(dim=0) / math.sqrt(4000)
        assert bool(((passes.centre_B3.mean(dim=0) - answer.centre_B3[0]).abs() < 5 * standard_error + 1e-7).all())

    def test_of_one_picture_are_those_passes_in_a_batch_of_pictures_of_its_own(self) -> None:
        network = self.network(dropout=1e-9, map_dropout=0.0)
        with torch.no_grad():
            alone = [network(pictures()[i : i + 1])[0].centre_B3 for i in range(2)]
            together = network.passes(pictures(), None, 3, seed=0)
        for one, answer in zip(alone, together, strict=True):
            assert_allclose(answer.centre_B3, one.expand(3, 3), atol=1e-5)


class TestTheSpread:
    def test_adds_what_is_expected_to_how_far_passes_and_windows_differ(self) -> None:
        rng = np.random.default_rng(0)
        windows = [some_pose(1, 0.05) @ Pose.exp(rng.normal(size=6) * 0.01) for _ in range(6)]
        poses = [[window @ Pose.exp(rng.normal(size=6) * 0.02) for _ in range(30)] for window in windows]
        expected = np.stack([np.diag(rng.uniform(1e-4, 1e-2, 6)) for _ in range(180)])
        found = spread(poses, expected)
        assert found is not None
        assert_allclose(np.sqrt(np.diag(found.weights)), 0.02, rtol=0.25)
        assert_allclose(np.sqrt(np.diag(found.windows)), 0.01, rtol=0.7)
        assert found.total is not None
        assert_allclose(found.total, expected.mean(axis=0) + found.weights + found.windows)

    def test_of_one_look_is_what_is_expected_of_it(self) -> None:
        pose, expected = some_pose(0), np.diag([1.0, 2, 3, 4, 5, 6])[None]
        found = spread([[pose]], expected)
        assert found is not None and found.total is not None
        assert_allclose(found.total, expected[0], atol=1e-12)
        assert_allclose(found.mean.matrix, pose.matrix, atol=1e-12)

    def test_is_unknown_where_nothing_tells(self) -> None:
        found = spread([[some_pose(0)]], None)
        assert isinstance(found, Spread)
        assert found.total is None

    def test_has_a_mean_between_the_looks(self) -> None:
        turns = [Rotation.from_rotvec([0, angle, 0]).as_matrix() for angle in (0.1, 0.3)]
        found = spread([[Pose(turn, np.array([x, 1.0, 0.0]))] for turn, x in zip(turns, (1.0, 3.0), strict=True)], None)
        assert found is not None
        expected = Pose(Rotation.from_rotvec([0, 0.2, 0]).as_matrix(), np.array([2.0, 1.0, 0.0]))
        assert pose_error(found.mean, expected) == pytest.approx((0, 0), abs=1e-6)

    @pytest.mark.parametrize("alone", [True, False])
    def test_has_no_mean_where_looks_are_opposite(self, alone: bool) -> None:
        opposed = [np.eye(3), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, -1.0]), np.diag([-1.0, -1.0, 1.0])]
        poses = [Pose(rotation, np.zeros(3)) for rotation in opposed]
        assert spread([[pose] for pose in poses] if alone else [poses], None) is None

    def test_scatter_is_that_of_the_tangent_space(self) -> None:
        rng, spreads, mean = np.random.default_rng(1), np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.3]), some_pose(4, 1.0)
        poses = [mean @ Pose.exp(rng.normal(size=6) * spreads) for _ in range(3000)]
        assert_allclose(np.sqrt(np.diag(scatter(poses, mean))), spreads, rtol=0.05)
        world = some_pose(5, 2.0)  # moving the world changes nothing
        assert_allclose(scatter([world @ pose for pose in poses], world @ mean), scatter(poses, mean), atol=1e-12)
