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
