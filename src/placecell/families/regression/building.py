"""From a scene to a trained map: which frames, which pictures, which network, and the training between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell import backbones
from placecell.anchor import Anchor
from placecell.errors import MapError
from placecell.families.regression import seen
from placecell.families.regression.alignment import Alignment, cell_rays
from placecell.families.regression.config import Regression
from placecell.families.regression.localizer import RegressionMap, answering, size_seen
from placecell.families.regression.network import PoseNetwork
from placecell.families.regression.novel import Known, Wander, typical_depth
from placecell.families.regression.shots import Shots, require_depth, shots_of
from placecell.families.regression.training import RegressionTask
from placecell.images import LEAST_DETAIL
from placecell.localizer import MapInfo, config_to_json
from placecell.log import Log, Silent
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene
from placecell.spacing import evenly
from placecell.train.checkpoint import require_own
from placecell.train.devices import leads, require_device
from placecell.train.failures import plain_memory_errors
from placecell.train.holdout import held_out
from placecell.train.loop import Plan, Trained, fit
from placecell.train.optimizers import optimizer
from placecell.views import has_depth

_WARMUP = 0.1
"""Share of the steps over which the one-cycle schedule rises to the peak."""
_LOOKS = 20
"""How often a training is judged by its held-out frames on the way, once an epoch at most."""
_KEPT = ("pictures", "depth", "surfaces", "views")
"""What lies in the work folder beside the checkpoint."""
_ONE_CELL_PX = 32
"""Pictures of this side are one cell of an encoder's last map."""
_RANGED = 64
"""Frames, spread evenly, that tell how deep the surfaces of a scene lie."""
_DEPTHS_WITHOUT_POINTS = (0.5, 5.0)
"""Metres, between which things lie indoors, for the losses that need a depth where a scene knows none; times the scale
of the map where the scene is not metric."""


def build(
    config: Regression, scene: Scene, *, device: str, seed: int, log: Log, work: Path | None = None
) -> RegressionMap:
    """See `Regression.build`."""
    log = log if leads() else Silent()
    require_device(device)
    if work is not None:
        require_own(work, _identity(config, scene, seed), beside=_KEPT)
    frames = scene.split("train").posed
    if not frames:
        raise MapError(f"scene {scene.name} has no posed training frame; label some, or choose another scene")
    learned, held = chosen(config, frames)
    frames = tuple(frames[index] for index in (*learned, *held))
    if config.depth:
        require_depth(scene, frames)
    if config.loss == "reprojection":
        seen.require_points(scene, frames)
    anchor = Anchor.of([frame.world_from_cam for frame in frames[: len(learned)] if frame.world_from_cam is not None])
    _warn_of_one_place(scene, frames[: len(learned)], log)
    camera = canonical_camera([scene.camera_of(frame) for frame in frames[: len(learned)]], config.short_side)
    network, weights = _beginning(config, anchor.scale, size_seen(camera, config), seed, log)
    with _folder(work) as folder:
        shots = shots_of(scene, frames, camera, anchor, depth=config.depth, folder=folder, log=log)
        task = _task(config, scene, shots, len(learned), seed, log)
        task = _with_points(task, scene, frames[: len(learned)], anchor, log)
        task = _with_surfaces(task, network, scene, frames[: len(learned)], anchor, folder, log)
        begin(network, task)
        trained = _fit(task, network, scene, device, None if work is None else folder, log)
        return _map(task, scene, frames[len(learned) :], anchor, trained, weights, device)


def chosen(config: Regression, frames: Sequence[Frame]) -> tuple[list[int], list[int]]:
    """Which frames are learned from and which the training is judged by; thinned after the latter are set aside."""
    held = held_out(frames, config.validation)
    rest = [index for index in range(len(frames)) if index not in held]
    if config.frames > 0:
        rest = evenly(rest, config.frames)
    return rest, sorted(held)


def _warn_of_one_place(scene: Scene, frames: Sequence[Frame], log: Log) -> None:
    centres = np.array([frame.world_from_cam.translation for frame in frames if frame.world_from_cam is not None])
    if len(frames) > 1 and np.ptp(centres, axis=0).max() < 1e-6:
        log.warn(
            f"scene {scene.name}: all {len(frames)} training frames were taken from one place, so that is where the "
            "map will say every picture was taken"
        )


