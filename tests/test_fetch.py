"""`placecell.fetch`: licences, folders that are complete or absent, and archives not to be trusted."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from placecell.errors import FormatError, PlacecellError
from placecell.fetch import DATA_SETS, fetch, unpack
from placecell.log import Silent
from web import Web, web_server


def zipped(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def chess() -> bytes:
    """An archive laid out as those of 7-Scenes: zips in a zip, and a damaged Thumbs.db."""
    inner = bytearray(zipped({"seq-01/frame-000000.pose.txt": b"1 0 0 0", "seq-01/Thumbs.db": b"thumbs" * 20}))
    inner[inner.index(b"Thumbs.db") + 10] ^= 0xFF
    return zipped({"chess/TrainSplit.txt": b"sequence1\n", "chess/seq-01.zip": bytes(inner), "chess/Thumbs.db": b""})


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        running.files = {
            "/7scenes/chess.zip": chess(),
            "/7scenes/chess_train.txt": b"seq-01/frame-000000.color.png 1 0 0 0 0 0 0 525\n",
            "/7scenes/chess_test.txt": b"",
        }
        yield running


class Said(Silent):
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def fetched(web: Web, folder: Path, scene: str = "chess") -> Path:
    return fetch("7scenes", folder, scenes=[scene], accept_licence=True, mirror=web.url, wait=_no_wait, log=Silent())[0]


def _no_wait(seconds: float) -> None:
    pass


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_is_complete() -> None:
    for data_set in DATA_SETS.values():
        assert data_set.licence
        assert urlsplit(data_set.page).scheme == "https"
        for name, part in data_set.parts.items():
            assert part.archive.url.endswith(f"/{name}.zip")
            assert all(remote.url.endswith(".txt") for remote in part.labels.values())
    assert sum(len(data_set.parts) for data_set in DATA_SETS.values()) == 7 + 4 + 6
    assert sum(len(part.labels) for part in DATA_SETS["12scenes"].parts.values()) == 2 * 12


def test_a_scene_arrives_with_its_sequences_and_both_ground_truths(web: Web, tmp_path: Path) -> None:
    assert content(fetched(web, tmp_path)) == {
        "TrainSplit.txt": b"sequence1\n",
        "seq-01/frame-000000.pose.txt": b"1 0 0 0",
        "sfm_poses_train.txt": b"seq-01/frame-000000.color.png 1 0 0 0 0 0 0 525\n",
        "sfm_poses_test.txt": b"",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["chess"]


def test_a_scene_that_is_there_is_left_alone(web: Web, tmp_path: Path) -> None:
    fetched(web, tmp_path)
    asked = len(web.asked)
    (tmp_path / "chess" / "mine.txt").write_text("mine")
    assert "mine.txt" in content(fetched(web, tmp_path))
    assert len(web.asked) == asked


def test_the_licence_comes_first_and_has_to_be_accepted(web: Web, tmp_path: Path) -> None:
    log = Said()
    with pytest.raises(PlacecellError, match="--accept-licence"):
        fetch("7scenes", tmp_path, scenes=["chess"], mirror=web.url, log=log)
    assert "non-commercial" in log.lines[0]
    with pytest.raises(PlacecellError, match="nothing was downloaded"):
        fetch("7scenes", tmp_path, scenes=["chess"], mirror=web.url, ask=lambda question: False, log=log)
    assert web.asked == []
    assert list(tmp_path.iterdir()) == []
    fetch("7scenes", tmp_path, scenes=["chess"], mirror=web.url, ask=lambda question: "terms" in question, log=log)
    assert (tmp_path / "chess").is_dir()


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PlacecellError, match="known are 7scenes, 12scenes, cambridge"):
        fetch("8scenes", tmp_path, accept_licence=True, log=Silent())
    with pytest.raises(PlacecellError, match=r"no scene 'chest'; known are chess, fire"):
        fetch("7scenes", tmp_path, scenes=["chest"], accept_licence=True, log=Silent())


def test_an_interrupted_fetch_leaves_no_scene_and_goes_on(web: Web, tmp_path: Path) -> None:
    labels = web.files.pop("/7scenes/chess_test.txt")
    with pytest.raises(PlacecellError, match="404"):
        fetched(web, tmp_path)
    assert not (tmp_path / "chess").exists()
    web.files["/7scenes/chess_test.txt"] = labels
    fetched(web, tmp_path)
    assert [path for path, _ in web.asked].count("/7scenes/chess.zip") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["chess"]


def test_a_web_page_in_place_of_the_archive_is_told_and_fetched_anew(web: Web, tmp_path: Path) -> None:
    good = web.files["/7scenes/chess.zip"]
    web.files["/7scenes/chess.zip"] = b"<html>please log in</html>"
    with pytest.raises(FormatError, match=r"chess\.zip: not a whole zip file"):
        fetched(web, tmp_path)
    assert not (tmp_path / "chess").exists()
    web.files["/7scenes/chess.zip"] = good
    assert "TrainSplit.txt" in content(fetched(web, tmp_path))


def test_an_archive_without_a_folder_of_the_scenes_name_stays_as_it_is(web: Web, tmp_path: Path) -> None:
    web.files["/7scenes/chess.zip"] = zipped({"a/1.txt": b"1", "chess/chess": b"2"})
    assert {"a/1.txt", "chess/chess"} <= set(content(fetched(web, tmp_path)))
    web.files["/7scenes/fire.zip"] = zipped({"fire/fire/1.txt": b"1"})
    web.files["/7scenes/fire_train.txt"] = web.files["/7scenes/fire_test.txt"] = b""
    assert "fire/1.txt" in content(fetched(web, tmp_path, "fire"))


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "C:/evil.txt", "..\\evil.txt"])
def test_an_archive_that_would_write_elsewhere_is_refused_whole(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "room.zip"
    archive.write_bytes(zipped({"good.txt": b"good", name: b"evil"}))
    folder = tmp_path / "out" / "room"
    folder.mkdir(parents=True)
    with pytest.raises(FormatError, match="would leave the folder"):
        unpack(archive, folder, log=Silent())
    assert list(content(tmp_path)) == ["room.zip"]


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "room.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(link, "/etc/passwd")
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError, match="is a link"):
        unpack(archive, tmp_path / "out", log=Silent())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bad_archive_inside_an_archive_is_refused_too(tmp_path: Path) -> None:
    archive = tmp_path / "room.zip"
    archive.write_bytes(zipped({"seq-01.zip": zipped({"../../evil.txt": b"evil"})}))
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError, match=r"seq-01\.zip: entry .* would leave"):
        unpack(archive, tmp_path / "out", log=Silent())
    assert not list(tmp_path.rglob("evil.txt"))


def test_damage_in_an_archive_is_told_in_one_line(tmp_path: Path) -> None:
    damaged = bytearray(zipped({"picture.png": bytes(range(256)) * 40}))
    damaged[60] ^= 0xFF
    (tmp_path / "room.zip").write_bytes(damaged)
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError, match="not a whole zip file") as caught:
        unpack(tmp_path / "room.zip", tmp_path / "out", log=Silent())
    assert "\n" not in str(caught.value)
