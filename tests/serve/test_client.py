"""The client, against a real server on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from placecell.errors import PlacecellError
from placecell.serve.client import Client, ServiceError
from placecell.serve.listening import listening
from placecell.serve.served import Served
from serve.conftest import Echo, jpeg, running


@pytest.fixture
def url(echoing: dict[str, Served]) -> Iterator[str]:
    with running(echoing, token="secret") as (found, _):
        yield found


def test_it_brings_answers_as_estimates(url: str, tmp_path: Path) -> None:
    client = Client(url, "secret")
    (tmp_path / "a b.jpg").write_bytes(jpeg())
    found = client.localize(tmp_path / "a b.jpg", map="echo", focal_px=321.0)
    assert found.name == "a b.jpg" and found.world_from_cam is not None and found.covariance is not None
    assert found.world_from_cam.translation[0] == 321.0
    assert client.localize(jpeg(16, 16)).reason
    assert [told["name"] for told in client.maps()] == ["echo"]
    with pytest.raises(ServiceError, match="bad-picture") as caught:
        client.localize(b"nothing")
    assert caught.value.status == 422
    with pytest.raises(ServiceError, match="no-token"):
        Client(url).maps()


def test_what_was_accepted_is_answered_when_it_is_told_to_stop(echoing: dict[str, Served], echo: Echo) -> None:
    with running(echoing) as (url, server):
        client, gate = Client(url), threading.Event()
        echo.before = lambda: (gate.wait(30) and None) or None
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(client.localize, jpeg(64, 48)) for _ in range(6)]
            until = time.monotonic() + 20
            while len(server.server_state.tasks) < 6 and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.2)
            server.should_exit = True
            time.sleep(0.3)  # it closes, and would have dropped them by now
            gate.set()
            assert [one.result(30).world_from_cam is not None for one in asked] == [True] * 6


def test_a_service_that_is_not_there_is_said_in_one_line() -> None:
    with listening("127.0.0.1", 0) as socket:
        port = socket.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", timeout_s=2)
    assert not client.ready()
    with pytest.raises(PlacecellError, match="is it running") as caught:
        client.maps()
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with listening("127.0.0.1", 0) as socket, pytest.raises(PlacecellError, match="--port"):  # noqa: SIM117
        with listening("127.0.0.1", socket.getsockname()[1]):
            pass
