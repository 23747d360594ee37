"""A request that a debugger has stopped: on the terminal by breakpoint(), and from an IDE by debugpy."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.database import free_port
from tests.support.make_run import RUN, TIMEOUT, environment, servers

ROUTE = """
from handler.database.session import SessionDep
from sqlalchemy import text

@router.get("/stopped", dependencies=[requires_scopes()])
async def stopped(session: SessionDep) -> int:
    session.execute(text("SELECT 1"))
    found = 42
    STOP
    return session.execute(text(f"SELECT {found}")).scalar_one()
"""


class Terminal:
    """`make run` on a pseudo-terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int, port: int) -> None:
        self.process = process
        self.descriptor = descriptor
        self.port = port
        self.text = ""

    def wait_for(self, text: str) -> str:
        """Wait for `text`. Returns the output before it since the last call."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.descriptor, 65536).decode()
                except OSError:  # the other end of the terminal is closed
                    assert text in self.text
        before, _, self.text = self.text.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())


@contextmanager
def terminal(folder: Path, **changes: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    port = free_port()
    # In a session with this terminal, so that Ctrl-C reaches every process of the session.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *RUN],
        cwd=folder,
        env=environment(PORT=str(port), TERM="xterm", **changes),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours, port)
    finally:
        if process.poll() is None:
            os.write(ours, b"\x03")
            process.wait(TIMEOUT)
        os.close(ours)
    assert not servers(folder)


@contextmanager
def asking(url: str) -> Iterator[list[httpx.Response]]:
    """Send a request during the block. The yielded list has its response after the block."""
    responses: list[httpx.Response] = []

    def ask() -> None:
        with suppress(httpx.HTTPError):
            responses.append(httpx.get(url, timeout=TIMEOUT))

    thread = threading.Thread(target=ask)
    thread.start()
    yield responses
    thread.join()


def add_route(folder: Path, stop: str) -> Path:
    source = folder / "handler" / "health.py"
    source.write_text(source.read_text() + ROUTE.replace("STOP", stop))
    return source


def shorten_limits(folder: Path) -> None:
    """Set the function's deadline and the limit of idle transactions to one second, so that the test waits only two."""
    for path in (folder / "local" / "events.py", *(folder / "handler" / "migrations" / "versions").glob("*.py")):
        changed = path.read_text().replace("FUNCTION_TIMEOUT = 10.0", "FUNCTION_TIMEOUT = 1.5")
        path.write_text(
            changed.replace(
                '"idle_in_transaction_session_timeout": "15s"', '"idle_in_transaction_session_timeout": "1s"'
            )
        )


def test_breakpoint_stops_the_request_on_the_terminal_and_no_deadline_ends_it(project: Path) -> None:
    shorten_limits(project)
    source = add_route(project, "breakpoint()")
    with terminal(project) as user:
        user.wait_for("Stop with")
        with asking(f"http://127.0.0.1:{user.port}/health/stopped") as responses:
            user.wait_for("(Pdb)")
            time.sleep(2)
            source.write_text(source.read_text().replace("SELECT {found}", "SELECT 1 + {found}"))
            user.wait_for("health.py changed; the service restarts when the request has ended")
            user.type("found\n")
            user.wait_for("42")
            user.wait_for("(Pdb)")
            user.type("found = 43\n")
            user.wait_for("(Pdb)")
            user.type("continue\n")
        assert (responses[0].status_code, responses[0].text) == (200, "43")
        user.wait_for("run: serving again")
        assert httpx.get(f"http://127.0.0.1:{user.port}/health/live", timeout=TIMEOUT).status_code == 200


def test_ctrl_c_at_the_debuggers_prompt_stops_everything_and_restores_the_terminal(used_project: Path) -> None:
    add_route(used_project, "import pdb; pdb.set_trace()")
    with terminal(used_project) as user:
        user.wait_for("Stop with")
        before = termios.tcgetattr(user.descriptor)
        with asking(f"http://127.0.0.1:{user.port}/health/stopped") as responses:
            user.wait_for("(Pdb)")
            user.type("\x03")
            user.wait_for("run: stopped")
            assert user.process.wait(TIMEOUT) == 0
        assert responses == []
        assert termios.tcgetattr(user.descriptor) == before


def message(sequence: int, command: str, **arguments: Any) -> bytes:
    """A request of the Debug Adapter Protocol ("Base protocol")."""
    body = json.dumps({"seq": sequence, "type": "request", "command": command, "arguments": arguments}).encode()
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class Ide:
    """The messages of an IDE to debugpy that a breakpoint needs."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._file = self._socket.makefile("rwb")
        self._sequence = 0

    def send(self, command: str, **arguments: Any) -> None:
        self._sequence += 1
        self._file.write(message(self._sequence, command, **arguments))
        self._file.flush()

    def wait_for(self, name: str) -> dict[str, Any]:
        """Wait for the next event of this name, or the response to this command."""
        while True:
            length = 0
            while line := self._file.readline().strip():
                length = int(line.partition(b":")[2])
            found: dict[str, Any] = json.loads(self._file.read(length))
            if name in (found.get("event"), found.get("command")):
                assert found.get("success", True), found
                return dict(found.get("body") or {})

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_an_ide_attaches_stops_a_request_and_no_deadline_ends_it(project: Path) -> None:
    shorten_limits(project)
    source = add_route(project, "pass")
    line = source.read_text().split("\n").index("    pass") + 1
    debug_port = free_port()
    with terminal(project, DEBUG_PORT=str(debug_port)) as user:
        assert f"127.0.0.1:{debug_port}" in user.wait_for("Stop with")
        ide = Ide(debug_port)
        ide.send("initialize", adapterID="test")
        ide.send("attach", connect={"host": "127.0.0.1", "port": debug_port}, justMyCode=False)
        ide.wait_for("initialized")
        ide.send("setBreakpoints", source={"path": str(source)}, breakpoints=[{"line": line}])
        ide.send("configurationDone")
        ide.wait_for("configurationDone")
        with asking(f"http://127.0.0.1:{user.port}/health/stopped") as responses:
            thread = ide.wait_for("stopped")["threadId"]
            time.sleep(2)
            source.touch()
            user.wait_for("the service restarts when the request has ended")
            ide.send("continue", threadId=thread)
        assert (responses[0].status_code, responses[0].text) == (200, "42")
        ide.close()
        user.wait_for("run: serving again")
        assert httpx.get(f"http://127.0.0.1:{user.port}/health/live", timeout=TIMEOUT).status_code == 200


def test_a_hangup_of_the_terminal_stops_everything(used_project: Path) -> None:
    with terminal(used_project) as user:
        user.wait_for("Stop with")
        for child in servers(used_project):
            if "local.run" in child.cmdline():
                child.send_signal(signal.SIGHUP)
        assert user.process.wait(TIMEOUT) == 0
