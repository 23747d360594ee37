"""Random faults under load: every 2xx is stored exactly once, every answer is right. `make bench-soak`.

Clients send requests to environments, each of which is a process with the real handler behind one network, and write
down what they were answered. One fault at a time hits the network, the server or the environments. What has to hold:

- A 2xx is stored, once: what was answered 201 is one row, a change that was answered 200 is one version. What was not
  answered is tried again, with its Idempotency-Key or its If-Match, by whichever environment is free, until it is.
- An answer is right: an item is the one that was asked for, as somebody stored it, and no older than what its owner had
  been told when it was asked for. Whatever is not answered is the documented 503.
- Recovery: a fault is over when the network passes, the server takes connections, and the lock is gone. From then on
  the first request of each environment is answered rightly. Two faults, in which a connection falls silent, may cost an
  environment one more, which waits for its deadline and is answered 503 (docs/adr/0007): the next is right.
- What a transaction holds that a black hole has swallowed, nobody else gets before the server gives it up, which is
  after idle_in_transaction_session_timeout: until then the same change, tried again, is answered 503.

The seed decides which faults come, in which order and for how long; what is asked depends on the moment, too. Ends with
1 when anything of this does not hold, and says what.
"""

import argparse
import json
import os
import queue
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pg8000.native

from benchmarks.environments import (
    ROLE,
    Postgres,
    connect,
    create_role,
    listening_server,
    migrate,
    new_folder,
    processes,
    url_of,
)
from benchmarks.report import Progress, describe_machine, table, write_section
from handler.settings import read_database_settings
from local.events import Context, HttpResponse, http_event, http_response
from tests.support.pgbouncer import reserved_port
from tests.support.proxy import Proxy

TITLE = "Soak"
ENVIRONMENTS = 8  # and as many clients
TIMEOUT = 5.0  # seconds of the function: shorter than the template's, for more faults in the time
SWALLOWED = 15.0 + TIMEOUT  # seconds: idle_in_transaction_session_timeout (migration 0002), and a request's own
RECOVERY = 45.0  # seconds that all environments get to be asked and to answer after a fault
PATIENCE = 120.0  # seconds that a client tries something again
ENOUGH = 20  # violations, after which it stops
JSON = ("content-type", "application/json")


# ---------------------------------------------------------------- environments and the network


def run_environment(connection: Connection, url: str, log: str) -> None:
    """In its own process: answer events until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none"}
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), sys.stderr.fileno())
    handler = import_module("handler.main").handler
    connection.send("ready")
    with suppress(EOFError):
        while True:
            event = connection.recv()
            connection.send(http_response(handler(event, Context(TIMEOUT))))


def run_network(connection: Connection, upstream: tuple[str, int]) -> None:
    """In its own process, to share a GIL with nobody: a proxy that does what it is told."""
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


class Child:
    """A process and our end of its connection."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self.connection, its = processes.Pipe()
        self.process = processes.Process(target=target, args=(its, *arguments), daemon=True)
        self.process.start()
        its.close()
        self.greeting = self.connection.recv()

    def ask(self, message: Any) -> Any:
        """Its answer. Raises OSError or EOFError when it is gone."""
        self.connection.send(message)
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join()


class Environment:
    """A process with the handler, for ever: where one is killed, Lambda starts another."""

    def __init__(self, number: int, start: Callable[[], Child]) -> None:
        self.number = number
        self._start = start
        self.child = start()
        self.killed = False

    def replace_if_killed(self) -> None:
        if self.killed:
            self.child.close()
            self.child, self.killed = self._start(), False

    def ask(self, event: dict[str, Any]) -> HttpResponse | None:
        """None when it was killed before it could answer."""
        try:
            answer: HttpResponse = self.child.ask(event)
        except (OSError, EOFError):
            return None
        return answer


# ---------------------------------------------------------------- what is known


