"""Warm requests compared with five peers: round trips to the database, and time. `make bench-warm`.

Each peer is a module with a Lambda `handler`, in a separate process like a Lambda environment. This process sends the
same API Gateway events to all of them in turn, so that they run under the same conditions. They measure their own
times.
"""

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.chart import write_chart
from benchmarks.handlers import Event, Handler, Timed, get, handler, patch, post
from benchmarks.report import Result, describe_machine, main, say, table
from local.postgres import over_tcp
from tests.support.environments import ROOT, address_of, connect, migrate, postgres, process, url_of
from tests.support.proxy import Proxy

CHART = ROOT / "docs" / "warm.svg"


class Peer(NamedTuple):
    """A handler: its module, the scheme of its DATABASE_URL, and whether it uses an ORM."""

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
LOOPBACK, NETWORK = "on loopback", "at 1 ms"
# The aims: faster than every peer with an ORM, except a POST on loopback; with a network, this part of the tutorial.
LIMIT_AT_1_MS = 0.21
LIMIT_OF_POST = 1.1  # of the fastest peer with an ORM, on loopback

LATENCY = 0.0005  # seconds each way
SEEDED = 100  # items that are not deleted; GET and PATCH use them in turn
BATCH = 10  # requests to one peer before the turn of the next
WARM_UP = 4  # batches of each kind
COUNTED = 10  # requests of each kind whose round trips are counted
IDLE = 1.2  # seconds; this project checks a connection after 1
SLOWER = 3  # divisor of the rounds with a network, which takes nearly all of the time

Times = dict[str, dict[str, list[Timed]]]  # by kind of request and peer
Medians = dict[str, dict[str, float]]  # milliseconds, by kind of request and peer


def run_network(connection: Connection, upstream: tuple[str, int]) -> None:
    """Run a proxy that adds LATENCY in each direction, in a separate process with its own GIL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slack = Path("/proc/self/timerslack_ns")  # Linux wakes a sleeper up to 50 µs late unless this is set
    if slack.exists():
        slack.write_text("1")
    with Proxy(upstream) as proxy:
        proxy.latency = LATENCY
        connection.send(proxy.port)
        connection.poll(None)  # until the connection closes


class Environment:
    """One of PEERS with its own database, and the items in it."""

    def __init__(self, peer: Handler) -> None:
        self._handler = peer
        self._number = 0
        self._ids: list[int] = []
        created = [response for _ in range(SEEDED // BATCH) for response in self.run("POST", BATCH)]
        self._ids = [json.loads(response.body)["id"] for response in created]

    def run(self, kind: str, count: int) -> list[Timed]:
        return self._handler.run(*(self._event(kind) for _ in range(count)))

    def _event(self, kind: str) -> Event:
        self._number += 1
        one = f"/items/{self._ids[self._number % len(self._ids)]}" if self._ids else ""
        match kind:
            case "GET":
                return get(one)
            case "POST":
                return post(f"Lamp {self._number}")
            case "PATCH":
                return patch(one, f"Number {self._number}")
            case _:
                return get("/items/")


@contextmanager
def environments(url: str, through: str, run: str) -> Iterator[dict[str, Environment]]:
    """Start every peer on a new database of the server at `url`, which it reaches at `through`.

    `run` is part of the names of the databases.
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
            found[name] = Environment(stack.enter_context(handler(peer.module, its_url)))
        yield found


def check_same_responses(found: dict[str, Environment]) -> None:
    """Compare the responses to the same requests. Only times and the form of a cursor may differ."""
    for kind in KINDS:
        bodies = {name: _comparable(json.loads(one.run(kind, 1)[0].body)) for name, one in found.items()}
        for name, body in bodies.items():
            if body != bodies[OURS]:
                raise RuntimeError(f"{kind}: {name} returns {body}, ours {bodies[OURS]}")


def _comparable(body: Any) -> Any:
    if "items" in body:
        has_more = bool(body["next_cursor"])
        return {**body, "items": [_comparable(item) for item in body["items"]], "next_cursor": has_more}
    return body | {name: datetime.fromisoformat(body[name]).tzinfo is not None for name in ("created_at", "updated_at")}


def count_round_trips(url: str) -> dict[str, dict[str, str]]:
    """Return the round trips of one request, by kind and peer, as text (`2`, or `2-3` where they differ)."""
    counts: dict[str, dict[str, str]] = {}
    with Proxy(address_of(url)) as proxy, environments(url, over_tcp(url, proxy.port), "counted") as found:
        check_same_responses(found)

        def count(one: Environment, kind: str) -> int:
            with proxy.counting() as counted:
                one.run(kind, 1)
            return counted.round_trips

        for kind in KINDS:
            for name, one in found.items():
                one.run(kind, COUNTED)
                seen = sorted({count(one, kind) for _ in range(COUNTED)})
                counts.setdefault(kind, {})[name] = "-".join(str(number) for number in (seen[0], seen[-1])[: len(seen)])
        time.sleep(IDLE)
        counts[f"GET after {IDLE} s of silence"] = {name: str(count(one, "GET")) for name, one in found.items()}
    return counts


