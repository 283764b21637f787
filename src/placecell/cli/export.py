"""placecell export MAP OUT, placecell export SCENE OUT FORMAT"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.datasets import WRITERS
from placecell.errors import PlacecellError, naming_extras
from placecell.localizer import map_bytes
from placecell.scene import Scene


def main(words: Sequence[str]) -> None:
    """Write a map to run without torch, or a scene in a format of others."""
    parse("export", export, words)


def export(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Annotated[Literal["onnx", "colmap", "tum", "nerfstudio"], tyro.conf.Positional] = "onnx",
    scene: Path | None = None,
    precision: Literal["int8", "bf16", "fp32"] = "int8",
    frames: int = 64,
    force: bool = False,
    images: Literal["link", "copy"] = "link",
    overwrite: bool = False,
) -> None:
    """Write a map of a network as ONNX, which runs without torch; or a scene as COLMAP, TUM RGB-D or nerfstudio.

    Args:
        source: Map folder (regression, coordinates), or scene folder.
        out: Folder to make.
        format: onnx for a map; colmap (text), tum or nerfstudio for a scene.
        scene: Of a map, the scene it was built from; its training frames calibrate int8 and bf16, and judge all.
        precision: Of a map: int8; bf16, the fastest for regression where the processor has it; or fp32.
        frames: Of a map: training frames to calibrate with, and up to four times as many others to judge with.
        force: Of a map: write it though it loses more than 3 % of the median error.
        images: Of a scene: link the pictures or copy them.
        overwrite: Replace the folder if it exists.
    """
    if format != "onnx":
        made = WRITERS[format](Scene.load(source), out, images=images, overwrite=overwrite)
        back = ["placecell", "scene", made, unused(Path("again")), "--format", format]
        finish(f"{made}: {source} for {format}", back)
        return
    if (source / "scene.json").is_file():
        raise PlacecellError(f"{source} is a scene; name a format for it: {', '.join(WRITERS)}")
    if frames < 1:
        raise PlacecellError("--frames counts from 1")
    with naming_extras():
        from placecell.export.exporting import export_map
    place = None if scene is None else Scene.load(scene)
    log = Terminal()
    told = {"precision": precision, "frames": frames, "force": force, "overwrite": overwrite}
    found = export_map(source, out, scene=place, log=log, **told)  # type: ignore[arg-type]
    kept = f", {len(found.told['kept'])} layers kept in floating point" if precision == "int8" else ""
    following: list[object] = ["placecell", "serve", out]
    if (source / "calibration.json").is_file():
        # Eight bits move errors a little, and what was learned of strange pictures is of other vectors.
        calibrate = ["placecell", "calibrate", out, scene or "SCENE"]
        log.say(f"{source} is calibrated, its export is not; that does: {shlex.join(map(str, calibrate))}")
        following = following if scene is None else calibrate
    finish(f"{out}: {precision}, {map_bytes(out) / 1e6:.1f} MB{kept}", following)
