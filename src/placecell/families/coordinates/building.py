"""From a scene to a scene-coordinate map: which frames, what of them goes into the buffer, and the training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell import backbones
from placecell.anchor import Anchor, Floats
from placecell.errors import MapError
from placecell.families.coordinates.buffer import Buffer, Looker
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.encoder import Encoder
from placecell.families.coordinates.head import Head
from placecell.families.coordinates.localizer import CoordinatesMap, halved
from placecell.families.coordinates.sight import camera_seen
from placecell.families.coordinates.training import CoordinatesTask
from placecell.images import load_query
from placecell.localizer import MapInfo, config_to_json
from placecell.log import Log, Silent
from placecell.pose import pose_error
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene
from placecell.train.checkpoint import require_own
from placecell.train.devices import leads, require_device
from placecell.train.failures import plain_memory_errors
from placecell.train.holdout import held_out
from placecell.train.loop import Plan, Trained, fit
from placecell.train.optimizers import optimizer

_PURPOSE = 6
"""Of the seed."""
_WARMUP = 0.1
"""Share of the steps over which the one-cycle schedule rises to the peak."""
_LOOKS = 10
"""How often a training is judged by its held-out frames on the way."""
_DEPTH_WITHOUT_SURFACES = 4.0
"""Times the scale of the anchor: how far away things are taken to lie where a scene knows nothing of it."""
_CLUSTERED = 20_000
"""Cells that tell where the scene is."""
_JUDGED = 50
"""Held-out frames that a training is judged by, at most."""


def build(
    config: Coordinates, scene: Scene, *, device: str, seed: int, log: Log, work: Path | None = None
) -> CoordinatesMap:
    """See `Coordinates.build`."""
    log = log if leads() else Silent()
    require_device(device)
    identity = {"scene": f"{scene.name} {scene.fingerprint}", "settings": config_to_json(config), "seed": seed}
    if work is not None:
        require_own(work, identity, beside=("cells",))
    learned, held = chosen(config, scene)
    anchor = Anchor.of([frame.world_from_cam for frame in learned if frame.world_from_cam is not None])
    usual = canonical_camera([scene.camera_of(frame) for frame in learned], config.short_side)
    camera = camera_seen(usual, usual)
    encoder, head, weights = _networks(config, seed, device, log)
    with _folder(work) as folder:
        looker = Looker.of(scene, learned, camera, encoder, config, seed)
        buffer = Buffer.filled(looker, anchor, config, folder=folder, log=log)
        if config.devices > (batch := min(config.batch, len(buffer))):
            raise MapError(f"--devices {config.devices} cannot share out {batch} cells a step; lower --devices")
        usual_depth = begin(head, buffer, anchor, config, seed)
        empty = CoordinatesMap(config, MapInfo.of(config, scene, seed), encoder, head, camera, anchor)
        task = CoordinatesTask(
            config,
            buffer,
            max(1, round(config.epochs * len(buffer) / min(config.batch, len(buffer)))),
            seed,
            usual_depth,
            None if not held else lambda network: judged(replace(empty, head=network), scene, held),
        )
        trained = _fit(task, head, device, identity, None if work is None else folder, log)
    told: dict[str, Any] = {"weights": weights, "steps": trained.steps, "validation": trained.validation}
    if trained.interrupted:
        told["unfinished"] = f"training stopped after step {trained.steps} of {task.steps}"
    info = MapInfo.of(config, scene, seed, **told)
    return replace(empty, info=info, head=halved(trained.network), log_csv=trained.log_csv).to(device)


def _networks(config: Coordinates, seed: int, device: str, log: Log) -> tuple[Encoder, Head, str]:
    """The encoder as it stays, on the device; the head before training; and where the encoder's weights come from."""
    with plain_memory_errors("making the network", "--hidden"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(config.backbone)
        head = Head(encoder.channels, config.hidden, config.blocks, config.clusters)
    weights = backbones.load_weights(encoder.backbone, config.backbone, config.weights, log=log)
    return halved(encoder.settle()).to(device), head, weights


def chosen(config: Coordinates, scene: Scene) -> tuple[list[Frame], list[Frame]]:
    """Which frames are learned from, and which the training is judged by.

    Raises:
        MapError: no posed training frame.
    """
    frames = scene.split("train").posed
    if not frames:
        raise MapError(f"scene {scene.name} has no posed training frame; label some, or choose another scene")
    held = held_out(frames, config.validation)
    rest = [frame for index, frame in enumerate(frames) if index not in held]
    if 0 < config.frames < len(rest):
        rest = [rest[place] for place in np.linspace(0, len(rest) - 1, config.frames).round().astype(int)]
    return rest, [frames[index] for index in sorted(held)]


def begin(head: Head, buffer: Buffer, anchor: Anchor, config: Coordinates, seed: int) -> float:
    """Tell the head what features are like and where the scene is; returns how far away things usually are."""
    rng = np.random.default_rng([seed, _PURPOSE])
    some = rng.choice(len(buffer), min(len(buffer), _CLUSTERED), replace=False)
    cells, look = buffer.at(some)
    known = np.isfinite(cells["depth"])
    usual = float(f"{np.median(cells['depth'][known]):.3g}") if known.any() else _DEPTH_WITHOUT_SURFACES * anchor.scale
    points = _points(cells, buffer.rotations[look], buffer.centres[look], usual)
    count = min(max(config.clusters, 1), len(points))
    centres = points.mean(axis=0, keepdims=True)
    if count > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of clusters that stay empty, where many points are one
            centres, _ = kmeans2(points.astype(np.float64), count, minit="++", rng=rng)
    padded = np.resize(centres, (max(config.clusters, 1), 3))
    size = float(f"{np.sqrt(points.var(axis=0).sum()):.3g}") or usual
    head.begin(torch.from_numpy(cells["feature"].astype(np.float32)), torch.from_numpy(padded).float(), size)
    return usual


def _points(cells: Any, rotations: Floats, centres: Floats, usual_depth: float) -> Floats:
    """(N, 3) where cells lie in the frame of the anchor; at the usual depth where that is unknown."""
    depth = np.where(np.isfinite(cells["depth"]), cells["depth"], np.float32(usual_depth))
    rays = np.concatenate([cells["ray"], np.ones((len(cells), 1), np.float32)], axis=1)
    points: Floats = np.einsum("nij,nj->ni", rotations, rays * depth[:, None]) + centres
    return points


def judged(candidate: CoordinatesMap, scene: Scene, frames: Sequence[Frame]) -> dict[str, float]:
    """Median errors on some of the frames; a refusal is infinitely wrong."""
    errors = []
    for frame in frames[:: -(-len(frames) // _JUDGED)]:
        (found,) = candidate.localize([load_query(scene, frame)])
        if frame.world_from_cam is not None:
            errors.append(pose_error(found.world_from_cam, frame.world_from_cam))
    distance, angle = np.median(np.array(errors), axis=0)
    unit, scale = ("cm", 100.0) if scene.metric else ("units", 1.0)
    return {unit: min(scale * float(distance), 1e9), "deg": float(angle)}


def _fit(
    task: CoordinatesTask, head: nn.Module, device: str, identity: dict[str, Any], work: Path | None, log: Log
) -> Trained:
    config = task.config
    plan = Plan(
        steps=task.steps,
        batch=task.batch_size,
        precision=config.precision,
        device=device,
        devices=config.devices,
        seed=task.seed,
        validate_every=max(1, task.steps // _LOOKS) if task.judge is not None else 0,
        channels_last=False,
    )

    def optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        return optimizer(
            network,
            "muon",
            config.learning_rate,
            config.weight_decay,
            steps=steps,
            schedule="onecycle",
            warmup=_WARMUP,
            spared=("leave.weight",),
        )

    return fit(head, task, plan, optimizer=optimized, work=work, identity=identity, log=log)


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MapError(f"{work} cannot be made ({error.strerror}); choose a folder you own") from error
        yield work
        return
    with TemporaryDirectory(prefix="placecell-") as folder:
        yield Path(folder)
