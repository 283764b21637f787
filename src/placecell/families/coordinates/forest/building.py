"""From a scene to a forest: reading its frames, growing trees, and what their leaves remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from placecell.anchor import Anchor
from placecell.errors import MapError, naming_extras
from placecell.families.coordinates.forest.config import Forest
from placecell.families.coordinates.forest.features import GROUPS, WITH_CONTEXT, Group, Planes
from placecell.families.coordinates.forest.growing import Growing, Samples, grow
from placecell.families.coordinates.forest.leaves import Remembering, remember
from placecell.families.coordinates.forest.lessons import THREADS, Drawing, Lessons, chosen, joined, lessons
from placecell.families.coordinates.forest.localizer import ForestMap
from placecell.families.coordinates.forest.stages import Stage
from placecell.localizer import MapInfo
from placecell.log import Log
from placecell.resample import canonical_camera
from placecell.scene import Frame, Scene
from placecell.views import has_depth


def build(config: Forest, scene: Scene, *, device: str, seed: int, log: Log) -> ForestMap:
    """See `Forest.build`."""
    if config.predictor == "network":
        with naming_extras():
            from placecell.families.coordinates.forest import teaching
        teaching.require_device(device)  # before minutes of work
    frames = _frames(config, scene, log)
    anchor = Anchor.of([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    unit = 1.0 if scene.metric else anchor.scale
    camera = canonical_camera([scene.camera_of(frame) for frame in frames], config.short_side)
    twice = config.features == "rgb" and config.auto_context and config.predictor == "trees"
    stages = 2 if twice else 1
    which = [chosen(config.trees, len(frames), config.images, seed + k, folds=twice and not k) for k in range(stages)]
    drawing = Drawing(np.concatenate(which), config.pixels, seed)
    learned = lessons(scene, frames, camera, anchor, drawing, config.features, log)
    usual_m = _usual_depth_m(learned) if config.needs_depth else None
    empty = ForestMap(config, MapInfo.of(config, scene, seed), camera, anchor.world_from_anchor, unit, usual_m)
    if config.predictor == "network":
        names = [frame.name for frame in frames]
        samples = joined(learned.samples)
        network = teaching.taught(config, learned.planes, samples, names, unit=unit, device=device, seed=seed, log=log)
        return replace(empty, network=network)
    return replace(empty, stages=_grown(_Grower(config, unit, seed, log), learned, drawing))


def _usual_depth_m(learned: Lessons) -> float:
    """Median over the pixels learned from; rounded, as the last bits hang on nothing."""
    zooms_px = np.concatenate([samples.pixels.zoom_px for samples in learned.samples])
    return float(f"{learned.planes.camera.fx / np.median(zooms_px):.3g}")


def _grown(grower: _Grower, learned: Lessons, drawing: Drawing) -> tuple[Stage, ...]:
    """A forest, and where pixels were drawn for two, a second one that reads the first."""
    config = grower.config
    first, *rest = (
        learned.samples[begin : begin + config.trees] for begin in range(0, len(learned.samples), config.trees)
    )
    grown = [grower.stage(0, learned.planes, first, GROUPS[config.features])]
    for samples in rest:
        planes = grown[0].read(learned.planes, grower.unit, drawing.chosen[: config.trees], threads=THREADS)
        grown.append(grower.stage(1, planes, samples, WITH_CONTEXT))
    return tuple(grown)


def _frames(config: Forest, scene: Scene, log: Log) -> tuple[Frame, ...]:
    """The posed training frames that something is known of.

    Raises:
        MapError: there is none, or the scene is not in the metres that depth is in.
    """
    posed = scene.split("train").posed
    if not posed:
        raise MapError(f"scene {scene.name} has no posed training frame; label some, or choose another scene")
    if not config.needs_depth:
        if not has_depth(scene, posed):
            raise MapError(f"scene {scene.name} has neither depth nor points to learn from; choose another family")
        return posed
    frames = tuple(frame for frame in posed if frame.depth is not None)
    if not frames or scene.depth_sensor is None:
        raise MapError(f"scene {scene.name} has no depth pictures to learn from; try --features rgb, or another family")
    if not scene.metric:
        raise MapError(f"scene {scene.name} is not in metres, as its depth is; align it, or try --features rgb")
    if len(frames) < len(posed):
        log.warn(f"{len(posed) - len(frames)} of {len(posed)} training frames have no depth and teach nothing")
    return frames


@dataclass(frozen=True)
class _Grower:
    """Grows trees by the settings."""

    config: Forest
    unit: float
    """What the lengths of the settings are in, in the unit of the scene."""
    seed: int
    log: Log

    def stage(self, number: int, planes: Planes, samples: Sequence[Samples], groups: Sequence[Group]) -> Stage:
        """A forest that compares planes of these groups."""
        config = self.config
        how = Growing(groups, config.reach, config.candidates, config.levels, config.least_samples)
        remembering = Remembering(config.bandwidth_m * self.unit, config.modes)
        trees, leaves = [], []
        for index, learned in enumerate(self.log.track(samples, "growing trees", len(samples))):
            rng = np.random.default_rng([self.seed, 2, number, index])
            grown = grow(planes, learned, how, rng, threads=THREADS)
            trees.append(grown.tree)
            leaves.append(remember(learned.points[grown.order], grown.border, remembering, threads=THREADS))
        return Stage(tuple(trees), tuple(leaves))
