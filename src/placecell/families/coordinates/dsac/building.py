"""From a scene to a coordinate network: its pictures, what it starts from, and the stages of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.families.coordinates.dsac.config import Dsac
from placecell.families.coordinates.dsac.end_to_end import EndToEnd, Scored
from placecell.families.coordinates.dsac.initial import Beginning, Initial
from placecell.families.coordinates.dsac.lessons import Lessons
from placecell.families.coordinates.dsac.localizer import DsacMap, network_of, ransac_of
from placecell.families.coordinates.dsac.reading import Reader, chosen, with_something
from placecell.families.coordinates.dsac.shots import Floats, Shots, Variation
from placecell.families.coordinates.keeping import rounded
from placecell.families.coordinates.sight import camera_seen
from placecell.families.coordinates.working import working_folder
from placecell.localizer import MapInfo, config_to_json
from placecell.log import Log, Silent
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene
from placecell.train.checkpoint import require_own
from placecell.train.devices import leads, require_device
from placecell.train.failures import plain_memory_errors
from placecell.train.loop import Plan, Trained, fit
from placecell.train.optimizers import Schedule, optimizer

STAGES = ("start", "scores", "end-to-end")
_ASKED = ("least", "max_error_px", "max_error_m")
_ENDING = ("end_to_end", "end_to_end_batch", "end_to_end_rate", "clip_norm", "average")
_LATER = {
    "start": (*_ASKED, *_ENDING, "score_steps", "score_rate", "hypotheses", "alpha", "measure"),
    "end-to-end": ("least",),
}
"""Settings that change nothing in a stage: a finished start is gone on from with others of these."""
_LOOKS = 10
"""How often a stage is judged by its held-out frames on the way."""
_WARMUP = 0.1
_SCALES = (0.1, 1000.0)
"""Metres between which a coordinate's depth can be right, and how near to the truth it is taught by pixels (DSAC*)."""
_PLACED = 50_000
"""Points that tell where the scene is, at most."""


def build(config: Dsac, scene: Scene, *, device: str, seed: int, log: Log, work: Path | None = None) -> DsacMap:
    """See `Dsac.build`."""
    log = log if leads() else Silent()
    require_device(device)
    identities = {stage: _identity(stage, config, scene, seed) for stage in stages(config)}
    if work is not None:
        require_own(work, {}, beside=("pictures", "depth", *STAGES))
        for stage, identity in identities.items():
            require_own(work / stage, identity)
    learned, held = chosen(config, scene)
    anchor = Anchor.of([frame.world_from_cam for frame in learned if frame.world_from_cam is not None])
    usual = canonical_camera([scene.camera_of(frame) for frame in learned], config.short_side)
    camera = camera_seen(usual, usual)
    with working_folder(work) as folder:
        shots = Reader(scene, (*learned, *held), camera, folder, log).shots(config.start, anchor)
        lessons = _lessons(config, shots, len(learned), seed, scene.name, log)
        network = _beginning(config, lessons, anchor, scene.metric, seed)
        training = _Training(config, lessons, scene.metric, anchor, device, identities, work and folder, log)
        return _map(training, network, scene, held, camera, seed)


def stages(config: Dsac) -> list[str]:
    """What the settings ask for."""
    steps = {"start": 1, "scores": config.score_steps if config.scores == "learned" else 0}
    steps["end-to-end"] = config.end_to_end
    return [stage for stage in STAGES if steps[stage]]


def _identity(stage: str, config: Dsac, scene: Scene, seed: int) -> dict[str, Any]:
    """What tells a stage from those of other trainings; what comes after it does not."""
    settings = {key: value for key, value in config_to_json(config).items() if key not in _LATER.get(stage, ())}
    return {"scene": f"{scene.name} {scene.fingerprint}", "settings": settings, "seed": seed}


def _lessons(config: Dsac, shots: Shots, learned: int, seed: int, scene: str, log: Log) -> Lessons:
    """The shots with something in them, of which the first so many are learned from; says how many have nothing.

    Raises:
        MapError: all that are to be learned from have nothing.
    """
    some = with_something(shots.images)
    if not (some < learned).any():
        raise MapError(f"scene {scene}: there is nothing in its training pictures; are they black?")
    if len(some) < len(shots):
        blank = sorted(set(range(len(shots))) - set(some.tolist()))
        log.warn(f"{len(blank)} of {len(shots)} pictures are blank and teach nothing: {shots.names[blank[0]]}, …")
    variation = Variation(config.turn_deg, config.zoom, config.colour)
    kept, held = some[some < learned].tolist(), some[some >= learned].tolist()
    return Lessons(shots, kept, held, batch_size=config.batch, variation=variation, seed=seed)


