"""`placecell.download` against servers that break off, forget, change and lie."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pytest

from placecell import download as download_module
from placecell.download import Remote, download
from placecell.errors import PlacecellError
from placecell.log import Silent
from web import Web, web_server

CONTENT = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(1_000_000)


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        running.files["/room.zip"] = CONTENT
        yield running


class Waits:
    """Stands in for time.sleep, and remembers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def get(web: Web, path: Path, *, tries: int = 3, **known: Any) -> Path:
    return download(Remote(f"{web.url}/room.zip", **known), path, log=Silent(), tries=tries, wait=Waits())


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_alone(web: Web, tmp_path: Path) -> None:
    path = get(web, tmp_path / "new" / "room.zip", checksum="sha256:" + hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert leftovers(path.parent) == ["room.zip"]


def test_a_file_that_is_there_is_not_asked_for(web: Web, tmp_path: Path) -> None:
    (tmp_path / "room.zip").write_bytes(b"mine")
    assert get(web, tmp_path / "room.zip").read_bytes() == b"mine"
    assert web.asked == []


def test_a_broken_transfer_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    web.breaks_after, web.breaks = 300_000, 2
    assert get(web, tmp_path / "room.zip").read_bytes() == CONTENT
    assert [asked for _, asked in web.asked] == [None, "bytes=300000-", "bytes=600000-"]


def test_tries_that_bring_something_do_not_count(web: Web, tmp_path: Path) -> None:
    web.breaks_after = 90_000
    assert get(web, tmp_path / "room.zip", tries=2).read_bytes() == CONTENT
    assert len(web.asked) == 12


def test_a_later_call_resumes_what_an_earlier_one_left(web: Web, tmp_path: Path) -> None:
    web.refusals = []
    web.breaks_after, web.breaks = 400_000, 1
    with pytest.raises(KeyboardInterrupt):
        download(Remote(f"{web.url}/room.zip"), tmp_path / "room.zip", log=Silent(), wait=Interrupted())
    assert (tmp_path / "room.zip.part").stat().st_size == 400_000
    assert not (tmp_path / "room.zip").exists()
    assert get(web, tmp_path / "room.zip").read_bytes() == CONTENT
    assert web.asked[-1][1] == "bytes=400000-"
    assert leftovers(tmp_path) == ["room.zip"]


class Interrupted:
    """The user presses control-C while waiting."""

    def __call__(self, seconds: float) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("minds_if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_never_mixed(web: Web, tmp_path: Path, minds_if_range: bool) -> None:
    web.minds_if_range = minds_if_range
    web.breaks_after, web.breaks = 400_000, 1
    with pytest.raises(KeyboardInterrupt):
        download(Remote(f"{web.url}/room.zip"), tmp_path / "room.zip", log=Silent(), wait=Interrupted())
    web.files["/room.zip"] = OTHER
    assert get(web, tmp_path / "room.zip").read_bytes() == OTHER


def test_a_file_that_shrank_meanwhile_starts_again(web: Web, tmp_path: Path) -> None:
    web.minds_if_range = False
    web.breaks_after, web.breaks = 400_000, 1
    with pytest.raises(KeyboardInterrupt):
        download(Remote(f"{web.url}/room.zip"), tmp_path / "room.zip", log=Silent(), wait=Interrupted())
    web.files["/room.zip"] = OTHER[:1000]
    assert get(web, tmp_path / "room.zip").read_bytes() == OTHER[:1000]


def test_without_ranges_it_starts_again(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    web.breaks_after, web.breaks = 400_000, 1
    assert get(web, tmp_path / "room.zip").read_bytes() == CONTENT


def test_without_a_validator_it_starts_again(web: Web, tmp_path: Path) -> None:
    web.etags = False
    web.breaks_after, web.breaks = 400_000, 1
    assert get(web, tmp_path / "room.zip").read_bytes() == CONTENT
    assert [asked for _, asked in web.asked] == [None, None]


def test_a_part_of_another_address_is_not_continued(web: Web, tmp_path: Path) -> None:
    web.files["/other.zip"] = OTHER
    web.breaks_after, web.breaks = 400_000, 1
    with pytest.raises(KeyboardInterrupt):
        download(Remote(f"{web.url}/other.zip"), tmp_path / "room.zip", log=Silent(), wait=Interrupted())
    assert get(web, tmp_path / "room.zip").read_bytes() == CONTENT
    assert web.asked[-1] == ("/room.zip", None)


def test_a_connection_that_stays_broken_gives_up_in_one_line_and_keeps_what_came(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    web.breaks_after = 1000
    with pytest.raises(PlacecellError, match="1000 bytes are kept") as caught:
        get(web, tmp_path / "room.zip", tries=2)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "room.zip.part").is_file()
    assert not (tmp_path / "room.zip").exists()


def test_nobody_listening_is_told_in_one_line(web: Web, tmp_path: Path) -> None:
    remote = Remote("http://127.0.0.1:9/room.zip")
    waits = Waits()
    with pytest.raises(PlacecellError, match="connection broke") as caught:
        download(remote, tmp_path / "room.zip", log=Silent(), tries=4, wait=waits)
    assert "\n" not in str(caught.value)
    assert waits.seconds == [2.0, 4.0, 8.0]


def test_not_found_is_told_at_once(web: Web, tmp_path: Path) -> None:
    with pytest.raises(PlacecellError, match=r"gone\.zip: the server answers 404"):
        download(Remote(f"{web.url}/gone.zip"), tmp_path / "gone.zip", log=Silent(), wait=Interrupted())
    assert len(web.asked) == 1
    assert leftovers(tmp_path) == []


def test_a_busy_server_is_asked_again(web: Web, tmp_path: Path) -> None:
    web.refusals = [503, 429, 500]
    assert get(web, tmp_path / "room.zip", tries=4).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_leaves_nothing_behind(web: Web, tmp_path: Path, kind: str) -> None:
    with pytest.raises(PlacecellError, match=f"{kind} is {hashlib.new(kind, CONTENT).hexdigest()}, not 00"):
        get(web, tmp_path / "room.zip", checksum=f"{kind}:00")
    assert leftovers(tmp_path) == []


class Usage(NamedTuple):
    free: int


def test_a_disk_without_room_is_told_before_anything_comes(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10))
    with pytest.raises(PlacecellError, match="make room"):
        get(web, tmp_path / "room.zip", size=1_000_000)
    assert web.asked == []


def test_a_disk_that_fills_up_keeps_the_part(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(reply: object, file: IO[bytes], *rest: object) -> None:
        file.write(CONTENT[:5000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(download_module, "_copy", full)
        with pytest.raises(PlacecellError, match="disk is full") as caught:
            get(web, tmp_path / "room.zip")
    assert "\n" not in str(caught.value)
    assert get(web, tmp_path / "room.zip").read_bytes() == CONTENT
    assert web.asked[-1][1] == "bytes=5000-"


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlacecellError, match="not an http"):
        download(Remote((tmp_path / "x").as_uri()), tmp_path / "y", log=Silent())
