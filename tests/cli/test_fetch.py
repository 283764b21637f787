"""placecell fetch: from a server to a folder whose next command works."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conftest import Command
from placecell.scene import Scene
from web import Web, web_server

LABEL = b"seq-01/frame-000000.color.png 1 0 0 0 0 0 0 525\n"


def zipped(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def web() -> Iterator[Web]:
    sequences = {
        f"seq-0{number}.zip": zipped(
            {
                f"seq-0{number}/frame-000000.color.png": b"a picture",
                f"seq-0{number}/frame-000000.pose.txt": b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
            }
        )
        for number in (1, 2)
    }
    splits = {"TrainSplit.txt": b"sequence1\r\n", "TestSplit.txt": b"sequence2\r\n"}
    chess = zipped({f"chess/{name}": content for name, content in {**sequences, **splits}.items()})
    apartment = zipped(
        {f"apt1/{room}/{name}": b"" for room in ("kitchen", "living") for name in ("info.txt", "split.txt")}
    )
    with web_server() as running:
        running.files = {"/7scenes/chess.zip": chess, "/12scenes/apt1.zip": apartment}
        for split in ("train", "test"):
            running.files[f"/7scenes/chess_{split}.txt"] = LABEL
            for room in ("kitchen", "living"):
                running.files[f"/12scenes/apt1_{room}_{split}.txt"] = LABEL
        yield running


def test_the_next_command_works_when_pasted(
    web: Web, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene").mkdir()
    said = placecell("fetch", "7scenes", "my data", "--scenes", "chess", "--accept-licence", "--mirror", web.url)
    assert said.code == 0 and said.out.startswith("my data/chess: fetched\n")
    assert "licence:" in said.err and "non-commercial" in said.err
    assert said.following == ["placecell", "scene", "my data/chess", "scene-2"]
    assert placecell(*said.following[1:]).code == 0
    assert [frame.split for frame in Scene.load(tmp_path / "scene-2").frames] == ["train", "test"]


def test_the_next_command_names_a_room_where_several_came_together(
    web: Web, placecell: Command, tmp_path: Path
) -> None:
    said = placecell("fetch", "12scenes", tmp_path, "--scenes", "apt1", "--accept-licence", "--mirror", web.url)
    assert said.code == 0 and said.following[:3] == ["placecell", "scene", str(tmp_path / "apt1" / "kitchen")]


class TestLicence:
    words = ("fetch", "7scenes")

    def test_is_not_accepted_by_silence(self, web: Web, placecell: Command, tmp_path: Path) -> None:
        said = placecell(*self.words, tmp_path / "data", "--scenes", "chess", "--mirror", web.url)
        assert (said.code, said.out) == (1, "")
        assert "licence:" in said.err
        assert "placecell fetch: 7scenes: nothing was downloaded; read https://" in said.err
        assert web.asked == [] and not (tmp_path / "data").exists()

    @pytest.mark.parametrize("answer, code", [("y", 0), ("Yes", 0), ("", 1), ("n", 1)])
    def test_is_asked_for_on_a_terminal(
        self, answer: str, code: int, web: Web, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
        monkeypatch.setattr("builtins.input", lambda question: (asked.append(question), answer)[1])  # type: ignore[func-returns-value]
        said = placecell(*self.words, tmp_path / "data", "--scenes", "chess", "--mirror", web.url)
        assert said.code == code and len(asked) == 1 and asked[0].endswith("[y/N] ")
        assert (tmp_path / "data" / "chess").exists() == (code == 0)


@pytest.mark.parametrize(
    "words, why",
    [
        (("9scenes",), "no data set is called '9scenes'; known are 7scenes, 12scenes, cambridge"),
        (("7scenes", "--scenes", "kitchen"), "7scenes has no scene 'kitchen'; known are chess"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    words: tuple[str, ...], why: str, placecell: Command, tmp_path: Path
) -> None:
    said = placecell("fetch", words[0], tmp_path / "data", *words[1:])
    assert (said.code, said.out) == (1, "") and why in said.err and said.err.count("\n") == 1
