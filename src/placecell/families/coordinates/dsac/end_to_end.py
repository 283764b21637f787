"""Training a coordinate network by the poses that RANSAC makes of what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from placecell.families.coordinates.dsac.expected import Picture, Ransac, Score, expected_losses, told_of
from placecell.families.coordinates.dsac.judging import median_errors
from placecell.families.coordinates.dsac.lessons import Lessons
from placecell.families.coordinates.dsac.scores import ScoreNetwork
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.families.coordinates.dsac.sights import Depths, Pixels, Sight


class Scored(nn.Module):
    """A coordinate network and the network that scores the hypotheses made of its coordinates, trained as one.

    Where the coordinates want no gradient, only the scores learn, as in DSAC's first stage for them.
    """

    def __init__(self, coordinates: nn.Module, score: ScoreNetwork) -> None:
        super().__init__()
        self.coordinates, self.score = coordinates, score

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """The coordinates (B, 3, h, w)."""
        found: Tensor = self.coordinates(images_B3HW)
        return found


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """A `placecell.train` task: any network from pictures (B, 3, H, W) to coordinates (B, 3, h, w), one a whole cell.

    The loss of a picture is that of its pose, expected over the hypotheses of RANSAC (`expected_losses`); a network
    with a `score` is judged by that. A picture of which no hypothesis can be made teaches nothing in that step; how
    many these are is logged as `lost`.
    """

    lessons: Lessons
    ransac: Ransac = field(default_factory=Ransac)
    rgbd: bool = False
    """Poses are made of 3D-3D matches with the depth of the shots; `ransac.max_error` is a length then."""

    def __post_init__(self) -> None:
        if self.rgbd and self.lessons.shots.depths is None:
            raise ValueError("3D-3D poses need the depth of the shots")

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> dict[str, Tensor]:
        """As `Lessons.batch`."""
        return self.lessons.batch(step, rank, ranks)

    def named(self, step: int) -> list[str]:
        """The frames of a step."""
        return self.lessons.named(step)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The expected loss; that of the best hypothesis, how unsure the choice was (nats), pictures without any."""
        coordinates = network(batch["images"])
        pictures = [self._picture(one, batch, index) for index, one in enumerate(coordinates)]
        found = expected_losses(pictures, self.ransac, score=self._score(network, coordinates.shape[-2:]))
        return told_of(found, 0 * coordinates.float().sum())

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Median pose errors over the held-out shots as they are."""
        lessons = self.lessons
        return median_errors(network, lessons.shots, lessons.held, self.ransac, stride=lessons.stride, rgbd=self.rgbd)

    def _picture(self, coordinates_3hw: Tensor, batch: Mapping[str, Tensor], index: int) -> Picture:
        generator = torch.Generator().manual_seed(int(batch["draw"][index]))
        truth = (batch["rotation"][index], batch["centre"][index])
        return Picture(coordinates_3hw.flatten(1).mT, self._sight(batch, index), *truth, generator)

    def _score(self, network: nn.Module, size: Sequence[int]) -> Score | None:
        learned = getattr(network, "score", None)
        if learned is None:
            return None
        return partial(learned, max_error=self.ransac.max_error, size=tuple(size), alpha=self.ransac.alpha)

    def _sight(self, batch: Mapping[str, Tensor], index: int) -> Sight:
        if self.rgbd:
            return Depths.of(batch["seen"][index].flatten(0, 1), batch["seen"].device)
        matrix, usual = batch["K"][index].double().cpu().numpy(), self.lessons.shots.camera
        camera = replace(usual, fx=matrix[0, 0], fy=matrix[1, 1], cx=matrix[0, 2], cy=matrix[1, 2])
        return Pixels.of(cell_pixels(camera, self.lessons.stride).reshape(-1, 2), camera, batch["K"].device)
