"""A connection that neither waits for ever nor answers in another shape than the application."""

from __future__ import annotations

import asyncio
import json

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from placecell.serve.limits import Problem

_STRANGE = Problem(400, "bad-http", "this is not HTTP, or damaged")
_CROWDED = Problem(503, "busy", "too many connections; come back in a second")
_SLOW = Problem(408, "slow-upload", "the request did not arrive in time")


class Connection(H11Protocol):
    """HTTP/1.1 by h11. Who sends nothing, drips, or speaks something else is told so and let go.

    The application watches the clock while it reads a body. This watches it while no request is being answered: before
    the head of one is complete, and when a client goes on sending what has been refused. Between requests it is
    uvicorn that closes what is idle.
    """

    patience_s = 10.0
    most = 512
    """Connections at once; one more is told to come back."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self.app = _crowded if len(self.connections) > self.most else self.config.loaded_app
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 does not understand."""
        self._send(_STRANGE)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._overdue is None and not self.transport.is_closing():
            self._overdue = self.loop.call_later(self.patience_s, self._let_go)

    def _forget(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _let_go(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._send(_SLOW)
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()

    def _send(self, problem: Problem) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way or gone
            self.transport.close()
            return
        body = json.dumps(problem.shape).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        events = (h11.Response(status_code=problem.status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": _CROWDED.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(_CROWDED.shape).encode()})
