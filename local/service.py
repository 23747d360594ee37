"""The process of `make run` that serves: the handler behind the local gateway. `local/run.py` starts it."""

import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from local import console, debugger
from local.events import FUNCTION_TIMEOUT
from local.gateway import Gateway, for_own_hosts, http_server, with_files

ROOT = Path(__file__).parents[1]
DEBUG_TIMEOUT = 86_400.0  # seconds that a request may take, because an IDE may stop it


class Report:
    """Reports changes of this process's state to the supervisor, one line of JSON each."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, state: str, **details: str) -> None:
        with suppress(BrokenPipeError):
            os.write(self._descriptor, json.dumps({"state": state, **details}).encode() + b"\n")


def describe(error: BaseException) -> str:
    """The last line of the traceback, and the last line of the project's code in it."""
    text = traceback.format_exception_only(error)[-1].strip()
    positions = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        positions.append((error.filename, error.lineno))
    own = [(Path(name), line) for name, line in positions if Path(name).is_relative_to(ROOT / "handler")]
    return f"{text} ({own[-1][0].relative_to(ROOT)}, line {own[-1][1]})" if own else text


def _follow_supervisor(lifeline: int, may_serve: threading.Event) -> None:
    """Set `may_serve` when the supervisor writes to this pipe. End when the supervisor has ended for any reason."""
    while os.read(lifeline, 1):
        may_serve.set()
    os._exit(1)


def main() -> None:
    """Serve a listening socket. The arguments are descriptors: the socket, the lifeline and the report."""
    listener, lifeline, report_to = (int(text) for text in sys.argv[1:])
    may_serve = threading.Event()
    threading.Thread(target=_follow_supervisor, args=[lifeline, may_serve], daemon=True).start()
    report = Report(report_to)
    debug_port = os.environ.get("DEBUG_PORT")
    try:
        if debug_port:
            debugger.listen(int(debug_port))
        serve(socket.socket(fileno=listener), report, may_serve, is_debugged=bool(debug_port))
    except Exception as error:  # noqa: BLE001 - what the application raises while it is imported may be anything
        from handler.settings import SettingsError  # noqa: PLC0415 - it may be what cannot be imported

        if isinstance(error, SettingsError):
            print(error, file=sys.stderr)
        else:
            traceback.print_exception(error)
        report("failed", detail=describe(error))
        sys.exit(1)


def serve(listener: socket.socket, report: Report, may_serve: threading.Event, *, is_debugged: bool) -> None:
    """Import the application, and serve it when `may_serve` is set. Raises what the import raises."""
    gateway: Gateway | None = None
    console.show_log_records(lambda: gateway.request_id if gateway else "")

    from handler.adapter.request_log import sinks  # noqa: PLC0415 - what is served is imported when all else stands
    from handler.database.engine import engine  # noqa: PLC0415
    from handler.main import app, handler, settings  # noqa: PLC0415
    from local import authorizer, docs, examples  # noqa: PLC0415

    def debugging() -> None:
        debugger.stop_deadline()
        report("debugging")

    @contextmanager
    def around(_: str) -> Iterator[None]:
        if is_debugged:
            report("debugging")
        try:
            yield
        finally:
            debugger.start_deadline()
            report("serving")

    def show(line: dict[str, Any]) -> None:
        console.show_request(gateway.path if gateway else "", line)

    debugger.keep_idle_transactions(engine)
    debugger.call_when_opened(debugging)
    sinks.append(show)
    gateway = Gateway(
        handler,
        authorizer=authorizer.of_settings(settings, app.openapi()),
        around=around,
        timeout=DEBUG_TIMEOUT if is_debugged else FUNCTION_TIMEOUT,
    )
    port = listener.getsockname()[1]
    server = http_server(for_own_hosts(with_files(gateway, docs.serve_offline(app)), port))
    report("ready", example=examples.curl(app.openapi(), f"http://127.0.0.1:{port}", settings.auth_mode))
    with suppress(KeyboardInterrupt):
        may_serve.wait()
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
