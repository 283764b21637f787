"""From a map folder to the folder of its export, judged against the map on training frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell import atomic
from placecell.catalog import load_map
from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.export.graphs import Graph, graph_of
from placecell.export.mending import Pictures, rounded_to_bf16
from placecell.export.onnx_file import described, onnx_of
from placecell.export.parity import ALLOWED, Parity, moves
from placecell.export.quantized import Ranges, ladder, suffering
from placecell.families.coordinates.cells import camera_seen
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.regression.dense import looks
from placecell.families.regression.localizer import RegressionMap
from placecell.families.regression.looking import shown
from placecell.images import load_query
from placecell.localizer import Localizer, MapInfo, load_info, map_fingerprint
from placecell.log import Log
from placecell.resample import resample
from placecell.runtime.coordinates import WHOLE_PX
from placecell.runtime.engine import Engines, Precision, engines
from placecell.runtime.exported import Exported, localizer_of
from placecell.scene import Frame, Scene
from placecell.spacing import evenly

_LRN = "ResponseNorm"
_ASKED = 12
"""Frames that tell what layers cost."""
_JUDGED = 4
"""Times as many frames judge as calibrate: of 64, medians of what moves answers by a fifth of their error wobble by
4 %."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Training frames that an export is made and judged with."""

    pictures: Pictures
    """(1, H, W, 3) as the network sees them, which tell the ranges of its activations and their means."""
    asked: Sequence[Query]
    """Some of the same frames, which tell what layers cost."""
    scene: Scene
    judged: Sequence[Frame]
    """Others, which tell how well it answers."""
    reference: Sequence[Estimate]
    """The map's own answers to those, in float32."""

    def parity(self, exported: Exported) -> Parity:
        """How the export answers, in the engine that answers worse: what one of them leaves in floating point, the
        other takes in eight bits as the file has it."""
        first, *others = engines()
        found = self._parity(exported, first)
        for kind in others if found.close and exported.told["precision"] == "int8" else ():
            found = max(found, self._parity(exported, kind), key=lambda one: (not one.close, one.moved))
        return found

    def _parity(self, exported: Exported, kind: Engines) -> Parity:
        truths = [frame.world_from_cam for frame in self.judged if frame.world_from_cam is not None]
        found = localizer_of(exported, kind=kind)
        return Parity.of(_answers(found, self.scene, self.judged), self.reference, truths)


def export_map(
    folder: Path,
    out: Path,
    *,
    scene: Scene | None,
    precision: Precision = "int8",
    frames: int = 64,
    force: bool = False,
    overwrite: bool = False,
    log: Log,
) -> Exported:
    """Write the export of a map and return it.

    Args:
        scene: what the map was built from; int8 and bf16 are calibrated on its training frames, and each is judged.
        frames: how many of them calibrate, and up to four times as many others judge.
        force: write an export that loses more than 3 % of the median, too.

    Raises:
        MapError: the map is not one that is exported, was not built from the scene, or loses too much.
        MissingExtra: a package of the extra `export` is not installed.
        PlacecellError: `out` exists, or cannot be written.
    """
    atomic.require_new(out, replace=overwrite)
    info = load_info(folder)
    _require(info, folder, scene, precision)
    localizer = load_map(folder, calibrated=False)
    graph = graph_of(localizer)
    evidence = None if scene is None else _evidence(localizer, scene, frames, log)
    log.say("writing the network as ONNX, a minute or less")
    model = onnx_of(graph)
    if precision == "int8" and any(type(part).__name__ == _LRN for part in graph.network.modules()):
        log.warn("local response normalisation stays in floating point and takes what eight bits gain elsewhere")
    draft = _Draft(graph, info, precision, map_fingerprint(folder))
    if evidence is None:
        if precision == "bf16":
            log.warn("no --scene: biases stay as they are, so rounded weights move answers, and nobody looked how far")
        found, parity = draft.of(model), None
    elif precision == "int8":
        found, parity = _in_eight_bits(draft, model, evidence, log)
    elif precision == "bf16":
        found, parity = _in_bf16(draft, model, evidence)
    else:
        found = draft.of(model)
        parity = evidence.parity(found)
    if parity is not None:
        _judge(parity, force, log, scene)
        found = draft.with_parity(found, parity)
    found.save(out, overwrite=overwrite)
    return found


@dataclass(frozen=True, eq=False)
class _Draft:
    """What every version of an export has in common."""

    graph: Graph
    info: MapInfo
    precision: Precision
    source: str

    def of(self, model: Any, kept: Sequence[str] = (), calibrated_on: int = 0) -> Exported:
        """The export with this model."""
        told = {"family": self.info.family, "scene": self.info.scene, "map": self.source}
        content = described(model, self.graph, told)
        export = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "reads": self.graph.reads,
            "features": self.graph.features,
            "precision": self.precision,
            "kept": list(kept),
            "calibrated_on": calibrated_on,
            "of": self.source,
            "parity": None,
        }
        info = replace(self.info, extra={**self.info.extra, "export": export})
        return Exported(info, self.graph.tensors, content)

    def with_parity(self, found: Exported, parity: Parity) -> Exported:
        """The export with what was measured."""
        export = {**found.told, "parity": parity.told}
        return replace(found, info=replace(found.info, extra={**found.info.extra, "export": export}))


