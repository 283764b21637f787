"""The socket and the server: begins to listen, and stops when what was accepted is answered."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from placecell.errors import PlacecellError
from placecell.serve.connection import Connection

_MOST_CONNECTIONS = 512
_IDLE_S = 15
_FAREWELL_S = 25
"""How long accepted requests have to be answered after the service was told to stop."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 takes a free one.

    Raises:
        PlacecellError: the address is taken, or not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # An answer leaves in two pieces. Held back until the first is acknowledged, the second comes 40 ms later;
        # asyncio prevents that for sockets of its own making alone.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise PlacecellError(f"{host}: no address to listen at ({error.strerror}); choose another --host") from error
    try:
        found.bind(address)
        found.listen(_MOST_CONNECTIONS)
    except OSError as error:
        found.close()
        raise PlacecellError(
            f"{host}:{port} cannot be listened at ({error.strerror}); choose another --port"
        ) from error
    try:
        yield found
    finally:
        found.close()


def server_of(app: FastAPI) -> uvicorn.Server:
    """The server of an application."""

    class Patient(Connection):
        patience_s = app.state.service.limits.upload_s
        most = _MOST_CONNECTIONS

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each damaged form
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Patient,
            ws="none",
            log_level="error",  # what clients do wrong is told to them
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_FAREWELL_S,
        )
    )


def run(app: FastAPI, found: socket.socket) -> None:
    """Serve until told to stop by a signal; what was accepted is answered first."""
    sys.stdout.flush()
    server_of(app).run(sockets=[found])
