"""A web server on 127.0.0.1 that misbehaves as told, for the tests of download and fetch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What the server holds, how it behaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    minds_if_range: bool = True
    etags: bool = True
    breaks_after: int | None = None
    """Bytes of a body after which the connection breaks off."""
    breaks: int = 10**9
    """How many times it does so."""
    refusals: list[int] = field(default_factory=list)
    """Status codes of the next replies."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of every request."""
    url: str = ""

    def etag(self, content: bytes) -> str:
        return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def web_server() -> Iterator[Web]:
    """A running server."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked_range = self.headers.get("Range")
            web.asked.append((self.path, asked_range))
            content = web.files.get(self.path)
            if web.refusals or content is None:
                self.send_error(web.refusals.pop(0) if web.refusals else 404)
                return
            start = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range and web.ranges else 0
            if web.minds_if_range and self.headers.get("If-Range") != web.etag(content):
                start = 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if web.etags:
                self.send_header("ETag", web.etag(content))
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            body = content[start:]
            if web.breaks_after is not None and web.breaks > 0 and len(body) > web.breaks_after:
                web.breaks -= 1
                self.wfile.write(body[: web.breaks_after])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