def _in_bf16(draft: _Draft, model: Any, evidence: Evidence) -> tuple[Exported, Parity]:
    """The export in bf16, with biases that make good what rounding moves where that helps: it does where rounding moves
    all cells of a picture alike, and not in a head that knows single places by heart."""
    good = rounded_to_bf16(model, evidence.pictures, len(draft.graph.last))
    made = (draft.of(good, calibrated_on=len(evidence.pictures)), draft.of(model))
    return min(((found, evidence.parity(found)) for found in made), key=lambda one: one[1].moved)


def _in_eight_bits(draft: _Draft, model: Any, evidence: Evidence, log: Log) -> tuple[Exported, Parity]:
    """The export in int8; where that loses too much, with the layers that suffer most kept in floating point."""
    calibrated = len(evidence.pictures)
    ranges = Ranges.over(model, evidence.pictures)
    # Their numbers are the answer: 8 bits would round places to centimetres.
    last = ranges.layers[-len(draft.graph.last) :]
    found = draft.of(ranges.quantised(last), last, calibrated)
    parity = evidence.parity(found)
    if parity.close:
        return found, parity
    log.say(f"all in eight bits {_lost(parity)}; looking for the layers that suffer")
    whole, best = parity, (found, parity)
    exact = localizer_of(draft.of(model)).localize(evidence.asked)

    def moved(changed: Any) -> float:
        return moves(localizer_of(draft.of(changed)).localize(evidence.asked), exact, whole)

    costs = suffering(ranges, moved, ranges.layers[: -len(last)], log)
    for worst in ladder(costs):
        kept = [*last, *worst]
        found = draft.of(ranges.quantised(kept), kept, calibrated)
        parity = evidence.parity(found)
        log.say(f"{len(kept)} of {len(ranges.layers)} layers kept in floating point {_lost(parity)}")
        best = min(best, (found, parity), key=lambda one: (one[1].loss > ALLOWED, one[1].moved))
        if parity.close:
            break
    log.say(f"kept in floating point: {', '.join(best[0].told['kept'])}")
    return best


def _lost(parity: Parity) -> str:
    return f"loses {100 * parity.loss:.1f} % of the median and moves answers by {parity.moved:.3g}"


def _judge(parity: Parity, force: bool, log: Log, scene: Scene | None) -> None:
    unit = "" if scene is None else f" {scene.unit}"
    log.say(
        f"{parity.frames} training frames: {parity.distance:.4g}{unit} and {parity.angle_deg:.3f} deg, "
        f"the map itself {parity.reference_distance:.4g}{unit} and {parity.reference_angle_deg:.3f} deg"
    )
    if parity.loss <= ALLOWED:
        return
    lost = f"the export loses {100 * parity.loss:.1f} % of the median error, {100 * ALLOWED:.0f} % are allowed"
    if not force:
        raise MapError(f"{lost}; choose --precision bf16 or fp32, or pass --force")
    log.warn(lost)


def _require(info: MapInfo, folder: Path, scene: Scene | None, precision: Precision) -> None:
    if "export" in info.extra:
        raise MapError(f"{folder} is an export already; export the map that it was made of")
    if scene is None and precision == "int8":
        raise MapError(
            "int8 is calibrated on training frames; name the scene of the map with --scene, or --precision fp32"
        )
    if scene is not None and scene.fingerprint != info.scene_fingerprint:
        raise MapError(
            f"{folder} was built from another scene than {scene.name} ({scene.labels} labels): its fingerprint is "
            f"{info.scene_fingerprint}, not {scene.fingerprint}; name that one with --scene"
        )


def _evidence(localizer: Localizer, scene: Scene, frames: int, log: Log) -> Evidence:
    """Training frames evenly over them all, and others between them."""
    train = scene.split("train").posed
    if len(train) < 2:
        raise MapError(f"scene {scene.name} has {len(train)} posed training frames; an export is judged with 2 or more")
    chosen = evenly(train, min(frames, len(train) // 2))
    names = {frame.name for frame in chosen}
    judged = evenly([frame for frame in train if frame.name not in names], _JUDGED * frames)
    queries = [load_query(scene, frame) for frame in log.track(chosen, "training frames to calibrate with")]
    seen = [picture for index, query in enumerate(queries) if (picture := _seen(localizer, query, index)) is not None]
    if not seen:
        raise MapError(f"scene {scene.name}: nothing is to be seen in the training frames; is it the scene of the map?")
    tracked = log.track(judged, "training frames to judge with")
    return Evidence(seen, evenly(queries, _ASKED), scene, judged, _answers(_in_full(localizer), scene, tracked))


def _answers(localizer: Localizer, scene: Scene, frames: Iterable[Frame]) -> list[Estimate]:
    """Of one frame after the other, as many pictures fill the memory."""
    return [localizer.localize([load_query(scene, frame)])[0] for frame in frames]


def _seen(localizer: Localizer, query: Query, index: int) -> NDArray[np.uint8] | None:
    """(1, H, W, 3) a picture as the network of a map sees it, one of its windows; None where it is not looked at."""
    if isinstance(localizer, RegressionMap):
        windows = shown(query, localizer.camera, localizer.least_detail, looks(localizer.camera, localizer.family))
        return None if isinstance(windows, str) else windows[index % len(windows)][None]
    if isinstance(localizer, CoordinatesMap) and query.defect is None:
        return resample(query.image, query.camera, camera_seen(query.camera, localizer.camera, whole=WHOLE_PX))[None]
    return None


def _in_full(localizer: Localizer) -> Localizer:
    """The map computing in float32."""
    if isinstance(localizer, CoordinatesMap):
        return replace(localizer, family=replace(localizer.family, precision="fp32"))
    return localizer
