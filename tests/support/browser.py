"""A headless Chromium, spoken to through a pipe: open a page, ask it, look at it."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 90.0  # seconds for one answer on a busy machine


def binary() -> str | None:
    """The first Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Browser:
    """One tab.

    Attributes:
        requested: addresses the tab asked for since it was opened.
        complaints: errors, warnings and dialogs since it was opened.
    """

    read: int
    write: int
    session: str = ""
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _last: int = 0
    _buffer: bytes = b""

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its result."""
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (reply := self._message()).get("id") != self._last:
            self._note(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return dict(reply["result"])

    def open(self, page: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Load a file in a window of this size and wait until its charts are drawn."""
        self.requested.clear()
        self.complaints.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.prefer("dark" if dark else "light")
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete'")
        self.wait("'ready' in document.documentElement.dataset || document.documentElement.dataset.errors !== '[]'")

    def prefer(self, scheme: str) -> None:
        """Set prefers-color-scheme."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(f"{expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    def wait(self, expression: str, patience: float = 20.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + patience
        while not self.ask(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {patience:g} s: {expression}; {self.complaints}")
            time.sleep(0.05)

    def _note(self, message: Mapping[str, Any]) -> None:
        """Keep what a page should not do."""
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.complaints.append(str(params["args"]))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {params['message']}")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self.read], [], [], PATIENCE)[0]:
                raise TimeoutError(f"the browser has been silent for {PATIENCE:g} s")
            arrived = os.read(self.read, 1 << 16)
            if not arrived:
                raise RuntimeError("the browser has gone")
            self._buffer += arrived
        line, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(line))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a fresh profile and one empty tab; end it afterwards."""
    to_child, from_us = os.pipe()
    to_us, from_child = os.pipe()
    command = [str(binary()), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    # the protocol fixes the descriptors: the browser reads 3 and writes 4
    script = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
    with subprocess.Popen(
        ["bash", "-c", script, *command],
        pass_fds=(to_child, from_child),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(to_child)
        os.close(from_child)
        tab = Browser(to_us, from_us)
        try:
            target = tab.call("Target.createTarget", url="about:blank")["targetId"]
            tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            yield tab
        finally:
            process.terminate()
            os.close(to_us)
            os.close(from_us)