def _beginning(config: Dsac, lessons: Lessons, anchor: Anchor, metric: bool, seed: int) -> nn.Module:
    """The network before training, told where the scene is."""
    points = _known(lessons, config.depth_m * (1.0 if metric else anchor.scale))
    middle, away = points.mean(axis=0), float(np.sqrt(points.var(axis=0).sum()))
    size = float(f"{away:.3g}") or 1.0
    with plain_memory_errors("making the network", "--width"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network_of(config, torch.from_numpy(size * (middle / size).round(2)), size)


def _known(lessons: Lessons, usual_depth: float) -> Floats:
    """(M, 3) some points of the scene in the frame of the map: its own or of its depth, else before the cameras."""
    shots, found = lessons.shots, []
    for index in lessons.learned[:: max(1, len(lessons.learned) // 100)]:
        rotation, centre = shots.rotations[index], shots.centres[index]
        if shots.points is not None and len(shots.points[index]):
            found.append(shots.points[index])
        elif shots.depths is not None:
            lens = shots.camera.resized(shots.depths.shape[2], shots.depths.shape[1])
            depth = shots.depths[index][::8, ::8, None].astype(np.float32)
            rays = lens.rays(lens.pixel_centres[::8, ::8])
            points = (rays * depth).reshape(-1, 3) @ rotation.T.astype(np.float64) + centre
            found.append(points[np.isfinite(points).all(axis=1)].astype(np.float32))
    known = np.concatenate([*found, np.zeros((0, 3), np.float32)])[:_PLACED]
    if len(known) >= 3:
        return known
    ahead: Floats = shots.centres[lessons.learned] + np.float32(usual_depth) * shots.rotations[lessons.learned][..., 2]
    return np.concatenate([ahead, shots.centres[lessons.learned]])


@dataclass(frozen=True, eq=False)
class _Training:
    """The stages of a training, each of which can be interrupted and gone on with."""

    config: Dsac
    lessons: Lessons
    metric: bool
    anchor: Anchor
    device: str
    identities: dict[str, dict[str, Any]]
    work: Path | None
    log: Log

    def stage(self, name: str, network: nn.Module) -> Trained:
        """One of `STAGES`."""
        if name == "start":
            return self._start(network)
        return self._scores(network) if isinstance(network, Scored) and name == "scores" else self._end_to_end(network)

    def _start(self, network: nn.Module) -> Trained:
        """Coordinates by themselves."""
        config, unit = self.config, 1.0 if self.metric else self.anchor.scale
        near, far = (unit * length for length in _SCALES)
        numbers = Beginning(tolerance=near, nearest=near, farthest=far, proxy=unit * config.depth_m)
        ransac = ransac_of(config, self.metric, self.anchor)
        steps = max(1, round(config.epochs * len(self.lessons.learned) / config.batch))
        plan = self._plan(steps, config.batch)
        task = Initial(self.lessons, numbers, rgbd=config.rgbd, ransac=ransac)
        return self._fit("start", network, task, plan, config.learning_rate, "onecycle")

    def _scores(self, network: Scored) -> Trained:
        """What hypotheses are good, of coordinates that stay."""
        network.coordinates.requires_grad_(False)
        plan = self._plan(self.config.score_steps, self.config.end_to_end_batch)
        trained = self._fit("scores", network, self._poses(), plan, self.config.score_rate, "onecycle")
        network.requires_grad_(True)
        return trained

    def _end_to_end(self, network: nn.Module) -> Trained:
        """Coordinates, and scores where they are learned, by the poses that they give."""
        config = self.config
        plan = replace(self._plan(config.end_to_end, config.end_to_end_batch), average=config.average)
        plan = replace(plan, clip_norm=config.clip_norm)
        return self._fit("end-to-end", network, self._poses(), plan, config.end_to_end_rate, "onecycle")

    def _poses(self) -> EndToEnd:
        lessons = replace(self.lessons, batch_size=self.config.end_to_end_batch, seed=self.lessons.seed + 1)
        return EndToEnd(lessons, ransac_of(self.config, self.metric, self.anchor), rgbd=self.config.rgbd)

    def _plan(self, steps: int, batch: int) -> Plan:
        return Plan(
            steps=steps,
            batch=batch,
            precision=self.config.precision,
            device=self.device,
            seed=self.lessons.seed,
            validate_every=max(1, steps // _LOOKS) if len(self.lessons.held) else 0,
        )

    def _fit(self, stage: str, network: nn.Module, task: Any, plan: Plan, rate: float, schedule: Schedule) -> Trained:
        def optimized(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
            return optimizer(network, "adam", rate, steps=steps, schedule=schedule, warmup=_WARMUP)

        work = None if self.work is None else self.work / stage
        return fit(network, task, plan, optimizer=optimized, work=work, identity=self.identities[stage], log=self.log)


def _map(
    training: _Training, network: nn.Module, scene: Scene, held: Sequence[Frame], camera: Camera, seed: int
) -> DsacMap:
    """All stages that the settings ask for, as far as they are not interrupted."""
    config, logs = training.config, {}
    told: dict[str, Any] = {}
    for stage in stages(config):
        trained = training.stage(stage, network)
        network, logs[stage] = trained.network, trained.log_csv
        told |= {"validation": trained.validation, "steps": trained.steps}
        if trained.interrupted:
            told["unfinished"] = f"training stopped after step {trained.steps} of its stage {stage}"
            break
    info = MapInfo.of(config, scene, seed, held=held, **told)
    return DsacMap(config, info, rounded(network, "half"), camera, training.anchor, logs).to(training.device)
