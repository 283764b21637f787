"""placecell demo [OUT]"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from placecell.align import trajectory_error
from placecell.cli import build, evaluate, localize, report, scene
from placecell.cli.terminal import Terminal, parse
from placecell.errors import PlacecellError
from placecell.pose import Pose
from placecell.scene import Scene
from placecell.synthetic import make_video

_MADE = ("room.mp4", "room", "room.map", "run", "report.html")


def main(words: Sequence[str]) -> None:
    """Show all of it."""
    parse("demo", demo, words)


def demo(out: Annotated[Path, tyro.conf.Positional] = Path("demo"), frames: int = 120, seed: int = 0) -> None:
    """Render a short video of a room, then do with it what you would do with yours.

    Args:
        out: Folder for all that is made; what an earlier demo left there is replaced.
        frames: Length of the video.
        seed: Seed of every random choice.
    """
    _require_own(out)
    start = time.perf_counter()
    video, place, map, run, page = (out / name for name in _MADE)
    Terminal().say(f"rendering {video}: a walk of {frames} frames through a room")
    exact = make_video(video, count=frames, seed=seed, kind="across")
    _show(["scene", video, place, "--every", 1, "--holdout", 0.2, "--overwrite", "--seed", seed])
    _judge_labels(Scene.load(place), exact)
    _show(["build", place, map, "structure", "--overwrite", "--seed", seed])
    _show(["localize", map, place, run, "--overwrite"])
    _show(["evaluate", run, place])
    _show(["report", run, place, page, "--map", map, "--overwrite"])
    print(f"\nall of it in {time.perf_counter() - start:.0f} s; the report to look at: {page.resolve()}")


def _require_own(out: Path) -> None:
    """Refuse a folder that holds more than an earlier demo left."""
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else []
    foreign = [name for name in others if name not in _MADE]
    if foreign or (out.exists() and not out.is_dir()):
        what = f"holds {foreign[0]}, which is not of a demo" if foreign else "is a file"
        raise PlacecellError(f"{out} {what}; name a new folder: placecell demo OUT")


def _show(line: Sequence[object]) -> None:
    """Print a command as a user would type it, and do it."""
    verb, *words = [str(word) for word in line]
    print(f"\n$ placecell {verb} {shlex.join(words)}", flush=True)
    verbs = {"scene": scene, "build": build, "localize": localize, "evaluate": evaluate, "report": report}
    verbs[verb].main(words)


def _judge_labels(labelled: Scene, exact: Sequence[Pose]) -> None:
    """How good the automatic labels are: the only step that needs to know the truth."""
    found = {frame.name: frame.world_from_cam for frame in labelled.posed if frame.world_from_cam is not None}
    truth = {name: exact[_number(name)] for name in found}
    distances, angles_deg, _ = trajectory_error(found, truth)
    print(
        f"the rendered truth says: labels within {1e3 * float(np.median(distances)):.1f} mm and "
        f"{float(np.median(angles_deg)):.2f} deg in the median, after alignment"
    )


def _number(name: str) -> int:
    """Index in the video of `…/frame-000123.jpg`."""
    return int(Path(name).stem.rpartition("-")[2])
