"""Passes of an export drop the very numbers that those of its map drop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export import small
from placecell.backbones import picture_tensor
from placecell.errors import MapError
from placecell.export.draws import Drawn, with_draws
from placecell.export.graphs import example, graph_of
from placecell.scene import Scene

pytestmark = pytest.mark.usefixtures("patches")


def test_drops_what_it_was_told_to() -> None:
    kept = torch.tensor([[True, False, True], [False, True, True]])
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = 2 * torch.tensor([[1.0, 0, 3], [0, 2, 3], [4, 0, 6], [0, 5, 6]])
    assert torch.equal(Drawn(kept, 0.5, first=True)(values), expected)
    again = Drawn(kept, 0.5, first=False)(expected)
    assert torch.equal(again, 2 * expected)


@pytest.mark.parametrize("kind", ["align", "posenet", "grid", "lstm"])
def test_passes_are_those_of_the_map(kind: str, room_scene: Scene) -> None:
    dropping = {"dropout": 0.3} | ({"map_dropout": 0.4} if kind in ("posenet", "lstm") else {})
    built = small.regression(room_scene, kind, passes=5, **dropping)
    network, seed = built.network, built.info.seed
    for picture in np.random.default_rng(3).integers(0, 256, (2, *example(graph_of(built), 1).shape)).astype(np.uint8):
        with torch.inference_mode():
            seen = picture_tensor(picture)
            expected = network.passes(seen, None, 5, seed)
            maps = {tap: found for tap, found in network.maps(seen).items()}
            told = with_draws(network.head, maps, 5, seed)(maps)
        centres = told.centre_B3 if kind == "align" else network.scale * told.centre_B3
        found = torch.cat([answer.centre_B3 for answer in expected])
        assert len(found.unique(dim=0)) == 5
        torch.testing.assert_close(centres, found, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(told.raw_BK, torch.cat([answer.raw_BK for answer in expected]), rtol=1e-4, atol=1e-5)


def test_pictures_of_a_batch_have_the_same_draws(room_scene: Scene) -> None:
    graph = graph_of(small.regression(room_scene, "posenet", passes=4, dropout=0.5, map_dropout=0.5))
    pictures = example(graph, 2)
    with torch.inference_mode():
        together = graph.network(pictures)
        alone = [graph.network(pictures[i : i + 1]) for i in range(2)]
    for both, *each in zip(together, *alone, strict=True):
        assert both.shape[0] == 8
        torch.testing.assert_close(both, torch.cat(each), rtol=1e-4, atol=1e-5)


def test_the_map_keeps_its_head(room_scene: Scene) -> None:
    built = small.regression(room_scene, "posenet", passes=4, dropout=0.5)
    before = [type(part) for part in built.network.modules()]
    graph_of(built)
    assert [type(part) for part in built.network.modules()] == before


def test_passes_of_many_windows_are_refused(room_scene: Scene) -> None:
    with pytest.raises(MapError, match="passes of dense inference are not exported; those of --inference centre are"):
        graph_of(small.regression(room_scene, "dense", passes=4, dropout=0.5))
