"""placecell serve: what it says before it listens, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from placecell.scene import Scene
from placecell.serve import listening
from placecell.serve.client import Client
from placecell.serve.hosts import KnownHosts

Folder = Callable[[str], Path]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The applications that would be served."""
    found: list[Any] = []
    monkeypatch.setattr(listening, "run", lambda app, socket: found.append(app))
    return found


def test_it_says_where_it_listens_and_how_to_ask(
    served: list[Any], room_map_folder: Folder, room_scene: Scene, placecell: Command
) -> None:
    said = placecell("serve", room_map_folder("structure"), "--scene", room_scene.root, "--port", 0, "--queue", 7)
    assert said.code == 0, said.err
    (app,) = served
    service = app.state.service
    assert service.maps["room.structure"].scene is not None and service.limits.queue == 7 and service.token is None
    address = said.out.split(": ")[0]
    assert address.startswith("http://127.0.0.1:") and int(address.rpartition(":")[2]) > 0
    assert said.following[0] == "curl" and said.following[-1] == f"{address}/v1/localize?map=room.structure"


def test_a_trajectory_is_read_before_it_listens(
    served: list[Any], room_map_folder: Folder, placecell: Command, tmp_path: Path
) -> None:
    walk, folder = tmp_path / "walk.tum", room_map_folder("retrieval")
    walk.write_text("0.1 1 2 3 0 0 0 1\n")
    assert placecell("serve", folder, "--port", 0, "--trajectory", walk).code == 0
    assert served[0].state.service.trajectory.text == walk.read_text()
    walk.write_text("hello\n")
    said = placecell("serve", folder, "--port", 0, "--trajectory", walk)
    assert said.code == 1 and "walk.tum:1" in said.err and len(said.err.splitlines()) == 1


def test_the_token_is_read_from_the_environment(
    served: list[Any], room_map_folder: Folder, placecell: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACECELL_TOKEN", "hush")
    assert placecell("serve", room_map_folder("retrieval"), "--port", 0).code == 0
    assert served[0].state.service.token == "hush"


def test_who_opens_the_door_is_told(served: list[Any], room_map_folder: Folder, placecell: Command) -> None:
    assert "--token" in placecell("serve", room_map_folder("retrieval"), "--host", "0.0.0.0", "--port", 0).err
    open_to_those_who_know = placecell(
        "serve", room_map_folder("retrieval"), "--host", "0.0.0.0", "--port", 0, "--token", "x"
    )
    assert open_to_those_who_know.err == ""


@pytest.mark.parametrize(
    "host, given, expected",
    [
        ("127.0.0.1", (), {"localhost", "127.0.0.1", "::1"}),
        ("127.0.0.1", ("robot.local", "b"), {"localhost", "127.0.0.1", "::1", "robot.local", "b"}),
        ("0.0.0.0", (), None),
        ("0.0.0.0", ("robot.local",), {"localhost", "127.0.0.1", "::1", "robot.local"}),
    ],
)
def test_by_which_names_it_is_asked(
    host: str,
    given: tuple[str, ...],
    expected: set[str] | None,
    served: list[Any],
    room_map_folder: Folder,
    placecell: Command,
) -> None:
    flags = ("--allowed-hosts", *given) if given else ()
    said = placecell("serve", room_map_folder("retrieval"), "--host", host, "--port", 0, "--token", "x", *flags)
    assert said.code == 0, said.err
    (known,) = [kept for kept in served[0].user_middleware if kept.cls is KnownHosts]
    assert known.kwargs["hosts"] == expected


@pytest.mark.parametrize(
    "words, told",
    [
        (("{tmp}",), "not a map"),
        (("{map}", "{map}"), "another map"),
        (("{map}", "--port", "70000"), "--port"),
        (("{map}", "--queue", "0"), "--queue"),
        (("{map}", "--host", "nowhere.invalid"), "--host"),
        (("{map}", "--scene", "{tmp}"), "not a scene"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    words: tuple[str, ...], told: str, served: list[Any], room_map_folder: Folder, placecell: Command, tmp_path: Path
) -> None:
    given = [word.format(tmp=tmp_path, map=room_map_folder("retrieval")) for word in words]
    said = placecell("serve", *given, *(() if "--port" in given else ("--port", 0)))
    assert said.code == 1 and told in said.err and len(said.err.splitlines()) == 1 and not served


def test_without_the_extra_the_extra_is_named(room_map_folder: Folder) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from placecell.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", str(room_map_folder("retrieval"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "pip install 'placecell[serve]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_process_serves_and_ends_when_told(room_map_folder: Folder) -> None:
    code = "import sys; from placecell.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", str(room_map_folder("retrieval")), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split(": ")[0]
        client = Client(address, timeout_s=60)
        assert client.maps()[0]["family"] == "retrieval"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