@dataclass
class Window:
    """A fault: from just before it began until it was over. Times are those of time.monotonic()."""

    fault: str
    parameter: float
    begin: float
    end: float | None = None
    unavailable: int = 0  # 503 of requests that began before the end
    held: int = 0  # 503 of what a swallowed transaction holds
    failures: Counter[int] = field(default_factory=Counter)  # by environment, of requests that began after the end
    recovered: dict[int, int] = field(default_factory=dict)  # the failures that an environment had before it was right


@dataclass
class Item:
    """A row as its owner knows it, who alone changes it."""

    id: int
    name: str
    etag: str
    # What it may be found to be: its description at each version, that of a change under way included.
    history: dict[int, str | None] = field(default_factory=lambda: {1: None})
    confirmed: int = 1  # the version that its owner has been told
    is_being_deleted: bool = False
    is_gone: bool = False


class Ledger:
    """What all clients sent and were answered."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.ids: list[int] = []
        self.attempted: set[str] = set()  # names that may be stored
        self.unanswered: set[str] = set()  # those that were tried once and not answered: stored or not, but not twice
        self.keys: set[str] = set()  # those that were sent with an Idempotency-Key and answered 201
        self.hot = Item(0, "", "")  # all change this one
        self.hot_texts: set[str] = set()
        self.hot_versions: list[int] = []  # as answered
        self.hot_unanswered = 0

    def add(self, item: Item) -> None:
        self.items[item.id] = item
        self.ids.append(item.id)

    def mistake(self, found: dict[str, Any], floor: int = 1) -> str | None:
        """What is wrong with an item in an answer, which is at least at version `floor`; None when it is right."""
        item_id, name, version, description = (found[key] for key in ("id", "name", "version", "description"))
        if item_id == self.hot.id:
            is_right = name == self.hot.name and (description in self.hot_texts or version == 1)
            return None if is_right else "not what anybody stored"
        if name not in self.attempted:
            return "a name that nobody sent"
        item = self.items.get(item_id)
        if item is None:  # whose POST has not been answered yet, or never was
            return None if (version, description) == (1, None) else "changed by nobody"
        if name != item.name:
            return f"another's name: it is {item.name}"
        if version not in item.history or item.history[version] != description:
            return f"never stored like that: {item.history}"
        return None if version >= floor else f"older than version {floor}, which had been confirmed"


class Soak:
    """The run: what clients and faults share."""

    def __init__(self, postgres: Postgres, data: Path, stack: ExitStack, log: str) -> None:
        self.postgres, self.data, self.stack = postgres, data, stack
        self.ledger = Ledger()
        self.windows: list[Window] = []
        self.violations: list[str] = []
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.over = threading.Event()
        self.awake = threading.Event()  # cleared, no request begins: the environments are frozen
        self.awake.set()
        self.swallowed: list[int] = []  # server processes whose clients a black hole keeps
        self._lock = threading.Lock()
        self.network = Child(run_network, ("127.0.0.1", postgres.port))
        start = partial(Child, run_environment, url_of(postgres.admin_url, self.network.greeting), log)
        self.environments = [Environment(number, start) for number in range(ENVIRONMENTS)]
        self.free: queue.SimpleQueue[Environment] = queue.SimpleQueue()
        for environment in self.environments:
            self.free.put(environment)

    def close(self) -> None:
        for environment in self.environments:
            environment.child.close()
        self.network.close()

    def admin(self, *statements: str) -> Any:
        """The rows of the last of the statements, which the superuser runs."""
        with connect(self.postgres.admin_url) as admin:
            return [admin.run(statement) for statement in statements][-1]

    def violate(self, text: str) -> None:
        with self._lock:
            self.violations.append(text)
            if len(self.violations) >= ENOUGH:
                self.over.set()

    def request(
        self, kind: str, method: str, target: str, body: Any = None, *, is_held: bool = False, **headers: str
    ) -> HttpResponse | None:
        """What the next free environment answers: None where that is 503 or nothing, as it may be just now.

        `is_held` is whether a transaction that was swallowed may hold what this needs.
        """
        path, _, query = target.partition("?")
        sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
        data = b"" if body is None else json.dumps(body).encode()
        event = http_event(method, path, query, [*sent, JSON] if data else sent, data)
        environment = self._next_environment()
        environment.replace_if_killed()
        begun = time.monotonic()
        answer = environment.ask(event)
        ended = time.monotonic()
        said = f"{method} {target} {data.decode()} {headers} to environment {environment.number}: {answer}"
        with self._lock:
            wrong = self._judge(kind, environment, answer, begun, ended, is_held)
        self.free.put(environment)
        if wrong:
            self.violate(f"{wrong}: {said}")
        if answer is None or answer.status == 503:
            time.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - less than Retry-After says: an impatient client
            return None
        return answer

    def _next_environment(self) -> Environment:
        while True:
            self.awake.wait()
            environment = self.free.get()
            if self.awake.is_set():
                return environment
            self.free.put(environment)

    def _judge(  # noqa: PLR0911, PLR0913, PLR0917 - all that is known of a request, and all that may be wrong
        self,
        kind: str,
        environment: Environment,
        answer: HttpResponse | None,
        begun: float,
        ended: float,
        is_held: bool,
    ) -> str | None:
        """What is wrong with how a request went; what it answered is the client's to judge."""
        status = answer.status if answer else "killed"
        self.counts[kind][str(status)] += 1
        window = next((one for one in reversed(self.windows) if one.begin <= ended), None)
        if answer and answer.status != 503:
            if window and window.end and begun > window.end:
                window.recovered.setdefault(environment.number, window.failures[environment.number])
            return None if answer.status < 500 else "neither an answer nor the documented 503"
        if answer and not (dict(answer.headers).get("retry-after", "").isdigit() and b'"status":503' in answer.body):
            return "a 503 that is not the documented one"
        if window is None:
            return f"{status} before any fault"
        after = None if window.end is None else begun - window.end
        if answer is None:
            return None if window.fault == KILLED else "an environment is gone"
        if after is None or after <= 0:
            window.unavailable += 1
            return None
        if is_held and window.fault == BLACK_HOLE and after < SWALLOWED:
            window.held += 1
            return None
        window.failures[environment.number] += 1
        if window.failures[environment.number] > FAULTS[window.fault].costs or environment.number in window.recovered:
            return f"503, begun {after:.3f} s after {window.fault} ({window.parameter:.2f}) was over"
        return None


