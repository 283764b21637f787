"""placecell scene SOURCE OUT, placecell scene --check SCENE"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell import check as checking
from placecell.camera import Camera
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import SceneError
from placecell.labelling import Made, Wish, make_scene
from placecell.sources import read_dataset, recognize


def main(words: Sequence[str]) -> None:
    """Make a scene, or check one."""
    parse("scene", scene, words)


def scene(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.Positional] = None,
    check: bool = False,
    format: str | None = None,
    labels: str | None = None,
    relabel: bool = False,
    every: int | None = None,
    frames: int = 300,
    focal_px: float | None = None,
    global_mapper: bool = False,
    metric_from: str | None = None,
    holdout: float | None = None,
    name: str | None = None,
    images: Literal["link", "copy"] = "link",
    overwrite: bool = False,
    seed: int = 0,
    threads: int = 2,
) -> None:
    """Make a scene folder of a video, photos or a data set; those without poses get them by structure from motion.

    An interrupted run goes on when the same command is given again.

    Args:
        source: A video, a folder of videos, of photos or with a data set; with --check, a scene or a data set.
        out: Scene folder to make.
        check: Only look at a scene with suspicion: conventions, outliers, duplicates, leakage.
        format: Format of the data set, where it cannot be told: 7scenes, colmap, tum, and so on.
        labels: Which ground truth of a data set that has several: kinectfusion or sfm.
        relabel: Ignore the poses of a data set and make them by structure from motion.
        every: Take every so many-th frame or photo; otherwise frames of a video are chosen, sharp and well spaced.
        frames: Frames chosen from a video, at most.
        focal_px: Focal length, kept as it is; otherwise from EXIF, the data set or the matches, and refined.
        global_mapper: All poses at once instead of picture by picture.
        metric_from: Where metres come from: gps, depth, or two frames and their distance, as a.jpg,b.jpg,1.5
        holdout: Share of frames to keep for the test, in contiguous blocks.
        name: Name of the scene; otherwise that of the source.
        images: Link the pictures or copy them; frames of videos are always copied.
        overwrite: Replace the scene folder if it exists.
        seed: Seed of every random choice.
        threads: Processor threads.
    """
    if seed < 0 or threads < 1:
        raise SceneError(f"--seed {seed} --threads {threads}: seeds count from 0, threads from 1")
    log = Terminal()
    if check:
        if out is not None:
            raise SceneError(f"--check takes one scene, not {source} and {out}; drop one of them")
        _check(source, format, labels, seed, log)
        return
    if out is None:
        raise SceneError(f"name the scene folder to make: placecell scene {source} OUT, or check one with --check")
    wish = Wish(
        name=name,
        labels=labels,
        relabel=relabel,
        every=every,
        frames=frames,
        focal_px=focal_px,
        global_mapper=global_mapper,
        metric_from=metric_from,
        holdout=holdout,
        images=images,
        seed=seed,
        threads=threads,
    )
    made = make_scene(recognize(source, format), out, wish, log, overwrite=overwrite)
    finish(_account(out, made), ["placecell", "build", out, unused(_map_of(out)), "structure"])


def _check(source: Path, format: str | None, labels: str | None, seed: int, log: Terminal) -> None:
    options = {} if labels is None else {"labels": labels}
    found = recognize(source, format)
    if found.kind != "dataset":
        raise SceneError(
            f"{source}: {found.kind} have no poses to check; make a scene first: placecell scene {source} OUT"
        )
    report = checking.check(read_dataset(found, **options), seed=seed, log=log)
    print("\n".join(checking.lines(report)))


def _map_of(out: Path) -> Path:
    return out.with_name(f"{out.absolute().name}.map")


def _account(out: Path, made: Made) -> str:
    scene = made.scene
    test = sum(frame.split == "test" for frame in scene.frames)
    points = "" if scene.points is None else f", {len(scene.points)} points"
    held = f", {test} of them for the test" if test else ""
    lines = [f"{out}: {len(scene.posed)} of {len(scene.frames)} frames have a pose{held}{points}"]
    used = {frame.camera for frame in scene.posed}
    cameras = [camera for key, camera in scene.cameras.items() if key in used]
    lines += [_lens(camera) for camera in cameras[:3]]
    if len(cameras) > 3:
        lines.append(f"and {len(cameras) - 3} more cameras")
    lines += list(scene.notes)
    total = sum(made.seconds.values())
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in made.seconds.items())
    return "\n".join([*lines, f"{total:.0f} s: {stages}"])


def _lens(camera: Camera) -> str:
    warped = f", distortion {' '.join(f'{value:.3f}' for value in camera.distortion)}" if camera.distortion else ""
    return f"camera of {camera.width}x{camera.height} px: focal length {camera.fx:.1f} px{warped}"
