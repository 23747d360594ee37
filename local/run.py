"""`make run`: PostgreSQL, migrations, and the service behind a local API Gateway; restarts on a source change."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchfiles import PythonFilter, watch

from local.gateway import SETTINGS_REFUSED
from local.postgres import PostgresError, database_url

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
STOP_TIMEOUT = 10  # seconds
BANNER = """
  Listening on  {url}
  Docs          {url}/docs
  Try           curl -s {url}/items/ --json '{{"name": "Lamp", "description": "A desk lamp"}}'
  Stop with     Ctrl-C
"""


class RunError(Exception):
    """The service cannot start; the message is for whoever typed `make run`."""


def listen(port: str) -> socket.socket:
    """A listening socket on `port`. It outlives every restart of the service: no request is refused meanwhile."""
    if not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise RunError(f"PORT must be a number between 1 and 65535, not {port!r}")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, int(port)))
    except OSError as error:
        raise RunError(f"port {port}: {error.strerror}. Choose another: make run PORT=8001") from error
    listener.listen(128)
    return listener


def migrate(url: str) -> bool:
    """Whether it worked; it says itself what did not."""
    environment = os.environ | {"DATABASE_URL": url}
    return subprocess.call([sys.executable, "-m", "handler.migrate"], cwd=ROOT, env=environment) == 0


@contextmanager
def service(listener: socket.socket, url: str, banner: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The process that serves, as long as the block lasts."""
    environment = os.environ | {"AUTH_MODE": os.environ.get("AUTH_MODE") or "none", "DATABASE_URL": url}
    command = [sys.executable, "-m", "local.gateway", str(listener.fileno()), banner]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, and end it where it does not in STOP_TIMEOUT."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def changes(process: "subprocess.Popen[bytes]") -> set[str]:
    """Wait for source files to change and return their paths; none when the process refused its settings."""
    alive = True
    folders = [ROOT / "handler", ROOT / "local"]
    for changed in watch(*folders, watch_filter=PythonFilter(), rust_timeout=250, yield_on_timeout=True):
        if changed:
            return {path for _, path in changed}
        if alive and process.poll() is not None:
            alive = False
            if process.returncode == SETTINGS_REFUSED:
                return set()
            print("run: the service has stopped; it starts again when a file changes", file=sys.stderr)
    return set()


def run() -> None:
    port = os.environ.get("PORT") or "8000"
    banner = BANNER.format(url=f"http://{HOST}:{port}")
    with listen(port) as listener, database_url() as url:
        if not migrate(url):
            raise RunError("the database could not be migrated")
        while True:
            with service(listener, url, banner) as process:
                changed = changes(process)
            if not changed:
                sys.exit(1)
            print(f"run: {', '.join(sorted(Path(path).name for path in changed))} changed", flush=True)
            if any("migrations" in path for path in changed):
                migrate(url)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def stop_on_signals() -> None:
    """KeyboardInterrupt on Ctrl-C, SIGTERM and SIGHUP alike."""
    # SIGINT too: a shell starts its background jobs with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def main() -> None:
    stop_on_signals()
    try:
        run()
    except (RunError, PostgresError) as error:
        sys.exit(f"run: {error}")
    except KeyboardInterrupt:
        print("run: stopped", flush=True)


if __name__ == "__main__":
    main()
