"""The service under load, for benchmarks/speed.py: one process that serves, asked from another on loopback."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from page import markdown
from rows import PLACECELL, THREADS

from placecell.errors import PlacecellError

CLIENTS = (1, 4, 16, 64)


class Running:
    """`placecell serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        start = time.perf_counter()
        command = [str(PLACECELL), "serve", str(folder), "--port", "0", "--threads", str(THREADS)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout is None:
            raise PlacecellError("the service has no output")
        self.address = self.process.stdout.readline().split("//")[1].split(": ")[0]
        while self.ask("GET", "/ready")[0] != 200:
            time.sleep(0.005)
        self.ready_s = time.perf_counter() - start

    def connection(self) -> http.client.HTTPConnection:
        """A connection that stays."""
        return http.client.HTTPConnection(self.address, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request on its own connection; status 0 where nobody listens yet."""
        try:
            connection = self.connection()
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except OSError:
            return 0, b""

    @property
    def resident_mb(self) -> float:
        """Memory that the process has in use."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.process.terminate()
        self.process.wait(40)


def load(service: Running, content: bytes, clients: int, requests: int) -> dict[str, float]:
    """So many requests by so many clients, each with a connection that stays."""
    spent: list[float] = []
    failed: list[int] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def client() -> None:
        connection = service.connection()
        while True:
            with lock:
                if next(left, None) is None:
                    return
            start = time.perf_counter()
            connection.request("POST", "/v1/localize", content)
            reply = connection.getresponse()
            reply.read()
            taken = time.perf_counter() - start
            with lock:
                spent.append(1e3 * taken)
                if reply.status != 200:
                    failed.append(reply.status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    p50, p99 = np.percentile(spent, (50, 99))
    return {"per_s": requests / seconds, "p50": float(p50), "p99": float(p99), "failed": len(failed)}


def overhead(service: Running, content: bytes, bare: Callable[[], Any]) -> dict[str, float]:
    """What one client waits for beside decoding and placing: of turns of twenty, each way, as cores are not always as
    fast."""
    connection = service.connection()

    def ask() -> None:
        connection.request("POST", "/v1/localize", content)
        connection.getresponse().read()

    def median_ms(call: Callable[[], Any]) -> float:
        spent = []
        for _ in range(20):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
        return 1e3 * float(np.median(spent))

    turns = [(median_ms(bare), median_ms(ask)) for _ in range(12)][1:]
    alone, served = np.median(turns, axis=0)
    return {"alone": float(alone), "served": float(served), "ms": float(np.median([b - a for a, b in turns]))}


def service_figures(folder: Path, content: bytes, bare: Callable[[], Any], requests: int, soak: int) -> dict[str, Any]:
    """The service on loopback, asked by this process with one picture, which `bare` places without it."""
    service = Running(folder)
    try:
        found: dict[str, Any] = {"ready_s": service.ready_s, "resident_mb": [service.resident_mb]}
        for clients in CLIENTS:
            found[f"clients-{clients}"] = load(service, content, clients, requests)
            found["resident_mb"].append(service.resident_mb)
        found["overhead"] = overhead(service, content, bare)
        found["soak"] = {"requests": soak, **load(service, content, 16, soak)}
        found["resident_mb"].append(service.resident_mb)
    finally:
        service.stop()
    return found


def service_lines(found: dict[str, Any]) -> list[str]:
    """What is said of the service."""
    rows = []
    for clients in CLIENTS:
        at = found[f"clients-{clients}"]
        rows.append((clients, f"{at['per_s']:.0f}", f"{at['p50']:.1f}", f"{at['p99']:.1f}", at["failed"]))
    soak, memory, over = found["soak"], found["resident_mb"], found["overhead"]
    return [
        f"The service with `{found['map']}`, asked by a second process:",
        "",
        *markdown(("clients", "requests/s", "p50 ms", "p99 ms", "failed"), rows),
        "",
        f"Ready after {found['ready_s']:.1f} s. At one client {over['served']:.1f} ms, the map by itself "
        f"{over['alone']:.1f}: {over['ms']:.1f} ms more. "
        f"{soak['requests']} requests of 16 clients: {soak['failed']} failed, memory {memory[-2]:.0f} MB before and "
        f"{memory[-1]:.0f} MB after.",
    ]
