"""placecell serve MAP..."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from placecell.cli.terminal import Terminal, finish, parse
from placecell.errors import PlacecellError, naming_extras


def main(words: Sequence[str]) -> None:
    """Answer over HTTP."""
    parse("serve", serve, words)


def serve(
    map: Annotated[Path, tyro.conf.Positional],
    others: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    scene: tuple[Path, ...] = (),
    trajectory: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allowed_hosts: tuple[str, ...] = (),
    threads: int = 2,
    picture_bytes: int = 20_000_000,
    pixels: int = 50_000_000,
    answer_s: float = 20.0,
    queue: int = 64,
) -> None:
    """Answer over HTTP where pictures were taken, and show it on a page.

    Args:
        map: Map folder, exported or not; it is known by the name of the folder.
        others: Further map folders.
        scene: Scene folders that the maps were built from, for the page: points, path, nearest training picture.
        trajectory: What the page plays from the start: a file of placecell track (.tum, .jsonl) or predictions.jsonl.
        host: Address to listen at; other machines reach 0.0.0.0.
        port: Port to listen at.
        token: What clients have to send as `Authorization: Bearer TOKEN`; else $PLACECELL_TOKEN, else nothing.
        allowed_hosts: Names by which it may be asked (the Host header); at 127.0.0.1 the names of this machine's own
            loopback are known already, elsewhere any name is taken where none is given.
        threads: Processor threads.
        picture_bytes: Bytes of a picture that are taken.
        pixels: Pixels of a picture that are decoded.
        answer_s: How long an answer may take, its wait with it.
        queue: Requests that may wait.
    """
    import cv2

    if threads < 1 or not 0 <= port < 65536:
        raise PlacecellError("--threads counts from 1, --port from 0 to 65535")
    with naming_extras():
        from placecell.serve.app import make_app
        from placecell.serve.hosts import allowed_hosts as hosts_of
        from placecell.serve.hosts import is_loopback
        from placecell.serve.limits import Limits
        from placecell.serve.listening import listening, run
        from placecell.serve.served import read_maps
        from placecell.serve.trajectory import Trajectory
    cv2.setNumThreads(threads)
    log = Terminal()
    limits = Limits(picture_bytes=picture_bytes, pixels=pixels, answer_s=answer_s, queue=queue)
    secret = token or os.environ.get("PLACECELL_TOKEN") or None
    with listening(host, port) as socket:
        played = None if trajectory is None else Trajectory.read(trajectory)
        found = read_maps((map, *others), scene)
        if not is_loopback(host) and secret is None:
            log.warn(f"anybody who reaches {host} can ask this service; pass --token to choose who")
        address = f"http://{host}:{socket.getsockname()[1]}"
        asked = f"{address}/v1/localize?map={next(iter(found))}"
        finish(f"{address}: {', '.join(found)}; stop with Ctrl-C", ["curl", "--data-binary", "@photo.jpg", asked])
        hosts = hosts_of(host, allowed_hosts)
        run(make_app(found, limits=limits, token=secret, hosts=hosts, trajectory=played), socket)
