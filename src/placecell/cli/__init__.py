"""The command line: one verb a step, paths in and paths out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

VERBS = {
    "scene": "a video, photos or a data set -> a scene folder with poses (--check judges one)",
    "build": "a scene -> a map, by one of the families of methods",
    "calibrate": "a map and its scene -> the map says how sure it is, and means it",
    "combine": "maps of one scene -> one map: an ensemble, or a cascade",
    "localize": "a map and pictures -> a run folder with a pose or a reason for each",
    "evaluate": "a run and its scene -> errors, recalls, and the floors to beat",
    "report": "a run and its scene -> one HTML page to look at",
    "explain": "a map and pictures -> which pixels place them, and their feature vectors",
    "track": "a map and a video, a folder of pictures or a camera -> a line for each frame, live",
    "export": "a map -> ONNX, which runs without torch; a scene -> the files of COLMAP, TUM or nerfstudio",
    "serve": "maps -> answers over HTTP, and a page to drop photos on",
    "fetch": "a public data set by name -> a folder",
    "demo": "all of it, on a rendered room",
}

HELP = """placecell: know where a camera was, from one picture

  placecell scene kitchen.mp4 kitchen/                   poses by structure from motion
  placecell build kitchen/ kitchen.map structure         a map
  placecell localize kitchen.map photos/ run/            where the photos were taken
  placecell serve kitchen.map                            the same on a page, and over HTTP

{verbs}

`placecell VERB --help` tells more.
"""

_AFTER_STOP = {
    **dict.fromkeys(("scene", "localize", "fetch"), "the same command goes on from here"),
    "track": "--out, where it is named, holds what was answered",
    "calibrate": "with --folds, finished maps are kept for the same command",
    "build": "with the same command a training goes on, anything else begins again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when it worked, 1 with one line when it could not, 2 on a bad command line, 130 when stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    help_text = HELP.format(verbs="\n".join(f"  {verb:10}{text}" for verb, text in VERBS.items()))
    if not words:
        print(help_text, file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help"):
        print(help_text)
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"placecell {version('placecell')}")
        return 0
    if words[0] not in VERBS:
        print(f"placecell: no verb {words[0]!r}; known are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    _prepare()
    return _run(words[0], words[1:])


def _prepare() -> None:
    """What has to be set before the libraries are loaded, and a standard output that no file name can break."""
    # Spinning threads of OpenBLAS make small products many times slower on a busy machine.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Damaged pictures and videos are told of by placecell, in one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(verb: str, words: Sequence[str]) -> int:
    from placecell.errors import PlacecellError

    try:
        import_module(f"placecell.cli.{verb}").main(words)
        sys.stdout.flush()
    except PlacecellError as error:
        print(f"placecell {verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nplacecell {verb}: stopped; {_AFTER_STOP.get(verb, 'nothing was changed')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough; nothing may be flushed to it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:  # of tyro, which has said why
        return stop.code if isinstance(stop.code, int) else 0
    return 0
