"""placecell explain: what a map sees, as pictures and as tables that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Command
from placecell.catalog import load_map
from placecell.errors import MapError
from placecell.estimate import Query
from placecell.images import load_query, read_image, write_jpeg
from placecell.scene import Scene

Maps = Callable[[str], Path]


class Seer:
    """A map that looks at the left half of pictures, and cannot do with one of them."""

    def saliency(self, query: Query) -> NDArray[np.float32]:
        if query.name.endswith("unlike.jpg"):
            raise MapError(f"{query.name}: unlike anything; choose another picture")
        seen = np.zeros(query.image.shape[:2], np.float32)
        seen[:, : seen.shape[1] // 2] = 1.0
        return seen

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        return np.array([[query.image.mean(), query.camera.fx, -1.5] for query in queries], np.float32)


@pytest.fixture
def seer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("placecell.catalog.load_map", lambda folder, **_: Seer())


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


class TestOfAScene:
    def test_features_and_what_is_known_of_them_go_row_by_row(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        folder = room_map_folder("retrieval")
        said = placecell("explain", folder, room_scene.root, tmp_path / "out")
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"{tmp_path / 'out'}: 6 feature vectors\n")
        assert not (tmp_path / "out" / "saliency").exists()
        frames = room_scene.split("test").frames
        head, *rows = table(tmp_path / "out" / "metadata.tsv")
        assert head == ["name", "sequence", "split", "x", "y", "z", "qw", "qx", "qy", "qz"]
        assert [row[0] for row in rows] == [frame.name for frame in frames]
        for row, frame in zip(rows, frames, strict=True):
            assert frame.world_from_cam is not None and row[2] == "test"
            expected = [*frame.world_from_cam.translation, *frame.world_from_cam.quat_wxyz]
            np.testing.assert_allclose([float(value) for value in row[3:]], expected, atol=1e-5)
        queries = [load_query(room_scene, frame) for frame in frames]
        expected = load_map(folder).pose_features(queries)  # type: ignore[attr-defined]
        np.testing.assert_allclose(np.loadtxt(tmp_path / "out" / "features.tsv"), expected, atol=1e-5)

    def test_pictures_glow_where_the_map_looks(
        self, seer: None, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("explain", room_map_folder("retrieval"), room_scene.root, tmp_path / "out")
        assert (said.code, said.err) == (0, "") and "6 saliency maps and 6 feature vectors" in said.out
        for frame in room_scene.split("test").frames:
            shown = read_image(tmp_path / "out" / "saliency" / frame.name).astype(float)
            colour = np.ptp(shown, axis=2).mean(axis=0)
            assert shown.shape == (360, 480, 3)
            assert colour[:200].min() > 40 and colour[280:].max() < 15  # grey there

    def test_so_many_spread_evenly(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        words = ("explain", room_map_folder("retrieval"), room_scene.root, tmp_path / "out")
        assert placecell(*words, "--limit", 3, "--split", "train").code == 0
        names = [row[0] for row in table(tmp_path / "out" / "metadata.tsv")[1:]]
        train = [frame.name for frame in room_scene.split("train").frames]
        assert names == [train[0], train[14], train[29]]

    def test_the_next_command_works_when_pasted(
        self, room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        words = ("explain", room_map_folder("retrieval"), room_scene.root, tmp_path / "out", "--limit", 1)
        assert placecell(*words).following == ["ls", str(tmp_path / "out")]
        said = placecell(*words)
        assert said.code == 1 and "exists already" in said.err
        assert placecell(*words, "--overwrite").code == 0


class TestOfPhotos:
    @pytest.fixture
    def photos(self, room_scene: Scene, tmp_path: Path) -> Path:
        image = load_query(room_scene, room_scene.frames[0]).image
        for name in ("a\tb.jpg", "in/unlike.jpg", "z.jpg"):
            write_jpeg(tmp_path / "photos" / name, image)
        write_jpeg(tmp_path / "photos" / "in" / "blank.jpg", np.full_like(image, 7))
        (tmp_path / "photos" / "text.jpg").write_text("no picture")
        return tmp_path / "photos"

    def test_what_cannot_be_shown_is_told_and_left_out(
        self, seer: None, photos: Path, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("explain", room_map_folder("retrieval"), photos, tmp_path / "out")
        assert said.code == 0 and "2 saliency maps and 2 feature vectors" in said.out
        for told in ("unlike anything", "image is blank", "text.jpg: not a picture"):
            assert told in said.err
        # A head is there, as the projector wants it of tables with more than one column; no name breaks a row.
        assert table(tmp_path / "out" / "metadata.tsv") == [["name", "folder"], ["a b.jpg", "."], ["z.jpg", "."]]
        assert np.loadtxt(tmp_path / "out" / "features.tsv").shape == (2, 3)
        assert sorted(p.name for p in (tmp_path / "out" / "saliency").rglob("*.jpg")) == ["a\tb.jpg", "z.jpg"]

    def test_when_nothing_can_be_shown_nothing_is_made(
        self, seer: None, photos: Path, room_map_folder: Maps, placecell: Command, tmp_path: Path
    ) -> None:
        said = placecell("explain", room_map_folder("retrieval"), photos / "in", tmp_path / "out")
        assert said.code == 1 and "nothing with any of the 2 pictures" in said.err
        assert not (tmp_path / "out").exists()


def test_a_map_that_cannot_tell_says_so(
    room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("placecell.catalog.load_map", lambda folder, **_: object())
    said = placecell("explain", room_map_folder("retrieval"), room_scene.root, tmp_path / "out")
    assert said.code == 1 and "retrieval maps do not tell what they see" in said.err and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_regression_map_shows_both(room_scene: Scene, placecell: Command, tmp_path: Path) -> None:
    """Untrained, as only the way there is meant."""
    torch = pytest.importorskip("torch")
    from placecell.anchor import Anchor
    from placecell.families.regression.config import Regression
    from placecell.families.regression.localizer import RegressionMap, answering, size_seen
    from placecell.families.regression.network import PoseNetwork
    from placecell.localizer import MapInfo
    from placecell.pose import Pose
    from placecell.resample import canonical_camera

    family = Regression(weights="none", short_side=64, hidden=16)
    camera = canonical_camera(list(room_scene.cameras.values()), 64)
    info, anchor = MapInfo.of(family, room_scene, 0), Anchor(Pose.identity(), 1.0)
    with torch.random.fork_rng(devices=[]):
        network = PoseNetwork(family, 1.0, size=size_seen(camera, family)).eval()
    network.drop_unused()
    RegressionMap(family, info, answering(network, family, camera), camera, anchor, 0.0).save(tmp_path / "map")
    said = placecell("explain", tmp_path / "map", room_scene.root, tmp_path / "out", "--limit", 1)
    assert (said.code, said.err) == (0, "") and "1 saliency maps and 1 feature vectors" in said.out
    assert len(list((tmp_path / "out" / "saliency").rglob("*.jpg"))) == 1


@pytest.mark.parametrize("flags", [("--limit", 0), ("--focal-px", -3)])
def test_flags_that_cannot_be(
    flags: tuple[object, ...], room_scene: Scene, room_map_folder: Maps, placecell: Command, tmp_path: Path
) -> None:
    said = placecell("explain", room_map_folder("retrieval"), room_scene.root, tmp_path / "out", *flags)
    assert said.code == 1 and flags[0] in said.err
