"""A run folder and its scene to figures: the run's own, and the floors it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from placecell import floors
from placecell.errors import SceneError
from placecell.estimate import Estimate, read_predictions
from placecell.metrics import Evaluation, evaluate
from placecell.run import RunInfo
from placecell.scene import Frame, Scene


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of a run."""

    run: RunInfo
    estimates: list[Estimate]
    evaluation: Evaluation
    floors: dict[str, Evaluation]
    """`constant` and `oracle`."""
    trained: int
    """How many of the frames asked are training frames, which the map was built from."""


def verdict(folder: Path, scene: Scene) -> Verdict:
    """Judge the answers of a run by the labels of the scene its map was built from.

    Frames asked are those of the run's split; for pictures localized without a scene, the frames of the same names.

    Raises:
        SceneError: the run belongs to another scene, split or ground truth, or no asked frame has a pose.
        FormatError: the run is unfinished or damaged.
    """
    run = RunInfo.load(folder)
    run.require_scene(scene)
    estimates = read_predictions(folder / "predictions.jsonl")
    asked = _asked(run, scene, estimates)
    known = {frame.name for frame in asked}
    told = [estimate for estimate in estimates if estimate.name in known]
    lines = {"constant": floors.constant(scene, asked), "oracle": floors.oracle(scene, asked)}
    return Verdict(
        run=run,
        estimates=told,
        evaluation=_evaluate(scene, asked, told),
        floors={name: _evaluate(scene, asked, answers) for name, answers in lines.items()},
        trained=sum(frame.split == "train" for frame in asked),
    )


def _asked(run: RunInfo, scene: Scene, estimates: Sequence[Estimate]) -> tuple[Frame, ...]:
    if run.scene is not None:
        split = run.scene["split"]
        frames = tuple(frame for frame in scene.posed if split in ("all", frame.split))
    else:
        names = {estimate.name for estimate in estimates}
        frames = tuple(frame for frame in scene.posed if frame.name in names)
    if not frames:
        raise SceneError(f"scene {scene.name} has no labelled frame among the pictures of the run; nothing to judge by")
    return frames


def _evaluate(scene: Scene, asked: Sequence[Frame], estimates: Sequence[Estimate]) -> Evaluation:
    truths = {frame.name: frame.world_from_cam for frame in asked if frame.world_from_cam is not None}
    sequences = {frame.name: frame.sequence for frame in asked}
    return evaluate(estimates, truths, sequences, scene=scene.name, labels=scene.labels, unit=scene.unit)
