"""Clients that misbehave on a real connection: slow, lying, many, strange; and the end of the service among them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree, rmtree
from urllib.parse import urlsplit

import pytest

from placecell.serve.client import Client, ServiceError
from placecell.serve.connection import Connection
from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import jpeg, running

PATIENCE = Limits(upload_s=0.5)


def call(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), 20)


def heard(line: socket.socket) -> bytes:
    """Everything until the service hangs up."""
    found = b""
    while True:
        try:
            chunk = line.recv(65536)
        except ConnectionResetError:
            return found
        if not chunk:
            return found
        found += chunk


def answered(line: socket.socket) -> bytes:
    """The next reply, on a connection that may stay."""
    reply = http.client.HTTPResponse(line)
    reply.begin()
    return f"HTTP/1.1 {reply.status}\r\n{reply.headers}".encode().rstrip() + b"\r\n\r\n" + reply.read()


def told(reply: bytes) -> tuple[int, str]:
    """Status and kind of a problem."""
    head, _, body = reply.partition(b"\r\n\r\n")
    found = json.loads(body)
    assert list(found) == ["error"] and b"application/json" in head.lower()
    return int(head.split()[1]), found["error"]["kind"]


HEAD = b"POST /v1/localize HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def impatient(echoing: dict[str, Served]) -> Iterator[str]:
    with running(echoing, limits=PATIENCE) as (url, _):
        yield url


class TestSlow:
    def test_who_says_nothing_is_let_go(self, impatient: str) -> None:
        began = time.monotonic()
        with call(impatient) as line:
            assert told(heard(line)) == (408, "slow-upload")
        assert time.monotonic() - began < 5

    def test_who_drips_a_head_is_let_go(self, impatient: str) -> None:
        with call(impatient) as line:
            began = time.monotonic()
            with pytest.raises(OSError):
                while time.monotonic() - began < 10:
                    line.sendall(b"GET /health HTTP/1.1\r\nX: "[:1] if time.monotonic() - began < 0.1 else b"x")
                    time.sleep(0.05)
        assert time.monotonic() - began < 5

    def test_who_drips_a_body_is_told_and_let_go(self, impatient: str) -> None:
        with call(impatient) as line:
            began = time.monotonic()
            line.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
            with pytest.raises(OSError):
                while time.monotonic() - began < 10:
                    line.sendall(b"\xff")
                    time.sleep(0.05)
        assert time.monotonic() - began < 5
        with call(impatient) as line:
            line.sendall(HEAD + b"Content-Length: 100000\r\n\r\nabc")
            assert told(answered(line)) == (408, "slow-upload")

    def test_who_goes_on_after_a_refusal_is_let_go(self, impatient: str) -> None:
        with call(impatient) as line:
            began = time.monotonic()
            line.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n")
            assert told(answered(line)) == (413, "too-many-bytes")
            with pytest.raises(OSError):
                while time.monotonic() - began < 10:
                    line.sendall(b"\xff")
                    time.sleep(0.05)
        assert time.monotonic() - began < 5

    def test_others_are_answered_meanwhile(self, impatient: str) -> None:
        with ExitStack() as lines:
            for index in range(60):
                line = lines.enter_context(call(impatient))
                line.sendall(HEAD[:10] if index % 2 else HEAD + b"Content-Length: 1000\r\n\r\nx")
            for _ in range(5):
                assert Client(impatient).localize(jpeg(64, 48)).world_from_cam is not None

    def test_a_connection_between_requests_is_kept(self, impatient: str) -> None:
        with call(impatient) as line:
            for _ in range(3):
                line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b'{"status":"ok"}' in answered(line)
                time.sleep(0.7)  # longer than it would wait for a head that has begun


class TestLies:
    def test_a_body_that_ends_early_is_dropped(self, impatient: str) -> None:
        with call(impatient) as line:
            line.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + b"x" * 100)
            line.shutdown(socket.SHUT_WR)
            heard(line)
        assert Client(impatient).ready()

    def test_a_body_that_goes_on_is_no_second_request(self, impatient: str) -> None:
        content = jpeg(64, 48)
        with call(impatient) as line:
            line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content + b"\xff\xfe rest\r\n\r\n")
            reply = heard(line)
        assert reply.startswith(b"HTTP/1.1 200") and b'"bad-http"' in reply

    @pytest.mark.parametrize(
        "lines",
        [
            b"Content-Length: -5\r\n",
            b"Content-Length: 5, 6\r\n",
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: \xc2\xb2\r\n",
            b"Transfer-Encoding: gzip\r\n",
            b"X: " + b"y" * 200_000 + b"\r\n",
            b"no colon\r\n",
        ],
    )
    def test_heads_that_cannot_be_are_told_in_the_one_shape(self, lines: bytes, impatient: str) -> None:
        with call(impatient) as line:
            line.sendall(HEAD + lines + b"\r\n")
            reply = heard(line)
        if reply:  # the connection may be reset while the rest of a long head is on its way
            assert told(reply)[0] in (400, 501)
        assert Client(impatient).ready()

    def test_chunks_are_counted_too(self, echoing: dict[str, Served]) -> None:
        with running(echoing, limits=Limits(picture_bytes=5_000, upload_s=0.5)) as (url, _), call(url) as line:
            line.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                line.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            assert told(answered(line)) == (413, "too-many-bytes")
            assert Client(url).ready()

    @pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 100, b"SSH-2.0-x\r\n\r\n"])
    def test_other_protocols_are_told_so(self, noise: bytes, impatient: str) -> None:
        with call(impatient) as line:
            line.sendall(noise)
            assert told(heard(line))[0] in (400, 408)


class TestCrowds:
    def test_too_many_connections_are_told_to_come_back(
        self, echoing: dict[str, Served], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("placecell.serve.listening._MOST_CONNECTIONS", 5)
        with running(echoing, limits=Limits(upload_s=5)) as (url, server):
            assert issubclass(server.config.http_protocol_class, Connection)  # type: ignore[arg-type]
            with ExitStack() as lines:
                for _ in range(5):
                    lines.enter_context(call(url)).sendall(b"GET")
                time.sleep(0.2)
                with pytest.raises(ServiceError, match="busy") as caught:
                    Client(url).maps()
                assert caught.value.status == 503
            until = time.monotonic() + 10
            while not Client(url).ready() and time.monotonic() < until:
                time.sleep(0.05)
            assert Client(url).ready()

    @pytest.mark.slow
    def test_ten_thousand_tiny_requests(self, echoing: dict[str, Served]) -> None:
        """All answered as they should be, none with a 500, and memory does not grow with their number."""
        asks = [
            ("GET", "/health", None, 200),
            ("POST", "/v1/localize", b"", 400),
            ("POST", "/v1/localize", b"x", 422),
            ("POST", "/v1/localize", jpeg(16, 16), 200),
            ("POST", "/v1/localize?map=nowhere", b"x", 404),
            ("GET", "/v1/localize", None, 405),
            ("POST", "/v1/localize?focal_px=-1", jpeg(64, 48), 422),
            ("POST", "/v1/localize", jpeg(64, 48), 200),
        ]

        def many(url: str, times: int) -> int:
            parts = urlsplit(url)
            line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            for index in range(times):
                method, path, body, status = asks[index % len(asks)]
                line.request(method, path, body)
                reply = line.getresponse()
                reply.read()
                assert reply.status == status, (method, path, reply.status)
                if index % 40 == 39:  # some come on connections of their own
                    line.close()
            line.close()
            return times

        def resident_mb() -> float:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

        with running(echoing) as (url, _), ThreadPoolExecutor(8) as pool:
            sum(pool.map(lambda _: many(url, 250), range(8)))
            before = resident_mb()
            assert sum(pool.map(lambda _: many(url, 1250), range(8))) == 10_000
            assert resident_mb() - before < 20


@pytest.mark.slow
class TestProcess:
    @pytest.fixture
    def process(self, room_map_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[tuple[Path, str, int]]:
        """A service of its own process: the folder of its map, its address, its number."""
        folder = Path(copytree(room_map_folder("retrieval"), tmp_path / "a.map"))
        code = "import sys; from placecell.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "serve", str(folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout is not None
                url = child.stdout.readline().split(": ")[0]
                until = time.monotonic() + 60
                while not Client(url).ready() and time.monotonic() < until:
                    time.sleep(0.05)
                yield folder, url, child.pid
            finally:
                child.kill()

    def test_accepted_requests_are_answered_when_it_is_told_to_stop(
        self, process: tuple[Path, str, int], room_map_folder: Callable[[str], Path]
    ) -> None:
        """Under load: every request is answered, told that the service closes, or met no service at all."""
        _, url, pid = process
        content = jpeg(480, 360)
        parts = urlsplit(url)
        lines = [http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60) for _ in range(20)]
        for line in lines:
            line.request("POST", "/v1/localize", content)
        time.sleep(0.1)
        os.kill(pid, signal.SIGTERM)
        assert [line.getresponse().status for line in lines] == [200] * 20
        time.sleep(1.0)
        assert not Client(url, timeout_s=2).ready()

    def test_a_map_folder_replaced_or_gone_changes_nothing(self, process: tuple[Path, str, int]) -> None:
        folder, url, _ = process
        content, client = jpeg(480, 360), Client(url)
        before, told = client.localize(content), client.maps()
        for path in folder.iterdir():
            path.write_bytes(b"something else")
        assert client.localize(content).reason == before.reason and client.maps() == told
        rmtree(folder)
        after = client.localize(content)
        assert (after.reason, after.world_from_cam is None) == (before.reason, before.world_from_cam is None)
        assert client.maps() == told


def test_an_answer_on_a_kept_connection_comes_at_once(impatient: str) -> None:
    """Two pieces of which the second waits for the acknowledgement of the first would take 40 ms."""
    parts = urlsplit(impatient)
    line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    spent = []
    for _ in range(15):
        start = time.perf_counter()
        line.request("GET", "/health")
        line.getresponse().read()
        spent.append(time.perf_counter() - start)
    assert sorted(spent)[3] < 0.02  # of the quickest, as the machine may be busy
