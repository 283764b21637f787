"""How a pose-regression network is taught: its batches, its loss at each step, and how it is judged on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from placecell import augment
from placecell.anchor import Floats
from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.families.regression import dense, losses
from placecell.families.regression.alignment import surface_loss
from placecell.families.regression.config import Regression
from placecell.families.regression.network import Answer
from placecell.families.regression.novel import surface_targets
from placecell.families.regression.shots import Shots
from placecell.families.regression.sight import depth_tensor, turned_depth
from placecell.geometry_torch import rotation_angle_rad
from placecell.images import LEAST_DETAIL
from placecell.pose import Array

_POINTS = 128
"""Points of a picture in a step of the reprojection loss."""
_LEAST_PX = 0.1
"""Reprojection errors below this teach nothing more."""
_JUDGED_AT_ONCE = 32
_EPOCHS, _SAMPLES = 1, 2
"""Purposes of the seeds."""


@dataclass(frozen=True, eq=False)
class RegressionTask:
    """A `placecell.train` task. Batches are a function of (seed, step) alone, so a training can go on anywhere."""

    config: Regression
    shots: Shots
    learned: NDArray[np.intp]
    """Which shots are learned from."""
    held: NDArray[np.intp]
    """Which shots the training is judged by."""
    steps: int
    seed: int
    metric: bool
    points: Sequence[Floats] | None = None
    """Points in the frame of the anchor that each shot sees, for the reprojection loss."""
    depth_range: tuple[float, float] = (0.0, 0.0)
    """Nearest and farthest depth, for the losses that put points or planes into the view."""
    views: Shots | None = None
    """New views, to learn from beside the shots."""
    cells: Floats | None = None
    """(N, 3) rays through the middles of the align head's cells; None where it is not told what they show."""

    @property
    def batch_size(self) -> int:
        """Pictures a step: those asked for, or all there are."""
        return min(self.config.batch, len(self.learned))

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> dict[str, Tensor]:
        """This rank's share of the pictures of a step, each varied in its own way, and the poses of the result."""
        samples = [self._sample(step, place) for place in range(rank, self.batch_size, ranks)]
        batch = {
            "images": picture_tensor(np.stack([sample.image for sample in samples])),
            "centre": torch.from_numpy(np.stack([sample.centre for sample in samples])),
            "rotation": torch.from_numpy(np.stack([sample.rotation for sample in samples])),
            "K": torch.from_numpy(np.stack([sample.camera.matrix for sample in samples]).astype(np.float32)),
        }
        if self.shots.depths is not None:
            batch["depth"] = depth_tensor([(s.depth_m, s.camera) for s in samples if s.depth_m is not None])
        if self.points is not None:
            seen = [_some(self.points[sample.shot], sample) for sample in samples]
            batch["points"] = torch.from_numpy(np.stack([points for points, _ in seen]))
            batch["points_valid"] = torch.from_numpy(np.stack([valid for _, valid in seen]))
        if self.cells is not None:
            targets = [self._surface(sample, self.cells) for sample in samples]
            batch["cell_points"] = torch.from_numpy(np.stack([points for points, _ in targets]))
            batch["cell_depth"] = torch.from_numpy(np.stack([depth for _, depth in targets]))
        return batch

    def _surface(self, sample: Sample, cells: Floats) -> tuple[Floats, Floats]:
        """The points (N, 3) and depths (N,) that the cells of a varied picture show, NaN where nobody knows."""
        surfaces = sample.shots.surfaces
        if surfaces is None:
            return np.full((len(cells), 3), np.nan, np.float32), np.full(len(cells), np.nan, np.float32)
        anchor_from_varied = sample.rotation, sample.centre
        return surface_targets(surfaces[sample.shot], sample.shots.camera, cells, sample.turn, anchor_from_varied)

    def named(self, step: int) -> list[str]:
        """The frames of a step."""
        chosen = [self._shot(step, place, self._rng(step, place)) for place in range(self.batch_size)]
        return [shots.names[shot] for shots, shot in chosen]

    def _rng(self, step: int, place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, _SAMPLES, step, place])

    def _shot(self, step: int, place: int, rng: np.random.Generator) -> tuple[Shots, int]:
        """A new view, or the shot whose turn it is: each epoch goes through all in an order of its own."""
        if self.views is not None and rng.random() < self.config.new_view_share:
            return self.views, int(self._clear_views[rng.integers(len(self._clear_views))])
        epoch, index = divmod(step * self.batch_size + place, len(self.learned))
        return self.shots, int(self.learned[_order(len(self.learned), self.seed, epoch)[index]])

    def _sample(self, step: int, place: int) -> Sample:
        rng = self._rng(step, place)
        shots, shot = self._shot(step, place, rng)
        config, camera = self.config, shots.camera
        image, camera, cam_from_varied = self._augmentation.vary(shots.images[shot], camera, camera, rng)
        if config.crop:
            image, camera, _ = augment.crop(image, camera, config.crop, rng)
        depths = shots.depths
        depth_m = None if depths is None else turned_depth(depths[shot], shots.camera, camera, cam_from_varied)
        rotation = (shots.rotations[shot].astype(np.float64) @ cam_from_varied).astype(np.float32)
        return Sample(shots, shot, image, camera, shots.centres[shot], rotation, cam_from_varied, depth_m, rng)

    @cached_property
    def _clear_views(self) -> NDArray[np.intp]:
        """Which of the new views show something."""
        return np.flatnonzero(np.zeros(0) if self.views is None else self.views.details >= LEAST_DETAIL)

    @cached_property
    def _augmentation(self) -> augment.Augmentation:
        return augment.Augmentation(turn_deg=self.config.turn_deg, colour=self.config.colour)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The loss over all heads; and how far off the main one is, in scene units and degrees."""
        answers: list[Answer] = network(batch["images"], batch.get("depth"))
        total = torch.stack([answer.weight * self._loss(network, answer, batch, step) for answer in answers]).sum()
        total = total + self._beside(answers[0], batch)
        if answers[0].surface is not None and "cell_depth" in batch:
            told = surface_loss(answers[0].surface, batch["cell_points"], batch["cell_depth"])
            total = total + self.config.surface_weight * told
        with torch.no_grad():
            away, turned = errors(answers[0], batch["centre"], batch["rotation"])
        return {"loss": total, "distance": away.mean(), "angle_deg": turned.mean()}

    def _loss(self, network: nn.Module, answer: Answer, batch: Mapping[str, Tensor], step: int) -> Tensor:
        truth, config, depth = (batch["centre"], batch["rotation"]), self.config, self.depth_range
        if config.loss == "beta":
            return losses.beta_loss(answer, *truth, beta=config.beta, norm=config.norm)
        if config.loss == "likelihood" and config.covariance != "none":
            return losses.likelihood_loss(answer, *truth, kind=config.covariance)
        if config.loss == "virtual-points":
            size = (batch["images"].shape[3], batch["images"].shape[2])
            return losses.virtual_points_loss(answer, *truth, matrix_B33=batch["K"], size=size, depths=depth)
        if config.loss == "homography":
            return losses.homography_loss(answer, *truth, near=depth[0], far=depth[1])
        s_x, s_q = network.get_parameter("s_x"), network.get_parameter("s_q")
        if config.loss == "learned" or step < config.pretrain * self.steps:
            return losses.learned_loss(answer, *truth, s_x, s_q, norm=config.norm)
        points, valid = batch["points"], batch["points_valid"]
        loss = losses.reprojection_loss(answer, *truth, points_BN3=points, valid_BN=valid, matrix_B33=batch["K"])
        # The learned weighting divides a loss by its own size; the optimizer's running moments are used to that. Pixels
        # as they are would come as gradients a hundred times longer, and throw away what was learned.
        loss = loss.clamp_min(_LEAST_PX).log()
        return loss + 0.0 * (s_x + s_q)  # several devices wait for a gradient of every parameter

    def _beside(self, answer: Answer, batch: Mapping[str, Tensor]) -> Tensor | float:
        """The likelihood by which a covariance is learned beside the pose, which it must not move."""
        kind = self.config.covariance
        if answer.whitening_B66 is None or kind == "none" or self.config.loss == "likelihood":
            return 0.0
        apart = answer._replace(centre_B3=answer.centre_B3.detach(), rotation_B33=answer.rotation_B33.detach())
        return losses.likelihood_loss(apart, batch["centre"], batch["rotation"], kind=kind)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Median errors over the held-out frames as they are, seen as in use by one central look; {} without any."""
        if not len(self.held):
            return {}
        away, turned = zip(*self._judged(network), strict=True)
        distance, angle = float(torch.cat(away).median()), float(torch.cat(turned).median())
        return {"cm": 100 * distance, "deg": angle} if self.metric else {"units": distance, "deg": angle}

    def _judged(self, network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        shots, device = self.shots, next(network.parameters()).device
        look = dense.central(shots.camera, self.config.crop)
        for begin in range(0, len(self.held), _JUDGED_AT_ONCE):
            some = self.held[begin : begin + _JUDGED_AT_ONCE]
            images = picture_tensor(look.cut(shots.images[some])).to(device)
            depth = None
            if shots.depths is not None:
                depth = depth_tensor([(depth_m, look.camera) for depth_m in look.cut(shots.depths[some])]).to(device)
            centre, rotation = (torch.from_numpy(values[some]) for values in (shots.centres, shots.rotations))
            with torch.no_grad():
                yield errors(network(images, depth)[0], centre.to(device), rotation.to(device))


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture of a batch, varied."""

    shots: Shots
    shot: int
    """Which of the shots it was."""
    image: NDArray[np.uint8]
    camera: Camera
    centre: Floats
    rotation: Floats
    """`anchor_from_varied`."""
    turn: Array
    """`cam_from_varied`."""
    depth_m: NDArray[np.float32] | None
    rng: np.random.Generator
    """For what else is drawn for it."""


def errors(answer: Answer, centre_B3: Tensor, rotation_B33: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) distances of the centres in scene units, and angles between the rotations in degrees."""
    relative = answer.rotation_B33.float().transpose(1, 2) @ rotation_B33
    return (answer.centre_B3 - centre_B3).norm(dim=1), torch.rad2deg(rotation_angle_rad(relative))


def _some(known: Floats, sample: Sample) -> tuple[Floats, NDArray[np.bool_]]:
    """(N, 3) of the points that a shot sees, drawn with replacement, and which of them the varied picture sees."""
    if not len(known):
        return np.zeros((_POINTS, 3), np.float32), np.zeros(_POINTS, bool)
    points = known[sample.rng.integers(0, len(known), _POINTS)]
    points_cam = (points - sample.centre) @ sample.rotation
    return points, sample.camera.contains(sample.camera.project(points_cam))


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _EPOCHS, epoch]).permutation(count)
