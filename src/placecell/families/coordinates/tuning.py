"""The head of a fast map, tuned by the poses that RANSAC makes of what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell.errors import MapError
from placecell.families.coordinates.buffer import Buffer, Looker
from placecell.families.coordinates.dsac.expected import Picture, Ransac, expected_losses, told_of
from placecell.families.coordinates.dsac.sights import Pixels
from placecell.families.coordinates.keeping import rounded
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.coordinates.working import working_folder
from placecell.localizer import config_to_json
from placecell.log import Log
from placecell.scene import Frame, Scene
from placecell.train.loop import Batch, Plan, Trained, fit
from placecell.train.optimizers import optimizer

_PURPOSE = 7
"""Of the seed."""
_SPREAD = 4
"""Which of the last numbers of a head is its spread."""
_LOOKS = 5
"""How often a tuning is judged by its held-out frames on the way."""
_LEAST_NOISE_PX = 1.0
"""As the map has it when it answers."""


@dataclass(frozen=True)
class Tuning:
    """How a head is tuned; found on blocks held out of the training frames of the red kitchen."""

    learns: Literal["spread", "all"] = "spread"
    """What of the head: how sure it is of each cell, or where cells lie as well. The latter betters the poses of the
    training pictures more, and makes those of others worse: a picture is six numbers, soon known by heart."""
    cells: int = 1600
    """Cells of each picture that are kept; RANSAC works on the surest of them, as many as of a query by share."""
    pictures: int = 16
    """A step."""
    learning_rate: float = 1e-3
    """Its peak, after which it falls to nothing."""
    average: float = 0.98
    """Decay of the moving average of the weights that the map is made of."""
    clip_norm: float = 10.0
    """Longest gradient."""
    hypotheses: int = 16
    """Poses that RANSAC chooses between, a picture."""
    alpha: float = 100.0
    """As `Ransac.alpha`."""
    degree_cm: float = 3.3
    """How many centimetres count as much as a degree; hundredths of the map's scale where the scene has no metres."""
    soft_deg: float = 1.0
    """A loss above so many degrees grows with its root only."""


def tuned(
    found: CoordinatesMap,
    scene: Scene,
    frames: Sequence[Frame],
    *,
    steps: int,
    seed: int,
    log: Log,
    work: Path | None = None,
    tuning: Tuning | None = None,
    judge: Callable[[nn.Module], dict[str, float]] | None = None,
) -> CoordinatesMap:
    """The map with its head trained for some more steps end to end, on whole pictures as they are (`PicturesTask`).

    Args:
        frames: the posed frames that the map was built from.
        work: folder, made when needed, for what the encoder says of the pictures and for the checkpoint from which an
            interrupted tuning goes on; None keeps nothing.
        judge: what a head is worth on held-out frames.

    Raises:
        ImageError: a picture cannot be read.
        MapError: the map has several heads.
        PlacecellError: as `placecell.train.loop.fit`.
    """
    if found.family.experts > 1:
        raise MapError(f"a map of {found.family.experts} experts cannot be tuned end to end; leave out --experts")
    tuning = Tuning() if tuning is None else tuning
    still: dict[str, Any] = {"turn_deg": 0.0, "zoom": 1.0, "colour": 0.0, "surfaces": False}
    config = replace(found.family, looks=1, samples=tuning.cells, **still)
    device = next(found.head.parameters()).device.type
    with working_folder(work) as folder:
        looker = Looker.of(scene, frames, found.camera, found.encoder, config, seed)
        buffer = Buffer.filled(looker, found.anchor, config, folder=folder, log=log)
        task = PicturesTask.of(found, buffer, tuning, seed, judge)
        identity: dict[str, Any] = {"scene": f"{scene.name} {scene.fingerprint}", "frames": len(frames)}
        identity |= {"settings": config_to_json(found.family), "tuning": asdict(tuning)}
        head = deepcopy(found.head)
        if tuning.learns == "spread":
            learn_spread_only(head)
        trained = _fit(task, head, steps, identity, device, None if work is None else folder, log)
        made = deepcopy(found.head)
        made.load_state_dict(trained.network.state_dict())
    told: dict[str, Any] = {"end_to_end_steps": trained.steps, "end_to_end_validation": trained.validation}
    if trained.interrupted:
        told["unfinished"] = f"end-to-end training stopped after step {trained.steps} of {steps}"
    info = replace(found.info, extra={**found.info.extra, **told})
    return replace(found, info=info, head=rounded(made, found.family.kept)).to(device)