def _beginning(config: Regression, scale: float, size: tuple[int, int], seed: int, log: Log) -> tuple[PoseNetwork, str]:
    """The network before training, drawn from the seed, and where the weights of its encoders come from."""
    with torch.random.fork_rng(devices=[]), plain_memory_errors("making the network", "--hidden"):
        torch.manual_seed(seed)
        network = PoseNetwork(config, scale, size=size)
    weights = backbones.load_weights(network.backbone, config.backbone, config.weights, log=log)
    network.drop_unused()
    if network.depth_backbone is not None:  # a code of three channels, so that weights of colour can begin it
        backbones.load_weights(network.depth_backbone, config.backbone, config.weights, log=log)
    return network, weights


def _task(config: Regression, scene: Scene, shots: Shots, learned: int, seed: int, log: Log) -> RegressionTask:
    """What is trained on: the shots with something in them."""
    with_something = np.flatnonzero(shots.details >= LEAST_DETAIL)
    used, held = (with_something[with_something < learned], with_something[with_something >= learned])
    if not len(used):
        raise MapError(f"scene {scene.name}: there is nothing in its training pictures; are they black?")
    blank = sorted(set(range(len(shots))) - set(with_something.tolist()))
    if blank:
        log.warn(f"{len(blank)} of {len(shots)} pictures are blank and teach nothing: {shots.names[blank[0]]}, …")
    if len(used) < config.batch:
        log.say(f"{len(used)} training frames are fewer than a batch of {config.batch}, so a step takes all of them")
    batch = min(config.batch, len(used))
    if batch == 1 and max(size_seen(shots.camera, config)) <= _ONE_CELL_PX:
        raise MapError(f"one picture a step of {_ONE_CELL_PX} px leaves batch norms nothing to average; raise --batch")
    if config.devices > batch:
        raise MapError(f"--devices {config.devices} cannot share out {batch} pictures a step; lower --devices")
    steps = max(1, round(config.epochs * len(used) / batch))
    return RegressionTask(config, shots, used, held, steps, seed, scene.metric)


