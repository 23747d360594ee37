"""Warm requests beside the peers': round trips to the database, and time. `make bench-warm` writes RESULTS.md.

Each peer is a module with a Lambda `handler`, in a process of its own like a Lambda environment. This process sends
them API Gateway events in turns and the same number of each, so that all meet the same machine; they time themselves.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pg8000.native
from tqdm import tqdm

from benchmarks.chart import write_chart
from benchmarks.report import describe_machine, progress, table, write_section
from local.events import Context, http_event, http_response
from local.postgres import over_tcp, server
from tests.support.proxy import Proxy

TITLE = "Warm requests"
CHART = Path(__file__).parents[1] / "docs" / "warm.svg"


class Peer(NamedTuple):
    """Where a handler is, how its DATABASE_URL begins, and whether it has an ORM."""

    module: str
    scheme: str
    has_orm: bool = True


OURS, TUTORIAL = "ours", "tutorial"
PEERS = {
    OURS: Peer("handler.main", "postgresql"),
    TUTORIAL: Peer("benchmarks.peers.tutorial", "postgresql+pg8000"),
    "tutorial, psycopg 3": Peer("benchmarks.peers.tutorial", "postgresql+psycopg"),
    "asyncio, asyncpg": Peer("benchmarks.peers.asyncio_asyncpg", "postgresql+asyncpg"),
    "Powertools, pg8000": Peer("benchmarks.peers.powertools", "postgresql", has_orm=False),
    "floor": Peer("benchmarks.peers.floor", "postgresql", has_orm=False),
}
KINDS = ("GET", "POST", "list of 50", "PATCH")
# What we hold ourselves to: our median over the tutorial's.
LIMITS = {"on loopback": 0.25, "at 1 ms": 0.20}

LATENCY = 0.0005  # seconds each way
SEEDED = 100  # items that stay; GET and PATCH take them in turn
BATCH = 10  # requests of one peer before it is another's turn
WARM_UP = 4  # batches of each kind
COUNTED = 10  # requests of each kind whose round trips are counted
IDLE = 1.2  # seconds; our connections are checked after 1
SLOWER = 3  # times fewer rounds with a network, where all but the tutorial's noise is the network

# Spawned, not forked: a peer starts with a fresh interpreter.
_processes = get_context("spawn")


class Answer(NamedTuple):
    """What a request took, in seconds: by the clock, and of the processor in all threads of the peer."""

    seconds: float
    cpu: float
    status: int
    body: bytes


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """`target(connection, *args)` in another process as long as the block, and our end of its connection."""
    ours, its = _processes.Pipe()
    child = _processes.Process(target=target, args=(its, *args), daemon=True)
    child.start()
    its.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join()


def run_peer(connection: Connection, module: str, url: str) -> None:
    """In its own process: import the peer, and answer lists of events until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none"}
    handler = import_module(module).handler
    try:
        while True:
            answers = []
            for event in connection.recv():
                context = Context()
                cpu, start = time.process_time(), time.perf_counter()
                answer = handler(event, context)
                end, cpu = time.perf_counter(), time.process_time() - cpu
                status, _, body = http_response(answer)
                answers.append(Answer(end - start, cpu, status, body))
            connection.send(answers)
    except EOFError:
        pass