# ---------------------------------------------------------------- faults


class Fault(NamedTuple):
    """`happen` returns when the fault is over; it gets a number between 0 and 1 that decides how much of it."""

    happen: Callable[[Soak, float], None]
    costs: int = 0  # requests of each environment that it may cost after it is over


def tell_network(name: str, *arguments: Any) -> Callable[[Soak, float], None]:
    return lambda soak, _: soak.network.ask((name, *arguments)) and None


GONE = (pg8000.native.InterfaceError, pg8000.native.DatabaseError, OSError)
BACKENDS = f"SELECT pid FROM pg_stat_activity WHERE usename = '{ROLE}' ORDER BY pid"
END_ALL = f"SELECT pg_terminate_backend(pid, 5000) FROM ({BACKENDS}) AS all_of_them"


def end_one(soak: Soak, part: float) -> None:
    pids = soak.admin(BACKENDS)
    if pids:
        soak.admin(f"SELECT pg_terminate_backend({pids[int(part * len(pids))][0]}, 5000)")


def crash_one(soak: Soak, part: float) -> None:
    """A server process is killed: the server ends all others, and recovers."""
    pids = soak.admin(BACKENDS)
    if not pids:
        return
    with suppress(*GONE), connect(soak.postgres.admin_url) as witness:
        os.kill(pids[int(part * len(pids))][0], signal.SIGKILL)
        while True:  # until the server has noticed
            witness.run("SELECT 1")
    wait_for_server(soak)