def measure(found: dict[str, Environment], rounds: int) -> Times:
    """Return every response. The peers take turns in batches, in another order each time."""
    times: Times = {kind: {name: [] for name in found} for kind in KINDS}
    order = list(found)
    shuffle = random.Random(0).shuffle  # noqa: S311 - the same orders in every run
    for number in range(WARM_UP + rounds):
        say(f"warm: round {number + 1} of {WARM_UP + rounds}")
        for kind in KINDS:
            shuffle(order)
            for name in order:
                batch = found[name].run(kind, BATCH)
                if number >= WARM_UP:
                    times[kind][name] += [response._replace(body=b"") for response in batch]
    return times


def one_round_trip(url: str) -> float:
    """Return the milliseconds of SELECT 1, which measure the network."""
    times = []
    with connect(url) as connection:
        for _ in range(200):
            start = time.perf_counter()
            connection.run("SELECT 1")
            times.append(time.perf_counter() - start)
    return median(times) * 1000


def medians(times: Times, field: str) -> Medians:
    return {
        kind: {name: median(getattr(one, field) for one in found) * 1000 for name, found in by_peer.items()}
        for kind, by_peer in times.items()
    }


def table_of(found: Medians, what: str) -> str:
    """Return a row for each kind: the milliseconds of each peer and, in brackets, the ratio to the tutorial."""
    rows: list[tuple[Any, ...]] = [(what, *PEERS)]
    for kind, by_peer in found.items():
        rows.append((kind, *(f"{value:.2f} ({value / by_peer[TUTORIAL]:.2f})" for value in by_peer.values())))
    return table(*rows)


def missed_aims(times: dict[str, Medians]) -> list[str]:
    missed = []
    for network, found in times.items():
        for kind, by_peer in found.items():
            ours = by_peer[OURS]
            fastest = min((one for one, peer in PEERS.items() if peer.has_orm and one != OURS), key=by_peer.__getitem__)
            allowed = LIMIT_OF_POST if (network, kind) == (LOOPBACK, "POST") else 1
            if ours > allowed * by_peer[fastest]:
                missed.append(f"{kind} {network} is {ours / by_peer[fastest]:.2f} of {fastest}")
            if network == NETWORK and ours > LIMIT_AT_1_MS * by_peer[TUTORIAL]:
                missed.append(f"{kind} {network} is {ours / by_peer[TUTORIAL]:.2f} of the tutorial")
    return missed


def run(rounds: int) -> Result:
    fewer = max(1, rounds // SLOWER)
    times: dict[str, Times] = {}
    round_trip = {}
    with postgres() as url:
        with connect(url) as connection:
            machine = f"{describe_machine(connection)} with its defaults (a COMMIT waits for the disk)."
        counts = count_round_trips(url)
        with process(run_network, address_of(url)) as network:
            slow = over_tcp(url, network.recv())
            for name, through, number in ((LOOPBACK, url, rounds), (NETWORK, slow, fewer)):
                round_trip[name] = one_round_trip(through)
                with environments(url, through, name.replace(" ", "_")) as found:
                    times[name] = measure(found, number)
    found_medians = {network: medians(responses, "seconds") for network, responses in times.items()}
    note = "Median of one warm request from the event to the response, PostgreSQL on loopback"
    write_chart(CHART, "Warm requests", note, found_medians[LOOPBACK], "ms")
    round_trips = table(("Round trips", *PEERS), *((kind, *by_peer.values()) for kind, by_peer in counts.items()))
    loopback = table_of(found_medians[LOOPBACK], f"Loopback (`SELECT 1`: {round_trip[LOOPBACK]:.2f} ms)")
    network_table = table_of(found_medians[NETWORK], f"1 ms of network (`SELECT 1`: {round_trip[NETWORK]:.2f} ms)")
    missed = "; ".join(missed_aims(found_medians)) or "none"
    section = f"""{machine}

Ours is `handler.main`. The others are in `benchmarks/peers/`: the tutorial with stock pg8000 and with psycopg 3,
FastAPI with SQLAlchemy's asyncio and asyncpg, Powertools' resolver with pg8000 and no ORM, and as the floor a bare
handler with prepared statements and psycopg's C implementation. Each has its own process and database and gets the same
API Gateway events, in turns of {BATCH}, in an order that changes. Before the measurement, their responses are compared.
They are equal except for times and the form of a cursor.

Round trips to the database of one warm request, counted by a proxy, {COUNTED} times each. Ours checks that a connection
is alive. The check takes a round trip only after the connection was idle for 1 s.

{round_trips}

Milliseconds of one warm request, from the event to the response: the median of {rounds * BATCH} on loopback and of
{fewer * BATCH} at 1 ms, and in brackets the ratio to the tutorial. The aims: at 1 ms at most {LIMIT_AT_1_MS} of the
tutorial; faster than each peer with an ORM, except a POST on loopback, which may take {LIMIT_OF_POST} of the fastest.
Missed: {missed}.

{loopback}

{network_table}

Processor time, without PostgreSQL and the network:

{table_of(medians(times[LOOPBACK], "cpu"), "Loopback, CPU")}"""
    return Result(section, f"{round_trips}\n\n{loopback}\n\n{network_table}\n\nMissed aims: {missed}.")


if __name__ == "__main__":
    main("warm", "Warm requests", run, rounds=75)
