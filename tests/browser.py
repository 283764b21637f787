"""A headless Chromium, told what to do through a pipe (Chrome DevTools Protocol), for the tests of pages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Page:
    """A page in the browser."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._count = read, write, b"", 0
        self._session: str | None = None
        self.said: list[str] = []
        """What the page wrote to the console, or threw."""
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.tell(f"{domain}.enable")
        self.asked: list[str] = []
        """Addresses that the page asked for."""

    def tell(self, method: str, **told: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": told}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._count:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser has gone")
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        kind, told = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.said.append(json.dumps(told["exceptionDetails"].get("exception", {}).get("description")))
        elif kind == "Log.entryAdded":
            self.said.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif kind == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def value(self, script: str) -> Any:
        """What a script comes to."""
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:400])
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> None:
        """Until a script is true."""
        until = time.monotonic() + seconds
        while not self.value(f"!!({script})"):
            if time.monotonic() > until:
                raise TimeoutError(f"{script} did not come true; the page said {self.said}")
            time.sleep(0.05)

    def give(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = self.tell("DOM.getDocument")["root"]["nodeId"]
        node = self.tell("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.tell("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def press(self, key: str) -> None:
        """A key of the keyboard."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        name = "Space" if key == " " else key
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=name, windowsVirtualKeyCode=codes.get(key, 0))

    def click(self, selector: str, along: float = 0.5) -> None:
        """The mouse on an element, at a part of its width."""
        self.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + along * box["width"], "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the window."""
        told = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.tell("Emulation.setDeviceMetricsOverride", **told)
        self.tell("Emulation.setTouchEmulationEnabled", enabled=phone)

    def picture(self, path: Path) -> None:
        """What is to be seen, as a PNG file."""
        found = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with a profile of its own and one page."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def pipes() -> None:
        # Through numbers that are free for sure, as one of the four may be 3 or 4 already.
        os.dup2(to_read, 100)
        os.dup2(from_write, 101)
        os.dup2(100, 3)
        os.dup2(101, 4)

    command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for pipe in (to_read, from_write):
        os.close(pipe)
    try:
        yield Page(from_read, to_write)
    finally:
        process.terminate()
        process.wait(30)
        for pipe in (to_write, from_read):
            os.close(pipe)
