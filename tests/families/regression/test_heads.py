from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from families.regression.small import settings
from placecell.backbones import Tap
from placecell.errors import MapError
from placecell.families.regression.heads import (
    ROTATIONS,
    Auxiliary,
    Chain,
    GridBody,
    Head,
    Pooled,
    Scanned,
    auxiliary_heads,
    main_head,
)

TAPS = {"fine": Tap(6, 4), "half": Tap(7, 8), "inner": Tap(8, 16), "inner2": Tap(9, 16), "last": Tap(10, 32)}
GRIDS = {"fine": (16, 24), "half": (8, 12), "inner": (4, 6), "inner2": (4, 6), "last": (2, 3)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(batch: int = 2) -> dict[str, Tensor]:
    return {name: noise(batch, TAPS[name].channels, *GRIDS[name], seed=i) for i, name in enumerate(TAPS)}


class TestHead:
    @pytest.mark.parametrize("output", ROTATIONS)
    def test_begins_near_the_anchor(self, output: str) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            head = Head(Pooled(10, 64, 0.0), ("last",), output)  # type: ignore[arg-type]
        numbers = head(maps())
        rotation = ROTATIONS[output][0](numbers.raw_BK)
        assert_allclose(rotation.detach().numpy(), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=0.1)
        assert (numbers.centre_B3.norm(dim=-1) < 1).all()
        assert numbers.raw_BK.shape == (2, {"quaternion": 4, "log-quaternion": 3, "6d": 6, "9d": 9}[output])

    def test_the_last_layer_keeps_full_precision_under_autocast(self) -> None:
        head = Head(Pooled(10, 64, 0.0), ("last",), "6d")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = head(maps())
        assert under.centre_B3.dtype == under.raw_BK.dtype == torch.float32
        expected = under.feature_BD @ head.centre.weight.T + head.centre.bias
        assert_allclose(under.centre_B3.detach().numpy(), expected.detach().numpy(), rtol=0, atol=1e-6)

    def test_centre_and_rotation_are_linear_in_the_feature(self) -> None:
        head = Head(Pooled(10, 64, 0.0), ("last",), "9d")
        numbers = head(maps())
        for found, layer in ((numbers.centre_B3, head.centre), (numbers.raw_BK, head.rotation)):
            assert torch.equal(found, layer(numbers.feature_BD))


class TestPooled:
    def test_forgets_where_things_are(self) -> None:
        body, last = Pooled(10, 64, 0.0), maps()["last"]
        assert_allclose(body(last).detach().numpy(), body(last.flip(-1)).detach().numpy(), atol=1e-6)

    def test_drops_in_training_only(self) -> None:
        body, last = Pooled(10, 512, 0.5), maps()["last"].abs()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            dropped = body(last)
        kept = body.eval()(last)
        active = kept > 0
        assert 0.35 < float((dropped[active] == 0).float().mean()) < 0.65
        alive = dropped > 0
        assert_allclose(dropped[alive].detach().numpy(), 2 * kept[alive].detach().numpy(), rtol=1e-5)


class TestGrid:
    def test_knows_where_things_are(self) -> None:
        body, last = GridBody(10, (2, 3), 64, 0.0), maps()["last"]
        assert not torch.allclose(body(last), body(last.flip(-1)), atol=1e-3)

    def test_takes_maps_of_other_sizes_by_averaging_their_cells(self) -> None:
        body, last = GridBody(10, (2, 3), 64, 0.0), maps()["last"]
        doubled = last.repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert_allclose(body(doubled).detach().numpy(), body(last).detach().numpy(), atol=1e-6)
        assert body(noise(2, 10, 3, 2)).shape == (2, 64)


class TestScanned:
    def test_reads_rows_and_columns_from_all_four_sides(self) -> None:
        body = Scanned(32 * 8, 0.0)
        picture = noise(2, 32, 8)
        read = {
            (body.across, ""): list(picture.unbind(1)),
            (body.across, "_reverse"): list(picture.unbind(1))[::-1],
            (body.down, ""): list(picture.unbind(2)),
            (body.down, "_reverse"): list(picture.unbind(2))[::-1],
        }
        expected = torch.cat([last_state(lstm, side, steps) for (lstm, side), steps in read.items()], dim=1)
        assert_allclose(body(picture.flatten(1)).detach().numpy(), expected.detach().numpy(), atol=1e-6)

    def test_is_that_of_the_paper(self) -> None:
        body = Scanned(2048, 0.5)
        assert (body.across.input_size, body.down.input_size) == (64, 32)
        assert body.features == 1024

    def test_refuses_widths_that_are_no_rows_of_32(self) -> None:
        with pytest.raises(MapError, match="hidden 100"):
            Scanned(100, 0.0)


def last_state(lstm: nn.LSTM, side: str, steps: list[Tensor]) -> Tensor:
    """One direction of an LSTM, cell by cell."""
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(getattr(lstm, f"{name}_l0{side}"))
    state = (torch.zeros(len(steps[0]), lstm.hidden_size),) * 2
    for step in steps:
        state = cell(step, state)
    return state[0]


class TestAuxiliary:
    def test_is_googlenets_at_its_size(self) -> None:
        body = Auxiliary(512, (14, 14), 0.7)
        assert (body.kernel, body.grid, body.fc.in_features) == (5, (4, 4), 2048)
        assert float(body.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert body(noise(2, 512, 14, 14)).shape == (2, 1024)

    def test_averages_cells_of_five_at_every_third(self) -> None:
        body, given = Auxiliary(5, (14, 14), 0.0), noise(2, 5, 14, 14)
        starts = (0, 3, 6, 9)
        cells = [given[..., y : y + 5, x : x + 5].mean((-2, -1)) for y in starts for x in starts]
        coded = torch.relu(body.conv(torch.stack(cells, dim=-1).reshape(2, 5, 4, 4)))
        expected = torch.relu(body.fc(coded.flatten(1)))
        assert_allclose(body(given).detach().numpy(), expected.detach().numpy(), atol=1e-6)

    @pytest.mark.parametrize("grid", [(1, 1), (3, 4), (4, 9), (12, 16)])
    def test_fits_other_sizes(self, grid: tuple[int, int]) -> None:
        body = Auxiliary(5, grid, 0.0)
        assert body(noise(2, 5, *grid)).shape == (2, 1024)
        assert body(noise(2, 5, 9, 7)).shape == (2, 1024)


class TestMainHead:
    @pytest.mark.parametrize("head", ["grid", "posenet", "lstm", "hourglass"])
    @pytest.mark.parametrize("output", ROTATIONS)
    def test_every_head_gives_every_output(self, head: str, output: str) -> None:
        numbers = main_head(settings(head=head, rotation=output), TAPS, GRIDS)(maps())
        assert numbers.centre_B3.shape == (2, 3)
        assert numbers.raw_BK.shape == (2, len(ROTATIONS[output][1]))
        assert numbers.feature_BD.shape == (2, 1024 if head == "lstm" else 64)

    def test_the_last_tap_is_read(self) -> None:
        for head in ("grid", "posenet", "lstm"):
            assert main_head(settings(head=head), TAPS, GRIDS).taps == ("last",)

    def test_the_hourglass_reads_the_last_map_of_each_stride(self) -> None:
        assert main_head(settings(head="hourglass"), TAPS, GRIDS).taps == ("fine", "half", "inner2", "last")

    def test_a_backbone_without_fine_maps_has_no_hourglass(self) -> None:
        coarse = {name: tap for name, tap in TAPS.items() if tap.stride > 8}
        with pytest.raises(MapError, match=r"no map of \[4, 8\]"):
            main_head(settings(head="hourglass"), coarse, GRIDS)


class TestAuxiliaryHeads:
    def test_stand_after_inception_4a_and_4d_where_there_are_such(self) -> None:
        taps = {"inception4a": Tap(5, 16), "inception4d": Tap(6, 16), "inception4e": Tap(7, 16), "end": Tap(8, 32)}
        heads = auxiliary_heads(settings(dropout=0.5), taps, dict.fromkeys(taps, (14, 14)))
        assert [head.taps for head in heads] == [("inception4a",), ("inception4d",)]

    def test_stand_after_the_last_two_middle_maps_elsewhere(self) -> None:
        heads = auxiliary_heads(settings(), TAPS, GRIDS)
        assert [head.taps for head in heads] == [("inner",), ("inner2",)]
        one = {name: tap for name, tap in TAPS.items() if name != "inner2"}
        assert [head.taps for head in auxiliary_heads(settings(), one, GRIDS)] == [("half",), ("inner",)]

    @pytest.mark.parametrize(("dropout", "expected"), [(0.0, 0.0), (0.5, 0.7)])
    @pytest.mark.parametrize("kind", ["posenet", "lstm"])
    def test_drop_more_than_the_main_one_if_it_drops_at_all(self, kind: str, dropout: float, expected: float) -> None:
        for head in auxiliary_heads(settings(head=kind, dropout=dropout), TAPS, GRIDS):
            rates = [module.p for module in head.modules() if isinstance(module, nn.Dropout)]
            assert sum(rates) == expected  # and once
            assert isinstance(head.body, Chain if kind == "lstm" else Auxiliary)

    def test_those_of_the_lstm_scan_32_rows_of_32(self) -> None:
        for head in auxiliary_heads(settings(head="lstm"), TAPS, GRIDS):
            assert head.body[1].shape == (32, 32)  # type: ignore[index]
            assert head(maps()).feature_BD.shape == (2, 1024)
