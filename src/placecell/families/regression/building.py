"""From a scene to a trained map: which frames, which pictures, which network, and the training between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell import backbones
from placecell.errors import MapError
from placecell.families.regression import seen
from placecell.families.regression.alignment import Alignment, cell_grid, cell_rays
from placecell.families.regression.config import Regression
from placecell.families.regression.labels import Anchor
from placecell.families.regression.localizer import RegressionMap, answering, require_device, size_seen
from placecell.families.regression.network import PoseNetwork
from placecell.families.regression.novel import Known, Wander
from placecell.families.regression.shots import LEAST_DETAIL, Shots, require_depth, shots_of
from placecell.families.regression.training import RegressionTask
from placecell.localizer import MapInfo, config_to_json
from placecell.log import Log, Silent
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene
from placecell.train.devices import leads
from placecell.train.holdout import held_out
from placecell.train.loop import Plan, Trained, fit
from placecell.train.optimizers import optimizer
from placecell.views import has_depth

_LOOKS = 20
"""How often a training is judged by its held-out frames on the way, once an epoch at most."""
_DEPTHS_WITHOUT_POINTS = (0.5, 5.0)
"""Metres, between which things lie indoors, for the losses that need a depth where a scene knows none."""


def build(
    config: Regression, scene: Scene, *, device: str, seed: int, log: Log, work: Path | None = None
) -> RegressionMap:
    """See `Regression.build`."""
    log = log if leads() else Silent()
    require_device(device)
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
        task = _task(config, scene, shots, len(learned), seed, log, anchor=anchor)
        task = _with_surfaces(task, scene, frames[: len(learned)], anchor, folder, log)
        begin(network, task)
        trained = _fit(task, network, scene, device, None if work is None else folder, log)
        return _map(task, scene, anchor, trained, weights, device)


def chosen(config: Regression, frames: Sequence[Frame]) -> tuple[list[int], list[int]]:
    """Which frames are learned from and which the training is judged by; thinned after the latter are set aside."""
    held = held_out(frames, config.validation)
    rest = [index for index in range(len(frames)) if index not in held]
    if 0 < config.frames < len(rest):
        rest = [rest[place] for place in np.linspace(0, len(rest) - 1, config.frames).round().astype(int)]
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PoseNetwork(config, scale, size=size)
    weights = backbones.load_weights(network.backbone, config.backbone, config.weights, log=log)
    if network.depth_backbone is not None:  # a code of three channels, so that weights of colour can begin it
        backbones.load_weights(network.depth_backbone, config.backbone, config.weights, log=log)
    return network, weights


def _task(
    config: Regression, scene: Scene, shots: Shots, learned: int, seed: int, log: Log, *, anchor: Anchor
) -> RegressionTask:
    """What is trained on: the shots with something in them, and what the loss looks at besides."""
    with_something = np.flatnonzero(shots.details >= LEAST_DETAIL)
    used, held = (with_something[with_something < learned], with_something[with_something >= learned])
    if not len(used):
        raise MapError(f"scene {scene.name}: there is nothing in its training pictures; are they black?")
    blank = sorted(set(range(len(shots))) - set(with_something.tolist()))
    if blank:
        log.warn(f"{len(blank)} of {len(shots)} pictures are blank and teach nothing: {shots.names[blank[0]]}, …")
    if len(used) < config.batch:
        log.say(f"{len(used)} training frames are fewer than a batch of {config.batch}, so a step takes all of them")
    steps = max(1, round(config.epochs * len(used) / min(config.batch, len(used))))
    task = RegressionTask(config, shots, used, held, steps, seed, scene.metric)
    if config.loss not in ("reprojection", "virtual-points", "homography"):
        return task
    by_name = {frame.name: frame for frame in scene.frames}
    return _with_points(task, scene, [by_name[name] for name in shots.names], anchor, log)


def _with_points(
    task: RegressionTask, scene: Scene, frames: Sequence[Frame], anchor: Anchor, log: Log
) -> RegressionTask:
    """The task with the points its shots see and the depths they lie at."""
    known = seen.has_observed_points(scene) or seen.has_depth(scene, frames)
    if task.config.loss != "reprojection" and not known:
        near, far = _DEPTHS_WITHOUT_POINTS
        log.warn(f"scene {scene.name} has no points and no depth: things are taken to lie {near:g} to {far:g} away")
        return replace(task, depth_range=_DEPTHS_WITHOUT_POINTS)
    points = seen.seen_points(scene, frames, anchor, task.shots.camera, log)
    depths = seen.depth_range(points, task.shots.centres, task.shots.rotations)
    if depths is None:
        raise MapError(f"scene {scene.name}: its training frames see none of its points; choose another --loss")
    return replace(task, points=points if task.config.loss == "reprojection" else None, depth_range=depths)


def _with_surfaces(
    task: RegressionTask, scene: Scene, frames: Sequence[Frame], anchor: Anchor, folder: Path, log: Log
) -> RegressionTask:
    """The task with new views to learn from, and with what is known of what the align head's cells show."""
    config, told = task.config, task.config.head == "align" and task.config.surface_weight > 0
    count = round(config.new_views * len(frames)) if config.new_view_share else 0
    if not (count or told):
        return task
    if config.depth or config.loss == "reprojection":
        log.say("new views have neither the depth nor the points that these settings learn from: none are made")
        return task
    if not has_depth(scene, frames):
        log.say(f"scene {scene.name} has neither depth nor points: no new views are made, poses alone are learned from")
        return task
    taken = task.shots.first(len(frames))
    known = Known.of(scene, frames, taken, anchor, folder, log)
    views = known.views(Wander(config.new_view_distance, config.new_view_turn_deg), count, task.seed) if count else None
    if not told:
        return replace(task, views=views)
    # Only training frames are learned from, so the held-out ones behind them need no surfaces.
    cells = cell_rays(task.shots.camera, cell_grid(task.shots.camera)).astype(np.float32)
    return replace(task, shots=replace(task.shots, surfaces=known.surfaces()), views=views, cells=cells)