def _with_points(
    task: RegressionTask, scene: Scene, frames: Sequence[Frame], anchor: Anchor, log: Log
) -> RegressionTask:
    """The task with the points that the frames learned from see, and the depths they lie at, if its loss asks."""
    loss, shots = task.config.loss, task.shots.first(len(frames))
    if loss not in ("reprojection", "virtual-points", "homography"):
        return task
    if loss != "reprojection" and not has_depth(scene, frames):
        near, far = (depth * (1.0 if scene.metric else anchor.scale) for depth in _DEPTHS_WITHOUT_POINTS)
        log.warn(f"scene {scene.name} has no points and no depth: things are taken to lie {near:g} to {far:g} away")
        return replace(task, depth_range=(near, far))
    some = slice(None, None, 1 if loss == "reprojection" else max(1, len(frames) // _RANGED))
    points = seen.seen_points(scene, frames[some], anchor, shots.camera, log)
    depths = seen.depth_range(points, shots.centres[some], shots.rotations[some])
    if depths is None:
        raise MapError(f"scene {scene.name}: its training frames see none of its points; choose another --loss")
    return replace(task, points=points if loss == "reprojection" else None, depth_range=depths)


def _with_surfaces(
    task: RegressionTask,
    network: PoseNetwork,
    scene: Scene,
    frames: Sequence[Frame],
    anchor: Anchor,
    folder: Path,
    log: Log,
) -> RegressionTask:
    """The task with new views to learn from, and with what is known of what the align head's cells show."""
    config, head = task.config, network.head if task.config.surface_weight else None
    count = round(config.new_views * len(frames)) if config.new_view_share else 0
    if not (count or isinstance(head, Alignment)):
        return task
    if config.depth or config.loss == "reprojection":
        log.say("new views have neither the depth nor the points that these settings learn from: none are made")
        return task
    if not has_depth(scene, frames):
        log.say(f"scene {scene.name} has neither depth nor points: no new views are made, poses alone are learned from")
        return task
    taken = task.shots.first(len(frames))
    known = Known.of(scene, frames, taken, anchor, folder, log)
    task = replace(task, views=_views(known, task, count, log) if count else None)
    if not isinstance(head, Alignment):
        return task
    # Only training frames are learned from, so the held-out ones behind them need no surfaces.
    cells = cell_rays(task.shots.camera, head.grid).astype(np.float32)
    return replace(task, shots=replace(task.shots, surfaces=known.surfaces()), cells=cells)


def _views(known: Known, task: RegressionTask, count: int, log: Log) -> Shots | None:
    """So many new views; None where there is nothing to see in any of them."""
    config = task.config
    views = known.views(Wander(config.new_view_distance, config.new_view_turn_deg), count, task.seed)
    blank = np.count_nonzero(views.details < LEAST_DETAIL)
    if blank:
        log.warn(f"{blank} of {count} new views show nothing and teach nothing; lower --new-view-distance")
    return None if blank == count else views


def begin(network: PoseNetwork, task: RegressionTask) -> None:
    """Tell an align head its camera, and the middle of what is known, or of what the cameras look at."""
    if not isinstance(network.head, Alignment):
        return
    surfaces, shots = task.shots.surfaces, task.shots
    depth = float(np.mean(task.depth_range)) or 2.0 * network.scale
    if surfaces is not None and np.isfinite(surfaces).any():
        depth = typical_depth(surfaces)
    middle = (shots.centres + depth * shots.rotations[:, :, 2])[task.learned].mean(axis=0).astype(np.float64)
    network.head.begin(shots.camera, depth=depth, middle=depth * (middle / depth).round(2))


def _fit(task: RegressionTask, network: PoseNetwork, scene: Scene, device: str, work: Path | None, log: Log) -> Trained:
    config = task.config
    plan = Plan(
        steps=task.steps,
        batch=task.batch_size,
        precision=config.precision,
        device=device,
        devices=config.devices,
        seed=task.seed,
        average=config.average,
        validate_every=max(len(task.learned) // task.batch_size, task.steps // _LOOKS) if len(task.held) else 0,
    )
    identity = {**_identity(config, scene, task.seed), "frames": len(task.learned)}

    def optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        return optimizer(
            network,
            config.optimizer,
            config.learning_rate,
            config.weight_decay,
            eps=config.eps,
            bias_multiplier=config.bias_multiplier,
            number_multiplier=config.loss_multiplier,
            steps=steps,
            schedule=config.schedule,
            warmup=_WARMUP,
            gamma=config.gamma,
            every=config.gamma_steps,
        )

    return fit(network, task, plan, optimizer=optimized, work=work, identity=identity, log=log)


def _identity(config: Regression, scene: Scene, seed: int) -> dict[str, Any]:
    """What tells a training from others before any work is done."""
    return {"scene": f"{scene.name} {scene.fingerprint}", "settings": config_to_json(config), "seed": seed}


def _map(
    task: RegressionTask,
    scene: Scene,
    held: Sequence[Frame],
    anchor: Anchor,
    trained: Trained,
    weights: str,
    device: str,
) -> RegressionMap:
    config, camera = task.config, task.shots.camera
    told = {"weights": weights, "steps": trained.steps, "validation": trained.validation}
    if trained.interrupted:
        told["unfinished"] = f"training stopped after step {trained.steps} of {task.steps}"
    if not isinstance(trained.network, PoseNetwork):
        raise TypeError(f"trained a {type(trained.network).__name__}, not a PoseNetwork")
    return RegressionMap(
        family=config,
        info=MapInfo.of(config, scene, task.seed, held=held, **told),
        network=answering(trained.network, config, camera).to(device),
        camera=camera,
        anchor=anchor,
        least_detail=float(task.shots.details[task.learned].min()),
        log_csv=trained.log_csv,
    )


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """Where decoded pictures and checkpoints lie: the work folder, or one that is gone afterwards."""
    if work is not None:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MapError(f"{work} cannot be made ({error.strerror}); choose a folder you own") from error
        yield work
        return
    with TemporaryDirectory(prefix="placecell-") as folder:
        yield Path(folder)
