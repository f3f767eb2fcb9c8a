"""A headless Chromium over the DevTools protocol, for the system tests: opens a file, looks at it, prints it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

PACKAGE = "chromium-headless-shell"
_NAMES = (PACKAGE, "chromium", "chromium-shell", "google-chrome")
_START_SECONDS = 30.0
_ANSWER_SECONDS = 60.0
_COUNT = """async (encoded) => {
  const picture = new Image();
  picture.src = "data:image/png;base64," + encoded;
  await picture.decode();
  const canvas = new OffscreenCanvas(picture.width, picture.height), context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const data = new Uint32Array(context.getImageData(0, 0, picture.width, picture.height).data.buffer), found = {};
  for (const one of data) {  // little endian: ABGR
    const name = "#" + [one, one >> 8, one >> 16].map((part) => (part & 255).toString(16).padStart(2, "0")).join("");
    found[name] = (found[name] || 0) + 1;
  }
  return found;
}"""


class Page:
    """One page of a running browser, in a window of its own."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._count = connection, 0
        self.console: list[str] = []
        """What the browser complained about: errors, violations of the page's policy."""
        self.requested: list[str] = []
        """The addresses that were asked for, `data:` ones left out: the page's own, and any other it wants."""
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> Any:
        """Asks the browser; raises RuntimeError with what it answers when it cannot."""
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, file: Path, width: int, height: int, scheme: str = "light") -> None:
        """Opens `file` in a window of that size; `scheme` is what the reader prefers, light or dark."""
        phone = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.emulate("screen", scheme)
        self.console, self.requested, self._loaded = [], [], False
        self.call("Page.navigate", url=file.as_uri())
        while not self._loaded:
            self._receive()

    def emulate(self, media: str, scheme: str) -> None:
        """What the page believes to be shown on: screen or print, to a reader who prefers light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def value(self, expression: str) -> Any:
        """What the JavaScript `expression` is, seen from within the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def screenshot(self, selector: str = "html") -> bytes:
        """The first element that matches as PNG, whatever its length."""
        return base64.b64decode(self._shot(selector))

    def colours(self, selector: str) -> dict[str, int]:
        """How many pixels of which colour (``#rrggbb``) the first element that matches is painted with."""
        encoded, here = self._shot(selector), self._session
        # Counted in a page of its own: this one's policy lets no script of ours work on pictures.
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        answer = self.call(
            "Runtime.evaluate", expression=f"({_COUNT})('{encoded}')", awaitPromise=True, returnByValue=True
        )
        self.call("Target.closeTarget", targetId=target)
        self._session = here
        counted: dict[str, int] = answer["result"]["value"]
        return counted

    def _shot(self, selector: str) -> str:
        box = self.value(f"JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        place = {name: json.loads(box)[name] for name in ("x", "y", "width", "height")}
        place["y"] += self.value("scrollY")
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip={**place, "scale": 1})
        encoded: str = shot["data"]
        return encoded

    def pdf(self) -> bytes:
        """The page printed on A4, backgrounds included."""
        printed = self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(printed["data"])

    def _receive(self) -> Any:
        message = json.loads(self._connection.recv(timeout=_ANSWER_SECONDS))
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                self.requested += [] if url.startswith("data:") else [url]
            case "Log.entryAdded":
                self.console.append(message["params"]["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.console.append(json.dumps(message["params"]))
        return message


@contextmanager
def browser(directory: Path) -> Iterator[Page]:
    """A page of a browser whose own files are below `directory`; the browser is gone afterwards.

    Without a browser the test is skipped, but fails where CI is set: there it belongs.
    """
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        missing = f"no browser here: apt-get install {PACKAGE} (bin/test does so)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    options = [
        "--headless",
        "--no-sandbox",  # as root it starts no other way; it opens only the page of this test
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--force-color-profile=srgb",
        f"--user-data-dir={directory}",
        "--remote-debugging-port=0",
    ]
    with (directory / "browser.log").open("w") as log:
        command = [program, *options, "about:blank"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        with connect(_address(process, directory), max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the program is a script, and a browser is several processes
        process.wait()


def _address(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Where the browser listens; it writes that down as soon as it does."""
    file, deadline = directory / "DevToolsActivePort", time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise RuntimeError(f"the browser did not start:\n{(directory / 'browser.log').read_text()[-2000:]}")