def begin(network: PoseNetwork, task: RegressionTask) -> None:
    """Tell an align head its camera, and the middle of what is known, or of what the cameras look at."""
    if not isinstance(network.head, Alignment):
        return
    surfaces, shots = task.shots.surfaces, task.shots
    depth = float(np.mean(task.depth_range)) or 2.0 * network.scale
    if surfaces is not None and np.isfinite(surfaces).any():
        depth = float(np.nanmedian(surfaces.astype(np.float32)))
    depth = float(f"{depth:.3g}")
    middle = (shots.centres + depth * shots.rotations[:, :, 2])[task.learned].mean(axis=0)
    network.head.begin(shots.camera, depth=depth, middle=middle.round(2).astype(np.float64))


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
    identity = {
        "scene": f"{scene.name} {scene.fingerprint}",
        "settings": config_to_json(config),
        "seed": task.seed,
        "frames": len(task.learned),
    }

    def optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        return optimizer(
            network,
            config.optimizer,
            config.learning_rate,
            config.weight_decay,
            eps=config.eps,
            bias_multiplier=config.bias_multiplier,
            steps=steps,
            schedule=config.schedule,
            gamma=config.gamma,
            every=config.gamma_steps,
        )

    return fit(network, task, plan, optimizer=optimized, work=work, identity=identity, log=log)


def _map(
    task: RegressionTask, scene: Scene, anchor: Anchor, trained: Trained, weights: str, device: str
) -> RegressionMap:
    config, camera = task.config, task.shots.camera
    told = {"weights": weights, "steps": trained.steps, "validation": trained.validation}
    if trained.interrupted:
        told["unfinished"] = f"training stopped after step {trained.steps} of {task.steps}"
    if not isinstance(trained.network, PoseNetwork):
        raise TypeError(f"trained a {type(trained.network).__name__}, not a PoseNetwork")
    return RegressionMap(
        family=config,
        info=MapInfo.of(config, scene, task.seed, **told),
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
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    with TemporaryDirectory(prefix="placecell-") as folder:
        yield Path(folder)
