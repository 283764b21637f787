"""From a scene to a scene-coordinate map: which frames, what of them goes into the buffer, and the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import nn

from placecell import backbones
from placecell.anchor import Anchor, Floats
from placecell.errors import MapError
from placecell.families.coordinates.buffer import Buffer, Looker
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.encoder import Encoder
from placecell.families.coordinates.experts import Gate, joined, joined_logs, learned_gate, shared_out
from placecell.families.coordinates.head import Head
from placecell.families.coordinates.keeping import rounded
from placecell.families.coordinates.localizer import CoordinatesMap, heads_of
from placecell.families.coordinates.sight import camera_seen
from placecell.families.coordinates.training import CoordinatesTask, trained_head
from placecell.families.coordinates.tuning import tuned
from placecell.families.coordinates.working import working_folder
from placecell.images import load_query
from placecell.localizer import MapInfo, config_to_json
from placecell.log import Log, Silent
from placecell.pose import pose_error
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene
from placecell.spacing import evenly
from placecell.train.checkpoint import require_own
from placecell.train.devices import leads, require_device
from placecell.train.failures import plain_memory_errors
from placecell.train.history import thinned
from placecell.train.holdout import held_out

_PURPOSE = 6
"""Of the seed."""
_CELLS, _LEAST_LOOKS = 3_000_000, 4
"""What a buffer holds where nobody says how often to look: it takes as long for few pictures as for many."""
_STEPS = 6000
"""A training has where nobody says how many rounds."""
_DEPTH_WITHOUT_SURFACES = 4.0
"""Times the scale of the anchor: how far away things are taken to lie where a scene knows nothing of it."""
_CLUSTERED = 20_000
"""Cells that tell where the scene is."""
_JUDGED = 50
"""Held-out frames that a training is judged by, at most."""
_EXPERT = "expert-{}"
"""Where in the work folder an expert is trained."""
_TUNED = "end-to-end"
"""Where in it the head is tuned."""


def build(
    config: Coordinates, scene: Scene, *, device: str, seed: int, log: Log, work: Path | None = None
) -> CoordinatesMap:
    """See `Coordinates.build`."""
    log = log if leads() else Silent()
    require_device(device)
    identity = {"scene": f"{scene.name} {scene.fingerprint}", "settings": config_to_json(config), "seed": seed}
    if work is not None:
        _require_own(work, identity)
    learned, held = chosen(config, scene)
    anchor = Anchor.of([frame.world_from_cam for frame in learned if frame.world_from_cam is not None])
    usual = canonical_camera([scene.camera_of(frame) for frame in learned], config.short_side)
    camera = camera_seen(usual, usual)
    encoder, heads, weights = _networks(config, seed, device, log)
    with working_folder(work) as folder:
        counted = replace(config, looks=looks_at(len(learned), config))
        looker = Looker.of(scene, learned, camera, encoder, counted, seed)
        buffer = Buffer.filled(looker, anchor, counted, folder=folder, log=log)
        empty = CoordinatesMap(config, MapInfo.of(config, scene, seed), encoder, heads[0], camera, anchor)
        teaching = _Teaching(empty, buffer, seed, device, work, identity, log)
        if config.experts == 1:
            found, told = teaching.one(heads[0], scene, held)
        else:
            found, told = teaching.several(heads, scene, held)
    info = MapInfo.of(config, scene, seed, held=held, weights=weights, **told)
    found = replace(found, info=info).to(device)
    if not config.end_to_end or found.unfinished is not None:
        return found
    after: dict[str, Any] = {"steps": config.end_to_end, "seed": seed, "log": log}
    judge = partial(_judged_with, found, scene, held) if held else None
    return tuned(found, scene, learned, **after, work=None if work is None else work / _TUNED, judge=judge)


def _require_own(work: Path, identity: Mapping[str, Any]) -> None:
    """Find out before long work whether a folder, with those of its experts, is free or holds this training already."""
    experts = sorted(path for path in work.glob(_EXPERT.format("*")))
    require_own(work, identity, beside=("cells", _TUNED, *(path.name for path in experts)))
    for path in experts:
        require_own(path, identity)


def _networks(config: Coordinates, seed: int, device: str, log: Log) -> tuple[Encoder, list[Head], str]:
    """The encoder as it stays, on the device; the heads before training; and where the encoder's weights come from."""
    with plain_memory_errors("making the network", "--hidden or --experts"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(config.backbone)
        heads = heads_of(config, encoder)
    if config.weights == "none":
        log.say(f"the features of {config.backbone} are random and stay so, as nothing trains them: see --weights")
        weights = "none, random features"
    else:
        weights = backbones.load_weights(encoder.backbone, config.backbone, config.weights, log=log)
    return rounded(encoder.settle(), config.kept).to(device), heads, weights


def chosen(config: Coordinates, scene: Scene) -> tuple[list[Frame], list[Frame]]:
    """Which frames are learned from, and which the training is judged by.

    Raises:
        MapError: no posed training frame, or fewer than experts.
    """
    frames = scene.split("train").posed
    if not frames:
        raise MapError(f"scene {scene.name} has no posed training frame; label some, or choose another scene")
    held = held_out(frames, config.validation)
    rest = [frame for index, frame in enumerate(frames) if index not in held]
    if config.frames > 0:
        rest = evenly(rest, config.frames)
    if config.experts > len(rest):
        raise MapError(
            f"scene {scene.name}: {len(rest)} training frames cannot be shared out among {config.experts} experts; "
            "lower --experts"
        )
    return rest, [frames[index] for index in sorted(held)]


def looks_at(frames: int, config: Coordinates) -> int:
    """How often each of so many training pictures is looked at."""
    return config.looks or max(_LEAST_LOOKS, -(-_CELLS // (frames * config.samples)))


def begin(head: Head, buffer: Buffer, anchor: Anchor, config: Coordinates, seed: int) -> float:
    """Tell the head what features are like and where the scene is; returns how far away things usually are."""
    rng = np.random.default_rng([seed, _PURPOSE])
    cells, look, usual = _some_cells(buffer, anchor, rng)
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
    if head.context is not None:
        head.context.begin(torch.from_numpy(buffer.overall[buffer.looks]))
    return usual


def _some_cells(
    buffer: Buffer, anchor: Anchor, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.intp], float]:
    """Some cells of a buffer, the looks that they are of, and how far away things usually are."""
    cells, look = buffer.at(rng.choice(len(buffer), min(len(buffer), _CLUSTERED), replace=False))
    known = np.isfinite(cells["depth"])
    usual = float(f"{np.median(cells['depth'][known]):.3g}") if known.any() else _DEPTH_WITHOUT_SURFACES * anchor.scale
    return cells, look, usual


def _points(cells: Any, rotations: Floats, centres: Floats, usual_depth: float) -> Floats:
    """(N, 3) where cells lie in the frame of the anchor; at the usual depth where that is unknown."""
    depth = np.where(np.isfinite(cells["depth"]), cells["depth"], np.float32(usual_depth))
    rays = np.concatenate([cells["ray"], np.ones((len(cells), 1), np.float32)], axis=1)
    points: Floats = np.einsum("nij,nj->ni", rotations, rays * depth[:, None]) + centres
    return points


@dataclass(frozen=True, eq=False)
class _Teaching:
    """What the heads of a map are taught from, and where that is kept."""

    empty: CoordinatesMap
    buffer: Buffer
    seed: int
    device: str
    work: Path | None
    identity: dict[str, Any]
    log: Log

    def one(self, head: Head, scene: Scene, held: Sequence[Frame]) -> tuple[CoordinatesMap, dict[str, Any]]:
        """The map of one head, and what there is to tell of its training."""
        empty, judge = self.empty, None
        if held:
            judge = partial(_judged_with, empty, scene, held)
        task = self._task(head, self.buffer, judge)
        trained = trained_head(head, task, self.device, self.work, self.identity, self.log)
        told: dict[str, Any] = {"steps": trained.steps, "validation": trained.validation}
        if trained.interrupted:
            told["unfinished"] = f"training stopped after step {trained.steps} of {task.steps}"
        learned = rounded(trained.network, empty.family.kept)
        return replace(empty, head=learned, log_csv=thinned(trained.log_csv)), told

    def several(
        self, heads: Sequence[Head], scene: Scene, held: Sequence[Frame]
    ) -> tuple[CoordinatesMap, dict[str, Any]]:
        """The map of several heads and their gate, trained one after the other; held-out frames judge the whole."""
        parts, gate = self._shared_out(len(heads))
        tasks = [self._task(head, part, None) for head, part in zip(heads, parts, strict=True)]
        told: dict[str, Any] = {"steps": 0}
        logs: list[str] = []
        for number, (head, task) in enumerate(zip(heads, tasks, strict=True), start=1):
            self.log.say(f"expert {number} of {len(heads)} learns from {len(task.buffer.looks)} looks")
            work = None if self.work is None else self.work / _EXPERT.format(number)
            trained = trained_head(head, task, self.device, work, self.identity, self.log)
            told["steps"] += trained.steps
            logs.append(thinned(trained.log_csv))
            if trained.interrupted:
                where = f"training of expert {number} of {len(heads)}"
                told["unfinished"] = f"{where} stopped after step {trained.steps} of {task.steps}"
                break
        kept = self.empty.family.kept
        whole = rounded(joined(heads).eval(), kept)
        found = replace(self.empty, head=whole, gate=rounded(gate, kept), log_csv=joined_logs(logs)).to(self.device)
        return found, {**told, "validation": judged(found, scene, held) if held else {}}

    def _shared_out(self, experts: int) -> tuple[list[Buffer], Gate]:
        """What each expert learns from, and the gate that says so."""
        buffer = self.buffer
        rng = np.random.default_rng([self.seed, _PURPOSE])
        _, _, usual = _some_cells(buffer, self.empty.anchor, rng)
        centres, forward = buffer.centres[buffer.looks], buffer.rotations[buffer.looks, :, 2]
        belongs = shared_out(centres, forward, usual, experts, self.seed)
        gate = learned_gate(buffer.overall[buffer.looks], belongs)
        return [replace(buffer, looks=buffer.looks[own]) for own in belongs.T], gate

    def _task(
        self, head: Head, buffer: Buffer, judge: Callable[[nn.Module], dict[str, float]] | None
    ) -> CoordinatesTask:
        """The task of a head, which is told where its part of the scene is."""
        config = self.empty.family
        if config.devices > (batch := min(config.batch, len(buffer))):
            raise MapError(f"--devices {config.devices} cannot share out {batch} cells a step; lower --devices")
        usual = begin(head, buffer, self.empty.anchor, config, self.seed)
        steps = max(1, round(config.epochs * len(buffer) / batch)) if config.epochs else _STEPS
        return CoordinatesTask(config, buffer, steps, self.seed, usual, judge)


def _judged_with(empty: CoordinatesMap, scene: Scene, frames: Sequence[Frame], head: nn.Module) -> dict[str, float]:
    return judged(replace(empty, head=head), scene, frames)


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
