"""From features to places: what the head promises whatever it has learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from placecell.families.coordinates.head import Head

CENTRES = torch.tensor([[0.0, 0.0, 1.0], [2.0, -1.0, 0.5], [-3.0, 1.0, 4.0]])


def head(clusters: int = 3, *, size: float = 2.0, scale: float = 1.0, seed: int = 0, channels: int = 10) -> Head:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Head(channels, 16, 1, clusters)
        with torch.no_grad():
            made.leave.weight.mul_(20)  # as after some training: far from where it begins
    centres = scale * (CENTRES if clusters == 3 else CENTRES.mean(dim=0, keepdim=True))
    made.begin(features(50, seed=9), centres, scale * size)
    return made


def features(count: int = 8, *, seed: int = 1, channels: int = 10) -> Tensor:
    spread = torch.linspace(0.1, 30.0, channels)
    return spread * torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)) + 5.0


def test_it_begins_near_the_middle_of_the_centres() -> None:
    made = head()
    with torch.no_grad():
        made.leave.weight.zero_()
    guess = made(features())
    torch.testing.assert_close(guess.points_N3, CENTRES.mean(dim=0).expand(8, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("clusters", [3, 0])
def test_places_follow_the_unit_of_the_scene(clusters: int) -> None:
    """The same network in a scene of another unit says the same places, and is as sure of their pixels."""
    one, other = head(clusters)(features()), head(clusters, scale=100.0)(features())
    assert float(one.points_N3.detach().std(dim=0).min()) > 0.05
    torch.testing.assert_close(other.points_N3, 100.0 * one.points_N3, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(other.spread_N, one.spread_N)


def test_places_move_with_the_centres() -> None:
    here, there = head(), head()
    away = torch.tensor([5.0, -7.0, 3.0])
    there.centres_K3.add_(away)
    torch.testing.assert_close(there(features()).points_N3, here(features()).points_N3 + away)


def test_it_chooses_between_centres() -> None:
    """Of a cell that is sure of its centre, the place is that centre's, however far it is from the mean."""
    made = head()
    with torch.no_grad():
        made.leave.weight.zero_()
        made.leave.bias[5:] = torch.tensor([-50.0, 50.0, -50.0])
    torch.testing.assert_close(made(features()).points_N3, CENTRES[1].expand(8, 3))


def test_features_count_by_how_much_they_vary() -> None:
    """Other units of the features are another beginning of the same head."""
    one, other = head(), head()
    shift, factor = torch.linspace(-20, 20, 10), torch.logspace(-0.5, 2, 10)
    other.begin(features(50, seed=9) * factor + shift, CENTRES, 2.0)
    guess = other(features() * factor + shift)
    torch.testing.assert_close(guess.points_N3, one(features()).points_N3, rtol=1e-3, atol=1e-3)


def test_features_that_never_vary_do_no_harm() -> None:
    made = head()
    made.begin(torch.full((50, 10), 3.0), CENTRES, 2.0)
    assert all(part.isfinite().all() for part in made(features()))


def test_each_cell_is_placed_by_itself() -> None:
    made, shown = head(), features()
    whole = made(shown)
    for index in range(len(shown)):
        torch.testing.assert_close(made(shown[index : index + 1]).points_N3[0], whole.points_N3[index])


def test_lengths_are_float32_under_autocast() -> None:
    made = head()
    with torch.autocast("cpu", torch.bfloat16):
        guess = made(features().half())
    assert guess.points_N3.dtype == guess.spread_N.dtype == torch.float32
    assert guess.points_N3.shape == (8, 3) and guess.spread_N.shape == (8,)
    assert float((guess.points_N3 - made(features()).points_N3).detach().abs().max()) < 0.5


def test_all_of_it_learns() -> None:
    made = head()
    guess = made(features())
    (guess.points_N3.square().sum() + guess.spread_N.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in made.parameters())


def test_what_it_was_told_is_kept_with_its_weights() -> None:
    one, other = head(seed=0), head(seed=1)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(features()).points_N3, one(features()).points_N3)


class TestContext:
    def made(self) -> Head:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = Head(10, 16, 1, 3, overall=4)
        made.begin(features(50, seed=9), CENTRES, 2.0)
        assert made.context is not None
        made.context.begin(features(50, seed=7, channels=4))
        return made.eval()

    def test_of_one_picture_or_of_each_cell_is_the_same(self) -> None:
        made, shown, whole = self.made(), features(), features(1, seed=3, channels=4)
        one, each = made(shown, whole), made(shown, whole.expand(8, 4))
        torch.testing.assert_close(one.points_N3, each.points_N3)

    def test_another_picture_moves_the_same_cells(self) -> None:
        made, shown = self.made(), features()
        one, other = (made(shown, features(1, seed=seed, channels=4)).points_N3 for seed in (3, 4))
        assert float((one - other).detach().abs().max()) > 1e-3

    def test_it_is_one_layer_over_both(self) -> None:
        """GLACE enters the cell's and the picture's features side by side."""
        made, shown, whole = self.made(), features(), features(8, seed=3, channels=4)
        assert made.context is not None
        standard = torch.cat(
            [(shown - made.mean_C) * made.scale_C, (whole - made.context.mean_G) * made.context.scale_G], dim=1
        )
        weight = torch.cat([made.enter.weight, made.context.layer.weight], dim=1)
        entered = torch.nn.functional.linear(standard, weight, made.enter.bias)
        told: list[Tensor] = []
        made.blocks[0].register_forward_pre_hook(lambda module, given: told.append(given[0]))
        made(shown, whole)
        torch.testing.assert_close(told[0], entered.relu())

    def test_noise_is_added_in_training_only(self) -> None:
        made = self.made()
        assert made.context is not None
        with torch.no_grad():
            made.context.layer.weight.copy_(torch.eye(16)[:, :4])
        whole = features(5000, seed=3, channels=4)
        exact = (whole - made.context.mean_G) * made.context.scale_G
        torch.testing.assert_close(made.context(whole)[:, :4], exact)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            noise = made.context.train()(whole)[:, :4] - exact
        assert noise.detach().std(dim=0).tolist() == pytest.approx([1.0] * 4, rel=0.05)
        assert float(noise.detach().mean().abs()) < 0.05

    def test_a_head_without_is_what_it_was(self) -> None:
        """It draws the same weights and keeps nothing more."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plain = Head(10, 16, 1, 3)
        assert plain.context is None
        drawn = self.made().state_dict()
        assert plain.state_dict().keys() == {key for key in drawn if not key.startswith("context")}
        assert torch.equal(plain.leave.weight, drawn["leave.weight"])
