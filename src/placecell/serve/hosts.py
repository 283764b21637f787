"""By which names the service may be asked.

A page of another site can point a name of its own at 127.0.0.1 after it was loaded (DNS rebinding). Browsers then take
the service for a part of that site and let its scripts read the answers; but they send the name along.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from placecell.serve.limits import Problem

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def allowed_hosts(bound: str, given: Iterable[str]) -> frozenset[str] | None:
    """The names by which a service bound to an address may be asked; None for any.

    On this machine alone: its loopback names, and those given. Elsewhere only those given count, with the loopback
    names; where none is given, nobody can tell which names are right.
    """
    named = frozenset(host_of(name) for name in given)
    if is_loopback(bound):
        return _LOOPBACK | named | {bound.lower()}
    return _LOOPBACK | named if named else None


def host_of(header: str) -> str:
    """The name in a Host header, its port left out: `[::1]:8000` is `::1`."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    name = header if header.count(":") > 1 else header.partition(":")[0]
    return name.removesuffix(".")


class KnownHosts:
    """Refuses requests to names that are not those of the service."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and self._hosts is not None:
            host = host_of(Headers(scope=scope).get("host", ""))
            if host not in self._hosts:
                text = f"this service is not known as {host[:100]!r}; start it with --allowed-hosts to name it so"
                problem = Problem(400, "bad-host", text)
                await JSONResponse(problem.shape, problem.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)
