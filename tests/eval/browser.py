"""A real browser for tests of pages: headless Chromium, driven through chromedriver's HTTP protocol (W3C WebDriver)."""

import base64
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_LOCAL = build_opener(ProxyHandler({}))  # whatever proxy the environment names


def chromium_paths() -> tuple[str, str] | None:
    """The browser and its driver, or None where one of them is not installed."""
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One browser window; a context manager that ends browser and driver."""

    def __init__(self, profile: Path) -> None:
        paths = chromium_paths()
        assert paths is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            [paths[1], f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._url = f"http://127.0.0.1:{port}/session"
        options = {"binary": paths[0], "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "pageLoadStrategy": "normal",
        }
        try:
            session = self._first({"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._stop()
            raise
        self._url += f"/{session['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._stop()

    def _stop(self) -> None:
        self._driver.terminate()
        self._driver.wait(timeout=20)

    def _first(self, body: dict[str, Any]) -> Any:
        for _ in range(100):
            try:
                return self._call("POST", "", body)
            except URLError as error:
                if isinstance(error, HTTPError) or self._driver.poll() is not None:
                    raise
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not listen")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(
            self._url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with _LOCAL.open(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except HTTPError as error:
            with error:
                message = error.read().decode()
            raise RuntimeError(f"{method} {path}: {message}") from None

    def open(self, page: Path) -> None:
        """Loads a file and waits for its load event."""
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a function returns; a promise is waited for."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Presses keys one after the other, as WebDriver writes them (`\\ue015` is the arrow down)."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]}
        )

    def show_as(self, scheme: str, width: int, height: int) -> None:
        """The colour scheme (light, dark) and the size of the view."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for command, params in (
            ("Emulation.setEmulatedMedia", media),
            ("Emulation.setDeviceMetricsOverride", size),
        ):
            self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self) -> bytes:
        """The view as PNG."""
        return base64.b64decode(self._call("GET", "/screenshot"))

    def complaints(self) -> list[str]:
        """What the console was told since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]
