"""The service under the soak: environments with the real handler behind one network, in front of one PostgreSQL.

`Service.request` checks the result of each request: outside a fault and its documented cost, every response is correct.
"""

import json
import os
import queue
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from local.events import Context, HttpResponse, http_event, http_response
from tests.support.environments import MAX_CONNECTIONS, address_of, connect, is_unavailable, postgres, process, role_url
from tests.support.proxy import Proxy

ENVIRONMENTS = 8  # the number of environments and of clients
TIMEOUT = 5.0  # seconds of the function: shorter than the template's, for more faults in the time
SWALLOWED = 15.0 + TIMEOUT  # seconds: idle_in_transaction_session_timeout of the database, and a request's own
ENOUGH = 20  # violations after which the soak stops
JSON = ("content-type", "application/json")


def run_environment(connection: Connection, url: str, log: str) -> None:
    """Handle events in another process, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none"}
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), sys.stderr.fileno())
    handler = import_module("handler.main").handler
    connection.send(os.getpid())
    with suppress(EOFError):
        while True:
            event = connection.recv()
            connection.send(http_response(handler(event, Context(TIMEOUT))))


def run_network(connection: Connection, upstream: tuple[str, int]) -> None:
    """Run a proxy that executes commands, in a separate process with its own GIL, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Proxy(upstream) as proxy, suppress(EOFError):
        connection.send(proxy.port)
        while True:
            name, *arguments = connection.recv()
            if name == "latency":
                (proxy.latency,) = arguments
            else:
                getattr(proxy, name)(*arguments)
            connection.send("done")


class Environment:
    """A process with the handler. It is started again after it was killed, as on Lambda."""

    def __init__(self, number: int, url: str, log: str) -> None:
        self.number = number
        self._start = partial(process, run_environment, url, log, method="forkserver")
        self._stack = ExitStack()
        self.is_killed = False
        self.start()

    def start(self) -> None:
        self._connection = self._stack.enter_context(self._start())
        self.pid: int = self._connection.recv()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.is_killed = True

    def ask(self, event: dict[str, Any]) -> HttpResponse | None:
        """Return the response, or None if the environment was killed before it could send one."""
        if self.is_killed:
            self.close()
            self.start()
            self.is_killed = False
        with suppress(OSError, EOFError):
            self._connection.send(event)
            response: HttpResponse = self._connection.recv()
            return response
        return None

    def close(self) -> None:
        self._stack.close()


@dataclass
class Window:
    """A fault, from just before it began until it was over. Times are those of time.monotonic()."""

    fault: str
    part: float  # the extent of the fault, from 0 to 1
    may_cost: int  # requests of each environment that may be 503 after the fault is over
    holds_transactions: bool  # transactions are lost and keep their locks until the server ends them
    may_kill: bool
    begin: float = field(default_factory=time.monotonic)
    end: float | None = None
    failures: Counter[int] = field(
        default_factory=Counter
    )  # 503 responses by environment, to requests that began after the end
    recovered: set[int] = field(default_factory=set)  # environments that have returned a correct response since the end


class Service:
    """The service that clients and faults share."""

    def __init__(self, folder: Path, port: int, log: str) -> None:
        self.stack = ExitStack()
        self._folder, self._port = folder, port
        self.start_server()
        self.windows: list[Window] = []
        self.violations: list[str] = []
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)  # of responses, by kind of request and by status
        self.over = threading.Event()
        self.awake = threading.Event()  # while it is cleared, no request begins, because the environments are frozen
        self.awake.set()
        self.before_next_fault: Callable[[], object] = list
        self._lock = threading.Lock()
        self._log = log

    def start_server(self) -> None:
        option = f"max_connections={MAX_CONNECTIONS}"
        server = postgres("-c", option, folder=self._folder / "postgres", port=self._port)
        self.url = self.stack.enter_context(server)

    def stop_server(self) -> None:
        self.stack.close()

    @contextmanager
    def environments(self) -> Iterator[list[Environment]]:
        """Start the network and the environments, which serve requests during the block."""
        with process(run_network, address_of(self.url)) as self._network, ExitStack() as stack:
            url = role_url(self.url, self._network.recv())
            found = [Environment(number, url, self._log) for number in range(ENVIRONMENTS)]
            self.free: queue.SimpleQueue[Environment] = queue.SimpleQueue()
            for environment in found:
                stack.callback(environment.close)
                self.free.put(environment)
            yield found

    def network(self, name: str, *arguments: Any) -> None:
        """Call a method of the proxy, or set its latency."""
        self._network.send((name, *arguments))
        self._network.recv()

    def admin(self, *statements: str) -> Any:
        """Run statements as the superuser, without the proxy, and return the rows of the last one."""
        with connect(self.url) as admin:
            return [admin.run(statement) for statement in statements][-1]

    def violate(self, text: str) -> None:
        with self._lock:
            self.violations.append(text)
            if len(self.violations) >= ENOUGH:
                self.over.set()

    def request(
        self, kind: str, method: str, target: str, body: Any = None, *, may_be_held: bool = False, **headers: str
    ) -> HttpResponse | None:
        """Send a request to the next free environment. Returns None if a 503 or no response is allowed at this moment.

        `may_be_held`: whether a lost transaction may hold a lock that this request needs.
        """
        path, _, query = target.partition("?")
        sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
        data = b"" if body is None else json.dumps(body).encode()
        event = http_event(method, path, query, [*sent, JSON] if data else sent, data)
        environment = self._next_environment()
        begun = time.monotonic()
        response = environment.ask(event)
        ended = time.monotonic()
        with self._lock:
            self.counts[kind][str(response.status) if response else "killed"] += 1
            wrong = self._judge(environment, response, begun, ended, may_be_held)
        self.free.put(environment)
        if wrong:
            self.violate(f"{wrong}: {method} {target} {data!r} {headers} to {environment.number}: {response}")
        if response is None or response.status == 503:
            time.sleep(random.uniform(0.05, 0.15))  # shorter than Retry-After
            return None
        return response

    def _next_environment(self) -> Environment:
        while True:
            self.awake.wait()
            environment = self.free.get()
            if self.awake.is_set():
                return environment
            self.free.put(environment)

    def _judge(  # noqa: PLR0911 - one return for each rule
        self, environment: Environment, response: HttpResponse | None, begun: float, ended: float, may_be_held: bool
    ) -> str | None:
        """Return the violation of a request, or None. The client checks the content of the response."""
        window = next((one for one in reversed(self.windows) if one.begin <= ended), None)
        after = begun - window.end if window and window.end else 0.0  # seconds since the last fault was over
        if response and response.status != 503:
            if window and after > 0:
                window.recovered.add(environment.number)
            return None if response.status < 500 else "neither a correct response nor the documented 503"
        if response and not is_unavailable(response):
            return "a 503 that is not the documented one"
        if window is None:
            return "a failure before any fault"
        if response is None:
            return None if window.may_kill else "an environment has ended"
        if after <= 0 or (may_be_held and window.holds_transactions and after < SWALLOWED):
            return None
        window.failures[environment.number] += 1
        if window.failures[environment.number] > window.may_cost or environment.number in window.recovered:
            return f"503, begun {after:.3f} s after {window.fault} ({window.part:.2f}) was over"
        return None