def wait_for_server(soak: Soak) -> None:
    role = read_database_settings({"DATABASE_URL": soak.postgres.url})
    while True:
        with suppress(*GONE):
            pg8000.native.Connection(
                ROLE, password=role.password, host="127.0.0.1", port=soak.postgres.port, database="postgres"
            ).close()
            return
        time.sleep(0.02)


def restart(soak: Soak, part: float) -> None:
    soak.stack.close()
    time.sleep(2 * part)
    soak.postgres = soak.stack.enter_context(listening_server(soak.data, soak.postgres.port))


def cut(soak: Soak, part: float) -> None:
    soak.network.ask(("cut_after", int(3000 * part)))
    time.sleep(0.5)
    soak.network.ask(("reset",))  # those that have not come so far


def black_hole(soak: Soak, part: float) -> None:
    soak.network.ask(("black_hole",))
    soak.swallowed = [pid for (pid,) in soak.admin(BACKENDS)]
    time.sleep(0.1 + 4 * part)
    soak.network.ask(("restore",))


def refuse(soak: Soak, part: float) -> None:
    soak.network.ask(("refuse",))
    soak.network.ask(("reset",))
    time.sleep(0.1 + 2 * part)
    soak.network.ask(("restore",))


def freeze(soak: Soak, part: float) -> None:
    """No requests for a while, in which the network forgets the connections."""
    soak.awake.clear()
    held = [soak.free.get() for _ in soak.environments]
    soak.network.ask(("half_open",))
    time.sleep(1.1 + 2 * part)
    for environment in held:
        soak.free.put(environment)


def kill(soak: Soak, part: float) -> None:
    environment = soak.environments[int(part * ENVIRONMENTS)]
    pid = environment.child.process.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    environment.killed = True


def lock(soak: Soak, part: float) -> None:
    with connect(soak.postgres.admin_url) as admin:
        admin.run("BEGIN")
        admin.run("LOCK TABLE items")
        time.sleep(0.1 + 4 * part)
        admin.run("ROLLBACK")


