"""What tests share: real frames when they are there, a rendered room, and small scenes made by hand."""

from __future__ import annotations

import os
import signal

# Before NumPy comes: on a busy machine the spinning threads of OpenBLAS make small products twenty times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from scipy.spatial.transform import Rotation

from placecell.camera import Camera
from placecell.catalog import family
from placecell.estimate import Query
from placecell.localizer import Localizer
from placecell.log import Silent
from placecell.points import PointCloud
from placecell.pose import Pose
from placecell.scene import DepthSensor, Frame, Scene

# Children of a shell's background jobs are born deaf to Ctrl-C, and pass that on to the processes they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("house", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("house")

REPOSITORY = Path(__file__).resolve().parents[1]


SMALL: dict[str, dict[str, Any]] = {
    "coordinates": {
        "weights": "none",
        "short_side": 96,
        "looks": 1,
        "samples": 64,
        "hidden": 32,
        "clusters": 8,
        "epochs": 2.0,
        "batch": 256,
        "least": 6,
    },
    "dsac": {
        "short_side": 96,
        "width": 16,
        "epochs": 4.0,
        "batch": 2,
        "precision": "fp32",
        "end_to_end": 2,
        "hypotheses": 8,
        "least": 6,
    },
    "forest": {"trees": 3, "pixels": 400, "candidates": 8, "short_side": 120, "queried": 800, "least": 60},
    "regression": {"weights": "none", "short_side": 48, "hidden": 32, "epochs": 2.0, "batch": 8},
}
"""Settings that make a family quick, where its defaults take minutes or the network; others are tested as they are."""


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real frames: $PLACECELL_DATA, else shared/data beside the repository."""
    given = os.environ.get("PLACECELL_DATA")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not (root / "redkitchen").is_dir():
        pytest.skip(f"no real frames: {root} has no folder redkitchen; set PLACECELL_DATA to the folder that holds it")
    return root


@pytest.fixture(scope="session")
def room_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A rendered room with exact poses, depth and points: 30 training and 6 test frames of 480x360, all read-only."""
    from placecell.synthetic import make_scene

    return make_scene(tmp_path_factory.mktemp("room") / "scene", train=30, test=6, size=(480, 360), seed=0)


@pytest.fixture(scope="session")
def room_queries(room_scene: Scene) -> list[Query]:
    """The test pictures of the room, with the depth that some maps want."""
    from placecell.images import load_query

    return [load_query(room_scene, frame, depth=True) for frame in room_scene.split("test").frames]


@pytest.fixture(scope="session")
def room_map(room_scene: Scene) -> Callable[[str], Localizer]:
    """The map of the room by the family of a name, with its small settings and seed 0; built once."""

    @cache
    def build(name: str) -> Localizer:
        return family(name)(**SMALL.get(name, {})).build(room_scene, device="cpu", seed=0, log=Silent())

    return build


@pytest.fixture(scope="session")
def room_map_folder(
    room_map: Callable[[str], Localizer], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The map folder of the room by the family of a name; read-only, saved once."""

    @cache
    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp("maps") / f"room.{name}"
        room_map(name).save(folder)
        return folder

    return save


class Remembering(Silent):
    """A log that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def following(self) -> list[str]:
        """The words of the command it says to type next."""
        (line,) = [line for line in self.out.splitlines() if line.startswith("next: ")]
        return shlex.split(line.removeprefix("next: "))


Command = Callable[..., Said]


@pytest.fixture
def placecell(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process: `placecell("build", scene, out, "structure").code`."""
    from placecell.cli import main

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return call


SceneMaker = Callable[..., Scene]


@pytest.fixture
def scene_of(tmp_path: Path) -> SceneMaker:
    """Makes small scenes by hand: one file of distinct bytes a frame, known poses, points with observations."""

    def make(
        names: tuple[str, ...] = ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"),
        *,
        depth: bool = False,
        points: bool = True,
        folder: str = "photos",
    ) -> Scene:
        root = tmp_path / folder
        frames = tuple(_frame(root, name, index, depth=depth) for index, name in enumerate(names))
        camera = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002))
        sensor = DepthSensor(Camera.from_focal(64, 48, 45.0), Pose.exp([0.01, 0.0, 0.0, 0.02, 0.0, 0.0]), 0.001)
        return Scene(
            name="room",
            labels="by hand",
            metric=True,
            frames=frames,
            cameras={"phone": camera},
            root=root,
            depth_sensor=sensor if depth else None,
            points=_points(len(frames)) if points else None,
            notes=("made by hand",),
        )

    return make


def _frame(root: Path, name: str, index: int, *, depth: bool) -> Frame:
    for kind in ("rgb", "depth") if depth else ("rgb",):
        path = root / kind / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{kind} of {name}".encode())
    rotation = Rotation.from_rotvec([0.1 * index, 0.3, -0.2 * index]).as_matrix()
    return Frame(
        name=name,
        image=f"rgb/{index}.jpg",
        camera="phone",
        world_from_cam=None if index == 3 else Pose(rotation, np.array([index, 0.5, -1.25])),
        sequence=name.split("/")[0],
        split="test" if index % 2 else "train",
        depth=f"depth/{index}.jpg" if depth else None,
        time_s=index / 30,
    )


def _points(frames: int) -> PointCloud:
    """Point i is seen in every frame but frame i % frames."""
    rng = np.random.default_rng(0)
    count = 6
    seen = np.array([(p, f) for p in range(count) for f in range(frames) if p % frames != f], np.int32).reshape(-1, 2)
    return PointCloud(
        rng.normal(size=(count, 3)).astype(np.float32).astype(np.float64),
        rng.integers(0, 255, (count, 3)).astype(np.uint8),
        seen[:, 0].copy(),
        seen[:, 1].copy(),
        rng.uniform(0, 48, (len(seen), 2)).astype(np.float32),
    )