def learn_spread_only(head: nn.Module) -> None:
    """From now on gradients reach nothing of a `Head` but the numbers that its spread is the last product of."""
    head.requires_grad_(False)
    for name in ("leave.weight", "leave.bias"):
        parameter = head.get_parameter(name).requires_grad_(True)
        kept = torch.zeros_like(parameter)
        kept[_SPREAD] = 1.0
        parameter.register_hook(partial(torch.mul, kept))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class PicturesTask:
    """A `placecell.train` task: the head's pose loss on whole looks, expected over the hypotheses of RANSAC.

    RANSAC is that of use as far as a gradient goes through it: the surest cells, chosen by the spread that the head
    says; P3P hypotheses among which soft inlier counts choose; the optimum over all inliers of Cauchy's kernel as wide
    as the spread. So coordinates learn what moves the pose, and spreads learn how much each cell should count.
    """

    buffer: Buffer
    tuning: Tuning
    ransac: Ransac
    share: float
    """Of the cells, the surest, that RANSAC works on."""
    seed: int
    context: bool = False
    """The head is told what the whole look is like, too."""
    judge: Callable[[nn.Module], dict[str, float]] | None = None

    @classmethod
    def of(
        cls,
        found: CoordinatesMap,
        buffer: Buffer,
        tuning: Tuning,
        seed: int,
        judge: Callable[[nn.Module], dict[str, float]] | None = None,
    ) -> PicturesTask:
        """The task of a map: RANSAC as it does it."""
        ransac = Ransac(
            hypotheses=tuning.hypotheses,
            max_error=found.family.max_error_px,
            alpha=tuning.alpha,
            measure="sum",
            cm_per_unit=100.0 / tuning.degree_cm / (1.0 if found.info.metric else found.anchor.scale),
            soft=tuning.soft_deg,
        )
        cells = found.camera.width * found.camera.height / 64
        share = min(1.0, found.family.queried / cells)
        return cls(buffer, tuning, ransac, share, seed, found.family.context, judge)

    def batch(self, step: int, rank: int, ranks: int) -> Batch:
        """The looks of a step that one of several processes learns from."""
        buffer, looks = self.buffer, self._chosen(step)[rank::ranks]
        cells = buffer.cells[looks]
        draws = np.random.SeedSequence((self.seed, _PURPOSE, 1, step)).generate_state(len(self._chosen(step)))
        parts = {
            "features": cells["feature"],
            "rays": cells["ray"],
            "rotation": buffer.rotations[looks],
            "centre": buffer.centres[looks],
            "focal": buffer.focals_px[looks],
            "draw": draws[rank::ranks].astype(np.int64),
        }
        if self.context:
            parts["overall"] = buffer.overall[looks]
        return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean expected loss; that of the best hypothesis, how unsure the choice was (nats), looks without any."""
        pictures, cells = batch["rays"].shape[:2]
        context = (batch["overall"].repeat_interleave(cells, dim=0),) if "overall" in batch else ()
        points, spread = network(batch["features"].flatten(0, 1), *context)
        points, spread = points.view(pictures, cells, 3), spread.view(pictures, cells)
        looks = [self._picture(points[index], spread[index], batch, index) for index in range(pictures)]
        return told_of(expected_losses(looks, self.ransac), 0 * points.sum())

    def named(self, step: int) -> list[str]:
        """The frames of a step."""
        return [self.buffer.names[look] for look in self._chosen(step)]

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Median errors on the held-out frames; {} where none are."""
        return {} if self.judge is None else self.judge(network)

    def _picture(self, points_N3: Tensor, spread_N: Tensor, batch: Batch, index: int) -> Picture:
        surest = torch.argsort(spread_N, stable=True)[: max(4, round(self.share * len(spread_N)))]
        focal_px = float(batch["focal"][index])
        flat_px = focal_px * batch["rays"][index][surest].mT.double()
        return Picture(
            points_N3[surest],
            Pixels(flat_px, (focal_px, focal_px), (0.0, 0.0)),
            batch["rotation"][index].double(),
            batch["centre"][index].double(),
            torch.Generator().manual_seed(int(batch["draw"][index])),
            spread_N[surest].exp().clamp_min(_LEAST_NOISE_PX),
        )

    def _chosen(self, step: int) -> NDArray[np.intp]:
        """Which looks a step learns from."""
        usable, count = self.buffer.looks, self.tuning.pictures
        places = np.arange(step * count, (step + 1) * count)
        turns, indices = np.divmod(places, len(usable))
        rows = [_order(self.seed, int(turn), len(usable))[index] for turn, index in zip(turns, indices, strict=True)]
        return np.asarray(usable[rows], np.intp)


def _fit(
    task: PicturesTask,
    head: nn.Module,
    steps: int,
    identity: Mapping[str, Any],
    device: str,
    work: Path | None,
    log: Log,
) -> Trained:
    tuning = task.tuning
    plan = Plan(
        steps=steps,
        batch=tuning.pictures,
        device=device,
        seed=task.seed,
        average=tuning.average,
        clip_norm=tuning.clip_norm,
        validate_every=max(1, steps // _LOOKS) if task.judge is not None else 0,
        channels_last=False,
    )

    def optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        return optimizer(network, "adam", tuning.learning_rate, steps=steps, schedule="onecycle", warmup=0.1)

    return fit(head, task, plan, optimizer=optimized, work=work, identity=identity, log=log)


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _PURPOSE, 0, turn]).permutation(count)