def leave_no_connection(soak: Soak, part: float) -> None:
    soak.admin(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0", END_ALL)
    time.sleep(0.1 + 2 * part)
    soak.admin(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


def demote(soak: Soak, part: float) -> None:
    """A failover: the old primary takes no writes any more, and goes."""
    soak.admin("ALTER DATABASE postgres SET default_transaction_read_only = on", END_ALL)
    time.sleep(0.1 + 2 * part)
    soak.admin("SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET default_transaction_read_only")
    soak.admin(END_ALL)


def slow_down(soak: Soak, part: float) -> None:
    soak.network.ask(("latency", 0.02 + 0.2 * part))
    time.sleep(2)
    soak.network.ask(("latency", 0.0))


BLACK_HOLE, KILLED = "the network swallows everything", "an environment is killed"
FAULTS = {
    "a server process is ended": Fault(end_one),
    "all server processes are ended": Fault(lambda soak, _: soak.admin(END_ALL) and None),
    "a server process crashes": Fault(crash_one),
    "the server restarts": Fault(restart),
    "the server has no connection left": Fault(leave_no_connection),
    "the server is demoted": Fault(demote),
    "the table is locked": Fault(lock),
    "connections are reset": Fault(tell_network("reset")),
    "connections are reset on the next write": Fault(tell_network("reset_on_next_write")),
    "connections are cut in a reply": Fault(cut),
    "connections are refused": Fault(refuse),
    "the network is slow": Fault(slow_down),
    "connections are half-open": Fault(tell_network("half_open"), costs=1),
    BLACK_HOLE: Fault(black_hole, costs=1),
    "environments are frozen": Fault(freeze),
    KILLED: Fault(kill),
}


def make_faults(soak: Soak, seed: int, seconds: float, progress: Progress) -> None:
    """One fault after the other, each kind as often as the others, until the time is up or something is wrong."""
    choice = random.Random(f"{seed} faults")  # noqa: S311
    end = time.monotonic() + seconds
    bag: list[str] = []
    while True:
        if not bag:
            bag = list(FAULTS)
            choice.shuffle(bag)
        name, part, rest = bag.pop(), choice.random(), choice.uniform(0.5, 2)
        if soak.over.wait(rest) or time.monotonic() > end:
            return
        window = Window(name, part, time.monotonic())
        soak.windows.append(window)
        # A server that nobody tells of its clients' end would keep these until TCP keepalive asks, in two hours.
        for pid in soak.swallowed:
            soak.admin(f"SELECT pg_terminate_backend({pid}, 5000)")
        soak.swallowed = []
        FAULTS[name].happen(soak, part)
        window.end = time.monotonic()
        soak.awake.set()
        give_up = window.end + RECOVERY
        while len(window.recovered) < ENVIRONMENTS and not soak.over.is_set():
            if time.monotonic() > give_up:
                missing = sorted(set(range(ENVIRONMENTS)) - set(window.recovered))
                soak.violate(f"no right answer of environments {missing} {RECOVERY:g} s after {name} ({part:.2f})")
                break
            time.sleep(0.01)
        progress.show()


# ---------------------------------------------------------------- clients


class NotAnswered(Exception):
    """A client has lost its patience."""


class Client:
    """One after the other, requests of all kinds; owns the items that it creates."""

    def __init__(self, soak: Soak, number: int, seed: int) -> None:
        self.soak, self.ledger, self.number = soak, soak.ledger, number
        self.choice = random.Random(f"{seed} client {number}")  # noqa: S311
        self.turn = 0
        self.own: list[Item] = []

    def run(self) -> None:
        doings: dict[Callable[[], None], int] = {
            self.read: 40,
            self.read_unchanged: 4,
            self.list: 8,
            self.search: 2,
            self.create: 8,
            self.create_with_key: 14,
            self.change: 15,
            self.change_what_all_change: 5,
            self.delete: 4,
        }
        try:
            while not self.soak.over.is_set():
                self.turn += 1
                (do,) = self.choice.choices(list(doings), list(doings.values()))
                do()
        except NotAnswered as error:
            self.soak.violate(f"client {self.number}: no answer in {PATIENCE:g} s: {error}")
        except Exception as error:  # noqa: BLE001 - of an answer that is not even what it looks like
            self.soak.violate(f"client {self.number}: {type(error).__name__}: {error}")

    def text(self) -> str:
        """That nobody else sends, and that is part of no other."""
        return f"<{self.number}.{self.turn}.{self.choice.randrange(10**6)}>"

    def expect(self, is_right: object, what: str, answer: HttpResponse) -> bool:
        if not is_right:
            self.soak.violate(f"client {self.number}, turn {self.turn}, {what}: {answer}")
        return bool(is_right)

    def until_answered(
        self, kind: str, method: str, target: str, body: Any, **headers: str
    ) -> tuple[HttpResponse, int]:
        """The answer, and how often there was none before it."""
        give_up = time.monotonic() + PATIENCE
        failures = 0
        while time.monotonic() < give_up:
            answer = self.soak.request(kind, method, target, body, is_held=failures > 0, **headers)
            if answer:
                return answer, failures
            failures += 1
        raise NotAnswered(f"{method} {target} {body} {headers}")

    def read(self) -> None:
        if not self.ledger.ids:
            return
        item = self.ledger.items[self.choice.choice(self.ledger.ids)]
        floor, was_gone = item.confirmed, item.is_gone
        answer = self.soak.request("GET", "GET", f"/items/{item.id}")
        if answer is None:
            return
        if answer.status == 404:
            self.expect(item.is_being_deleted, f"item {item.id} is not found", answer)
        elif self.expect(answer.status == 200 and not was_gone, f"item {item.id}, gone: {was_gone}", answer):
            found = json.loads(answer.body)
            mistake = self.ledger.mistake(found, floor) if found["id"] == item.id else "another item"
            self.expect(mistake is None, f"item {item.id}: {mistake}", answer)

    def read_unchanged(self) -> None:
        if self.own:
            item = self.choice.choice(self.own)
            answer = self.soak.request("GET, 304", "GET", f"/items/{item.id}", if_none_match=item.etag)
            if answer:
                self.expect(answer.status == 304 and not answer.body, f"item {item.id} has not changed", answer)

    def list(self) -> None:
        order = self.choice.choice(["newest", "name"])
        target = f"/items/?limit={self.choice.randint(1, 30)}&order={order}"
        before: tuple[Any, ...] | None = None
        for _ in range(2):
            answer = self.soak.request("list", "GET", target)
            if answer is None or not self.expect(answer.status == 200, target, answer):
                return
            page = json.loads(answer.body)
            for item in page["items"]:
                key = (-item["id"],) if order == "newest" else (item["name"], item["id"])
                self.expect(before is None or key > before, f"{item['id']} in {target} is not in order", answer)
                mistake = self.ledger.mistake(item)
                self.expect(mistake is None, f"{item['id']} in {target}: {mistake}", answer)
                before = key
            if page["next_cursor"] is None:
                return
            target = re.sub("&cursor=.*", "", target) + f"&cursor={page['next_cursor']}"

    def search(self) -> None:
        if self.own:
            item = self.choice.choice(self.own)
            answer = self.soak.request("search", "GET", f"/items/?q={quote(item.name)}")
            if answer and self.expect(answer.status == 200, f"search for {item.name}", answer):
                found = [one["id"] for one in json.loads(answer.body)["items"]]
                self.expect(found == [item.id], f"search for {item.name} finds {found}, not {item.id}", answer)

    def created(self, answer: HttpResponse, name: str) -> None:
        found, headers = json.loads(answer.body), dict(answer.headers)
        is_right = (found["name"], found["version"], found["description"]) == (name, 1, None)
        is_new = found["id"] not in self.ledger.items and headers["location"] == f"/items/{found['id']}"
        if self.expect(is_right and is_new, f"POST of {name}", answer):
            item = Item(found["id"], name, headers["etag"])
            self.ledger.add(item)
            self.own.append(item)

    def create(self) -> None:
        """Without a key: what is not answered cannot be tried again, and is stored or not."""
        name = self.text()
        self.ledger.attempted.add(name)
        answer = self.soak.request("POST", "POST", "/items/", {"name": name})
        if answer is None:
            self.ledger.unanswered.add(name)
        elif self.expect(answer.status == 201, "POST", answer):
            self.created(answer, name)

    def create_with_key(self) -> None:
        name = self.text()
        self.ledger.attempted.add(name)
        post = partial(self.until_answered, "POST with a key", "POST", "/items/", idempotency_key=f"key of {name}")
        answer, _ = post({"name": name})
        if not self.expect(answer.status == 201, f"POST of {name} with a key", answer):
            return
        self.ledger.keys.add(name)
        if self.choice.random() < 0.2:  # the answer is lost on its way to the client
            again, _ = post({"name": name})
            first = {name: value for name, value in answer.headers if name in ("location", "etag", "content-type")}
            is_same = first.items() <= dict(again.headers).items()
            same = (again.status, again.body) == (201, answer.body) and is_same
            self.expect(same, f"POST of {name} again, which was {answer}", again)
        if self.choice.random() < 0.05:
            other, _ = post({"name": f"not {name}"})
            self.expect(other.status == 422, f"POST of another with the key of {name}", other)
        self.created(answer, name)

    def change(self) -> None:
        if not self.own:
            return
        item, text = self.choice.choice(self.own), self.text()
        version = item.confirmed + 1
        item.history[version] = text
        method = self.choice.choice(["PATCH", "PUT"])
        body = {"description": text} | ({"name": item.name} if method == "PUT" else {})
        path = f"/items/{item.id}"
        answer, failures = self.until_answered(method, method, path, body, if_match=item.etag)
        if answer.status == 412 and failures:  # it was done, and the answer lost
            answer, _ = self.until_answered("GET", "GET", path, None)
        found = json.loads(answer.body)
        is_right = answer.status == 200 and found["id"] == item.id and found["name"] == item.name
        is_right = is_right and (found["version"], found["description"]) == (version, text)
        if self.expect(is_right, f"{method} of item {item.id} to version {version}, {text}", answer):
            item.confirmed, item.etag = version, dict(answer.headers)["etag"]
        else:
            self.own.remove(item)

    def change_what_all_change(self) -> None:
        """Without If-Match. What is not answered has happened or not."""
        hot, text = self.ledger.hot, self.text()
        self.ledger.hot_texts.add(text)
        body = {"description": text}
        answer = self.soak.request("PATCH of one by all", "PATCH", f"/items/{hot.id}", body, is_held=True)
        if answer is None:
            self.ledger.hot_unanswered += 1
            return
        found = json.loads(answer.body)
        is_right = answer.status == 200 and (found["id"], found["description"]) == (hot.id, text)
        if self.expect(is_right, "PATCH of what all change", answer):
            self.ledger.hot_versions.append(found["version"])

    def delete(self) -> None:
        if len(self.own) < 10:
            return
        item = self.own.pop(self.choice.randrange(len(self.own)))
        item.is_being_deleted = True
        path = f"/items/{item.id}"
        answer, failures = self.until_answered("DELETE", "DELETE", path, None, if_match=item.etag)
        is_right = answer.status == 204 or (answer.status == 404 and failures)
        item.is_gone = self.expect(is_right, f"DELETE of item {item.id}", answer)


# ---------------------------------------------------------------- the end


def compare(ledger: Ledger, rows: list[list[Any]], keys: list[list[Any]]) -> list[str]:
    """What the tables hold that they should not, and what they should and do not."""
    wrong = []
    names = Counter(name for _, name, _, _ in rows)
    wrong += [f"stored {number} times: {name}" for name, number in names.items() if number > 1]
    wrong += [
        f"stored, and nobody sent it: {name}" for name in names if name not in ledger.attempted | {ledger.hot.name}
    ]
    stored = {item_id: (name, description, version) for item_id, name, description, version in rows}
    for item in ledger.items.values():
        expected = None if item.is_gone else (item.name, item.history[item.confirmed], item.confirmed)
        found = stored.pop(item.id, None)
        if found != expected:
            wrong.append(f"item {item.id} is {found} instead of {expected}")
    version = stored.pop(ledger.hot.id)[2]
    sure = len(ledger.hot_versions)
    if len(set(ledger.hot_versions)) != sure or not sure <= version - 1 <= sure + ledger.hot_unanswered:
        wrong.append(
            f"what all change has version {version} after {sure} changes that were answered, with"
            f" {len(set(ledger.hot_versions))} versions, and {ledger.hot_unanswered} that were not"
        )
    wrong += [f"stored, and nobody was told: {row}" for row in stored.values() if row[0] not in ledger.unanswered]
    if {key for key, _ in keys} != {f"key of {name}" for name in ledger.keys}:
        wrong.append(f"{len(keys)} keys are stored, and {len(ledger.keys)} were answered")
    wrong += [f"a key without an answer: {key}" for key, is_answered in keys if not is_answered]
    return wrong


def run(minutes: float, seed: int, log: str) -> tuple[str, list[str]]:
    """The section's text, and what must not be."""
    progress = Progress(minutes * 60 + 15)
    with new_folder() as folder, reserved_port() as port, ExitStack() as stack:
        postgres = stack.enter_context(listening_server(folder / "data", port))
        with connect(postgres.admin_url) as admin:
            machine = describe_machine(admin)
        create_role(postgres.admin_url)
        migrate(postgres.admin_url)
        soak = Soak(postgres, folder / "data", stack, log)
        try:
            answer = soak.request("POST", "POST", "/items/", {"name": "what all change"})
            assert answer is not None
            assert answer.status == 201, answer
            soak.ledger.hot = Item(json.loads(answer.body)["id"], "what all change", "")
            clients = [Client(soak, number, seed) for number in range(ENVIRONMENTS)]
            threads = [threading.Thread(target=client.run) for client in clients]
            for thread in threads:
                thread.start()
            try:
                make_faults(soak, seed, minutes * 60, progress)
            finally:
                soak.over.set()
                soak.awake.set()
                for thread in threads:
                    thread.join()
            rows = soak.admin("SELECT id, name, description, version FROM items")
            keys = soak.admin("SELECT key, answer IS NOT NULL FROM idempotency_keys")
        finally:
            soak.close()
    progress.done()
    soak.violations += compare(soak.ledger, rows, keys)
    return describe(soak, minutes, seed, machine, len(rows)), soak.violations


def describe(soak: Soak, minutes: float, seed: int, machine: str, stored: int) -> str:
    faults: list[tuple[Any, ...]] = [
        ("fault", "times", "503 while it lasted", "503 of what was held", "right at once", "right at the second")
    ]
    for name in FAULTS:
        windows = [window for window in soak.windows if window.fault == name]
        recovered = Counter(failures for window in windows for failures in window.recovered.values())
        lasting, held = sum(window.unavailable for window in windows), sum(window.held for window in windows)
        faults.append((name, len(windows), lasting, held, recovered[0], recovered[1]))
    statuses = sorted({status for counter in soak.counts.values() for status in counter})
    requests: list[tuple[Any, ...]] = [("request", *statuses)]
    requests += [(kind, *(f"{counter[one]:,}" for one in statuses)) for kind, counter in sorted(soak.counts.items())]
    ledger, total = soak.ledger, sum(counter.total() for counter in soak.counts.values())
    gone = sum(item.is_gone for item in ledger.items.values())
    return f"""`make bench-soak` (`python -m benchmarks.soak --minutes {minutes:g} --seed {seed}`) on {machine}.

{ENVIRONMENTS} environments and as many clients, {total:,} requests, {len(soak.windows)} faults, one after the other:
{len(soak.violations) or "no"} violations.

- {len(ledger.items):,} items were answered 201, {len(ledger.keys):,} of them with an Idempotency-Key; {gone:,} were
  deleted again.
- {stored:,} are stored: all others, each once and as it was last answered; the one that all change; and some of the
  {len(ledger.unanswered)} that were tried once, without a key, and not answered.
- The one that all change was changed {len(ledger.hot_versions):,} times by an answered request, no two to the same
  version.

"right at once" counts environments whose first request after the fault was over was answered rightly, "right at the
second" those where the first found a silent connection and waited for its deadline (docs/adr/0007). "held" is what a
transaction still held that the network had swallowed, tried again before the server gave it up.

{table(*faults)}

What was asked, and the status of the answers:

{table(*requests)}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of an earlier run, to repeat it")  # noqa: S311
    arguments = parser.parse_args()
    print(f"soak: --seed {arguments.seed}", file=sys.stderr, flush=True)
    descriptor, log = tempfile.mkstemp(prefix="soak-", suffix=".log")
    os.close(descriptor)
    text, violations = run(arguments.minutes, arguments.seed, log)
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")
    if violations:
        print("\n".join(violations[:ENOUGH]), file=sys.stderr)
        sys.exit(
            f"soak: {len(violations)} violations with --seed {arguments.seed}; what the handler logged is in {log}"
        )
    Path(log).unlink()


if __name__ == "__main__":
    main()
