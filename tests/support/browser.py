"""A headless Chromium of the system, driven by the Chrome DevTools Protocol over two pipes."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TIMEOUT = 60  # seconds
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",  # reads from descriptor 3 and writes to 4: each message is JSON and ends with NUL
    "--no-first-run",
    "--no-sandbox",  # Chromium refuses to run as root with its sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1200,1600",
    # No host but this machine has an address.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


class Page:
    """One page of the browser. `problems` are the errors in its console."""

    def __init__(self, to_browser: IO[bytes], from_browser: IO[bytes]) -> None:
        self._to, self._from = to_browser, from_browser
        self._number = 0
        self._session: dict[str, str] = {}
        self._unread = b""
        self.problems: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        assert "errorText" not in self._call("Page.navigate", url=url)

    def wait_for(self, expression: str) -> Any:
        """The value of a JavaScript expression, as soon as it is true."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            result = self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]
            if value := result.get("value"):
                return value
            assert time.monotonic() < deadline, (expression, result, self.problems)
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && ({found}.click(), true)")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            if found.get("method") == "Runtime.exceptionThrown":
                self.problems.append(str(found["params"]["exceptionDetails"]))
            if found.get("method") == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
                self.problems.append(str(found["params"]["entry"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            chunk = os.read(self._from.fileno(), 1 << 20)
            assert chunk, "the browser has ended"
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browser(program: Path, profile: Path) -> Iterator[Page]:
    """A page of a new browser, whose profile is in the folder `profile`."""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    # The shell gives the pipes the numbers that Chromium expects.
    script = f'exec "$@" 3</dev/fd/{their_input} 4>/dev/fd/{their_output}'
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(program), *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=[their_input, their_output],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_input)
    os.close(their_output)
    try:
        with os.fdopen(our_output, "wb") as to_browser, os.fdopen(our_input, "rb", buffering=0) as from_browser:
            yield Page(to_browser, from_browser)
    finally:
        process.terminate()
        process.wait(TIMEOUT)
