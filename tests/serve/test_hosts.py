"""A page of another site that gives its own name to this machine is not answered."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from placecell.serve.hosts import allowed_hosts, host_of, is_loopback
from placecell.serve.served import Served
from serve.conftest import asked, problem, running


@pytest.mark.parametrize(
    "header, host",
    [
        ("localhost:8000", "localhost"),
        ("LocalHost", "localhost"),
        ("localhost.:80", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("127.0.0.1.evil.example:8000", "127.0.0.1.evil.example"),
        ("evil.example:80@localhost", "evil.example"),
        ("", ""),
    ],
)
def test_the_name_is_read_without_its_port(header: str, host: str) -> None:
    assert host_of(header) == host


def test_which_names_are_allowed() -> None:
    assert allowed_hosts("127.0.0.1", ()) == {"localhost", "127.0.0.1", "::1"}
    assert allowed_hosts("::1", ["robot.local"]) == {"localhost", "127.0.0.1", "::1", "robot.local"}
    assert allowed_hosts("0.0.0.0", ()) is None  # nobody can tell which names are right
    assert allowed_hosts("0.0.0.0", ["Robot.local:8000"]) == {"localhost", "127.0.0.1", "::1", "robot.local"}
    assert is_loopback("127.9.9.9") and is_loopback("LOCALHOST") and not is_loopback("0.0.0.0")


PATHS = ("/", "/health", "/v1/maps", "/metrics", "/openapi.json", "/assets/serve.js", "/nowhere")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "192.168.0.7", ""])
def test_a_strange_name_is_refused_everywhere(host: str, echoing: dict[str, Served]) -> None:
    hosts = allowed_hosts("127.0.0.1", ())
    for path in PATHS:
        reply = asked(echoing, lambda web, path=path: web.get(path, headers={"Host": host}), hosts=hosts)
        assert problem(reply) == (400, "bad-host")
    sent = asked(echoing, lambda web: web.post("/v1/localize", content=b"x", headers={"Host": host}), hosts=hosts)
    assert problem(sent) == (400, "bad-host") and "--allowed-hosts" in sent.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "robot.local"])
def test_its_own_names_are_answered(host: str, echoing: dict[str, Served]) -> None:
    hosts = allowed_hosts("127.0.0.1", ["robot.local"])
    reply = asked(echoing, lambda web: web.get("/health", headers={"Host": host}), hosts=hosts)
    assert reply.json() == {"status": "ok"}


def test_over_a_real_connection(echoing: dict[str, Served]) -> None:
    with running(echoing, hosts=allowed_hosts("127.0.0.1", ())) as (url, _):
        port = urlsplit(url).port
        for head, status in ((f"Host: evil.example:{port}", b"400"), (f"Host: localhost:{port}", b"200")):
            with socket.create_connection(("127.0.0.1", port or 0), 5) as line:
                line.sendall(f"GET /v1/maps HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n".encode())
                assert line.recv(100).split()[1] == status