def run_network(connection: Connection, upstream: tuple[str, int], latency: float) -> None:
    """In its own process, to share a GIL with nobody: a proxy that adds `latency` seconds each way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slack = Path("/proc/self/timerslack_ns")  # Linux may wake a sleeper 50 µs late, unless it is told not to
    if slack.exists():
        slack.write_text("1")
    with Proxy(upstream) as proxy:
        proxy.latency = latency
        connection.send(proxy.port)
        connection.poll(None)  # until the other end closes


class Environment:
    """One of PEERS in its process, on a database of its own, and the items that are in it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._number = 0
        self._ids: list[int] = []
        created = [answer for _ in range(SEEDED // BATCH) for answer in self.run("POST", BATCH)]
        self._ids = [json.loads(answer.body)["id"] for answer in created]

    def run(self, kind: str, count: int) -> list[Answer]:
        """`count` requests of a kind. Raises RuntimeError when one is refused."""
        self._connection.send([self._event(kind) for _ in range(count)])
        answers: list[Answer] = self._connection.recv()
        for answer in answers:
            if not 200 <= answer.status < 300:
                raise RuntimeError(f"{kind}: {answer.status} {answer.body!r}")
        return answers

    def _event(self, kind: str) -> dict[str, Any]:
        self._number += 1
        one = f"/items/{self._ids[self._number % len(self._ids)]}" if self._ids else ""
        json_type = [("content-type", "application/json")]
        match kind:
            case "GET":
                return http_event("GET", one, "", [], b"")
            case "POST":
                body = b'{"name": "Lamp %d", "description": "A desk lamp"}' % self._number
                return http_event("POST", "/items/", "", json_type, body)
            case "list of 50":
                return http_event("GET", "/items/", "", [], b"")
            case _:
                return http_event("PATCH", one, "", json_type, b'{"description": "Number %d"}' % self._number)


@contextmanager
def environments(url: str, through: str, run: str) -> Iterator[dict[str, Environment]]:
    """Every peer, with items, on a new database of the server at `url`, which it reaches at `through`.

    `run` is a part of the databases' names.
    """
    with ExitStack() as stack:
        found = {}
        for number, (name, peer) in enumerate(PEERS.items()):
            database = f"peer{number}_{run}"
            with connect(url) as admin:
                admin.run(f"CREATE DATABASE {database}")
            if name == OURS:
                migrate(url_of(url, database))
            its_url = url_of(through, database, peer.scheme)
            found[name] = Environment(stack.enter_context(process(run_peer, peer.module, its_url)))
        yield found


def migrate(url: str) -> None:
    """Our schema; in another process, so that `handler` is imported into no other peer's."""
    command = [sys.executable, "-m", "handler.migrate"]
    subprocess.run(command, env=os.environ | {"DATABASE_URL": url}, stdout=subprocess.DEVNULL, check=True)


def check_same_answers(found: dict[str, Environment]) -> None:
    """All have had the same requests so far, and answer alike: what differs is the moment, and how a cursor is made."""
    for kind in KINDS:
        answers = {name: _comparable(json.loads(one.run(kind, 1)[0].body)) for name, one in found.items()}
        for name, answer in answers.items():
            if answer != answers[OURS]:
                raise RuntimeError(f"{kind}: {name} answers {answer}, ours {answers[OURS]}")


def _comparable(answer: Any) -> Any:
    if "items" in answer:
        has_more = bool(answer["next_cursor"])
        return {**answer, "items": [_comparable(item) for item in answer["items"]], "next_cursor": has_more}
    moments = {name: datetime.fromisoformat(answer[name]).tzinfo is not None for name in ("created_at", "updated_at")}
    return answer | moments


def count_round_trips(url: str, bar: "tqdm[Any]") -> dict[str, dict[str, str]]:
    """For each kind of request and each peer: the round trips of one, as text (`2`, or `2-3` where they differ)."""
    counts: dict[str, dict[str, str]] = {}
    with (
        Proxy(address_of(url)) as proxy,
        environments(url, over_tcp(url, proxy.port), "counted") as found,
    ):
        check_same_answers(found)

        def count(one: Environment, kind: str) -> int:
            with proxy.counting() as counted:
                one.run(kind, 1)
            return counted.round_trips

        for kind in KINDS:
            for name, one in found.items():
                one.run(kind, COUNTED)
                seen = sorted({count(one, kind) for _ in range(COUNTED)})
                counts.setdefault(kind, {})[name] = "-".join(str(number) for number in (seen[0], seen[-1])[: len(seen)])
            bar.update()
        time.sleep(IDLE)
        counts[f"GET after {IDLE} s of silence"] = {name: str(count(one, "GET")) for name, one in found.items()}
    return counts


Times = dict[str, dict[str, list[Answer]]]  # by kind and peer


def measure(found: dict[str, Environment], rounds: int, bar: "tqdm[Any]") -> Times:
    """Every request's answer: in batches, by turns, in another order each time."""
    answers: Times = {kind: {name: [] for name in found} for kind in KINDS}
    order = list(found)
    shuffle = random.Random(0).shuffle  # noqa: S311 - the same orders in every run
    for number in range(WARM_UP + rounds):
        for kind in KINDS:
            shuffle(order)
            for name in order:
                batch = found[name].run(kind, BATCH)
                if number >= WARM_UP:
                    answers[kind][name] += [answer._replace(body=b"") for answer in batch]
        bar.update()
    return answers


def one_round_trip(url: str) -> float:
    """Seconds that SELECT 1 takes: what the network costs."""
    with connect(url) as connection:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            connection.run("SELECT 1")
            times.append(time.perf_counter() - start)
    return median(times)


@contextmanager
def connect(url: str) -> Iterator[pg8000.native.Connection]:
    (host, port), password = address_of(url), urlsplit(url).password
    connection = pg8000.native.Connection("postgres", password=password, host=host, port=port, database="postgres")
    try:
        yield connection
    finally:
        connection.close()


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def url_of(url: str, database: str, scheme: str = "postgresql") -> str:
    """The URL of another database of the server at `url`."""
    return urlsplit(url)._replace(scheme=scheme, path=f"/{database}").geturl()


@contextmanager
def postgres() -> Iterator[str]:
    """An embedded PostgreSQL with its defaults; its URL by TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True) as folder,
        server(Path(folder), port=port) as url,
    ):
        yield over_tcp(url)


def medians(answers: Times, field: str) -> dict[str, dict[str, float]]:
    """Milliseconds, by kind and peer."""
    return {
        kind: {name: median(getattr(one, field) for one in found) * 1000 for name, found in by_peer.items()}
        for kind, by_peer in answers.items()
    }


def table_of(found: dict[str, dict[str, float]], what: str, limit: float | None = None) -> str:
    """A row for each kind: the milliseconds of each peer and, in brackets, their ratio to the tutorial's."""
    rows: list[tuple[Any, ...]] = [(what, *PEERS, *(["ours at most"] if limit else []))]
    for kind, by_peer in found.items():
        cells = [f"{value:.2f} ({value / by_peer[TUTORIAL]:.2f})" for value in by_peer.values()]
        rows.append((kind, *cells, *([f"({limit:.2f})"] if limit else [])))
    return table(*rows)


def verdict(times: dict[str, dict[str, dict[str, float]]]) -> str:
    """What misses its aim: the limits, and being faster than every peer that has an ORM."""
    missed = []
    for network, found in times.items():
        for kind, by_peer in found.items():
            ratio = by_peer[OURS] / by_peer[TUTORIAL]
            if ratio > LIMITS[network]:
                missed.append(f"{kind} {network} is {ratio:.2f} of the tutorial, not {LIMITS[network]:.2f}")
            missed += [
                f"{kind} {network} is slower than {name}"
                for name, peer in PEERS.items()
                if peer.has_orm and by_peer[name] < by_peer[OURS]
            ]
    aims = " and ".join(f"{limit:.2f} of the tutorial {network}" for network, limit in LIMITS.items())
    return f"The aim is at most {aims}, and faster than each peer with an ORM: {'; '.join(missed) or 'reached'}."


def run(rounds: int) -> str:
    """The whole part. Returns the section's text."""
    network_rounds = max(1, rounds // SLOWER)
    answers: dict[str, Times] = {}
    round_trip = {}
    with postgres() as url, progress("warm", len(KINDS) + 2 * WARM_UP + rounds + network_rounds) as bar:
        with connect(url) as connection:
            machine = f"{describe_machine(connection)} with its defaults (a COMMIT waits for the disk)."
        counts = count_round_trips(url, bar)
        with process(run_network, address_of(url), LATENCY) as network:
            slow = over_tcp(url, network.recv())
            for name, through, number in (("on loopback", url, rounds), ("at 1 ms", slow, network_rounds)):
                round_trip[name] = one_round_trip(through) * 1000
                with environments(url, through, name.replace(" ", "_")) as found:
                    answers[name] = measure(found, number, bar)
    times = {network: medians(found, "seconds") for network, found in answers.items()}
    note = "Median of one warm request from the event to the answer, PostgreSQL on loopback"
    write_chart(CHART, "Warm requests", note, times["on loopback"], "ms")
    rows: list[tuple[Any, ...]] = [("Round trips", *PEERS)]
    rows += [(kind, *by_peer.values()) for kind, by_peer in counts.items()]
    return f"""`make bench-warm` (`python -m benchmarks.warm --rounds {rounds}`) on {machine}

Ours is `handler.main`; the others are in `benchmarks/peers/`: the tutorial on stock pg8000 and on psycopg 3, FastAPI
with SQLAlchemy's asyncio on asyncpg, Powertools' resolver with pg8000 and no ORM, and as the floor a bare handler with
prepared statements on psycopg's C. Each runs in a process of its own with a database of its own and gets the same API
Gateway events, {BATCH} at a time by turns, in an order that changes. Before they are timed, their answers are compared:
they are equal but for the moments, and for how a cursor is made.

Round trips to the database of one warm request, counted by a proxy, the same {COUNTED} times of {COUNTED} unless two
numbers are given. That a connection is alive is checked in ours, at no round trip unless it was silent for 1 s.

{table(*rows)}

Time of one warm request, from the event to the answer: milliseconds, the median of {rounds * BATCH} on loopback and of
{network_rounds * BATCH} at 1 ms, and in brackets its ratio to the tutorial's. {verdict(times)}

{table_of(times["on loopback"], f"Loopback (`SELECT 1`: {round_trip['on loopback']:.2f} ms)", LIMITS["on loopback"])}

{table_of(times["at 1 ms"], f"1 ms of network (`SELECT 1`: {round_trip['at 1 ms']:.2f} ms)", LIMITS["at 1 ms"])}

Of the processor, without what PostgreSQL and the network take:

{table_of(medians(answers["on loopback"], "cpu"), "Loopback, CPU")}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=75, help=f"of {BATCH} requests of each kind (%(default)s)")
    text = run(parser.parse_args().rounds)
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")


if __name__ == "__main__":
    main()
