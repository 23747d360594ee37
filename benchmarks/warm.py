"""Warm requests beside the tutorial's: round trips to the database, and time. `make bench-warm` writes RESULTS.md.

Each peer is a module with a Lambda `handler`, in a process of its own like a Lambda environment. This process sends
them API Gateway events in turns and the same number of each, so that both meet the same machine; they time themselves.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import pg8000.native

from benchmarks.report import Progress, describe_machine, table, write_section
from local.events import Context, http_answer, http_event
from local.postgres import server
from local.proxy import Proxy

TITLE = "Warm requests"
OURS, THEIRS = "ours", "tutorial"
PEERS = {OURS: "handler.main", THEIRS: "benchmarks.peers.tutorial"}

LATENCY = 0.0005  # seconds each way
# What we hold ourselves to for GET and POST: our median over the tutorial's.
LIMITS = {"loopback": 0.35, "1 ms": 0.27}
SEEDED = 100  # items that stay; GET and PATCH take them in turn
BATCH = 10  # requests of one peer before it is the other's turn
WARM_UP = 4  # batches of each kind
COUNTED = 20  # requests of each kind whose round trips are counted
IDLE = 1.2  # seconds; our connections are checked after 1
BESIDE = 16  # seconds that all but the timing takes, about

# Spawned, not forked: a peer starts with a fresh interpreter.
_processes = get_context("spawn")


class Answer(NamedTuple):
    seconds: float
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
                start = time.perf_counter()
                answer = handler(event, context)
                seconds = time.perf_counter() - start
                status, _, body = http_answer(answer)
                answers.append(Answer(seconds, status, body))
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


class Peer:
    """One of PEERS with a database of its own, and the items that are in it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._number = 0
        self.kept: list[int] = []
        self.spare: list[int] = []
        for _ in range(SEEDED // BATCH):
            self.run("POST", BATCH)
        self.kept, self.spare = self.spare, []

    def run(self, kind: str, count: int) -> list[float]:
        """`count` requests of a kind; the seconds that each took. Raises RuntimeError when one is refused."""
        self._connection.send([self._event(kind) for _ in range(count)])
        answers: list[Answer] = self._connection.recv()
        for answer in answers:
            if not 200 <= answer.status < 300:
                raise RuntimeError(f"{kind}: {answer.status} {answer.body!r}")
            if kind == "POST":
                found = re.search(rb'"id":(\d+)', answer.body)
                assert found
                self.spare.append(int(found[1]))
        return [answer.seconds for answer in answers]

    def _event(self, kind: str) -> dict[str, Any]:
        self._number += 1
        one = f"/items/{self.kept[self._number % len(self.kept)]}" if self.kept else ""
        json = [("content-type", "application/json")]
        match kind:
            case "GET":
                return http_event("GET", one, "", [], b"")
            case "POST":
                body = b'{"name": "Lamp %d", "description": "A desk lamp"}' % self._number
                return http_event("POST", "/items/", "", json, body)
            case "list of 50":
                return http_event("GET", "/items/", "", [], b"")
            case "PATCH":
                return http_event("PATCH", one, "", json, b'{"description": "Number %d"}' % self._number)
            case _:
                return http_event("DELETE", f"/items/{self.spare.pop()}", "", [], b"")


KINDS = ("GET", "POST", "list of 50", "PATCH", "DELETE")


@contextmanager
def peers(server_port: int, port: int, run: str) -> Iterator[dict[str, Peer]]:
    """Every peer, with items, on a new database of the server that it reaches through `port`; `run` names it."""
    with ExitStack() as stack:
        found = {}
        for name, module in PEERS.items():
            with connect(server_port) as admin:
                admin.run(f"CREATE DATABASE {name}_{run}")
            if name == OURS:
                migrate(url_of(server_port, f"{name}_{run}"))
            found[name] = Peer(stack.enter_context(process(run_peer, module, url_of(port, f"{name}_{run}"))))
        yield found


def migrate(url: str) -> None:
    """Our schema; in another process, so that `handler` is imported into no other peer's."""
    command = [sys.executable, "-m", "handler.migrate"]
    subprocess.run(command, env=os.environ | {"DATABASE_URL": url}, stdout=subprocess.DEVNULL, check=True)


def count_round_trips(server_port: int, progress: Progress) -> dict[str, dict[str, str]]:
    """For each kind of request and each peer: the round trips of one, as text (`2`, or `2-3` where they differ)."""
    counts: dict[str, dict[str, str]] = {}
    with Proxy(("127.0.0.1", server_port)) as proxy, peers(server_port, proxy.port, "counted") as found:

        def count(peer: Peer, kind: str) -> int:
            with proxy.counting() as counted:
                peer.run(kind, 1)
            return counted.round_trips

        for kind in KINDS:
            for name, peer in found.items():
                peer.run(kind if kind != "DELETE" else "POST", COUNTED + 1)
                peer.run(kind, 1)
                seen = sorted({count(peer, kind) for _ in range(COUNTED)})
                counts.setdefault(kind, {})[name] = "-".join(str(number) for number in (seen[0], seen[-1])[: len(seen)])
                progress.show()
        time.sleep(IDLE)
        counts[f"GET after {IDLE} s of silence"] = {name: str(count(peer, "GET")) for name, peer in found.items()}
    return counts


def measure(found: dict[str, Peer], seconds: float, progress: Progress) -> dict[str, dict[str, list[float]]]:
    """The seconds of every request, by kind and peer: in batches, by turns, each kind's first peer alternating."""
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in found} for kind in KINDS}
    order = list(found)
    for _ in range(WARM_UP):
        for kind in KINDS:
            for name in order:
                found[name].run(kind, BATCH)
            progress.show()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for kind in KINDS:
            for name in order:
                times[kind][name] += found[name].run(kind, BATCH)
            order.reverse()  # an odd number of kinds: the next round starts each with the other
            progress.show()
    return times


def one_round_trip(port: int) -> float:
    """Seconds that SELECT 1 takes: what the network costs."""
    with connect(port) as connection:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            connection.run("SELECT 1")
            times.append(time.perf_counter() - start)
    return median(times)


@contextmanager
def connect(port: int) -> Iterator[pg8000.native.Connection]:
    connection = pg8000.native.Connection("postgres", host="127.0.0.1", port=port, database="postgres")
    try:
        yield connection
    finally:
        connection.close()


def url_of(port: int, database: str) -> str:
    return f"postgresql+pg8000://postgres@127.0.0.1:{port}/{database}"


@contextmanager
def postgres() -> Iterator[int]:
    """An embedded PostgreSQL with its defaults; the TCP port that it listens on."""
    with tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with server(Path(folder) / "data", "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}"):
            yield port


def table_of_times(times: dict[str, dict[str, list[float]]], limit: float) -> str:
    rows: list[tuple[Any, ...]] = [("Median, ms", *PEERS, "ratio", "at most", "of lower quartiles", "requests of each")]
    for kind, by_peer in times.items():
        medians = {name: median(seconds) for name, seconds in by_peer.items()}
        ratio = f"{medians[OURS] / medians[THEIRS]:.2f}"
        # On a machine with other work the scheduler favours the tutorial, whose every thread starts on the idler core.
        lower = {name: quantiles(seconds)[0] for name, seconds in by_peer.items()}
        quiet = f"{lower[OURS] / lower[THEIRS]:.2f}"
        shown = [f"{seconds * 1000:.2f}" for seconds in medians.values()]
        rows.append((kind, *shown, ratio, limit if kind in ("GET", "POST") else "", quiet, len(by_peer[OURS])))
    return table(*rows)


def run(seconds: float) -> str:
    """The whole part, of which `seconds` go into timing. Returns the section's text."""
    progress = Progress(BESIDE + seconds)
    times = {}
    round_trip = {}
    with postgres() as port:
        with connect(port) as connection:
            machine = f"{describe_machine(connection)} with its defaults (a COMMIT waits for the disk)."
        counts = count_round_trips(port, progress)
        with process(run_network, ("127.0.0.1", port), LATENCY) as network:
            for name, through, share in (("loopback", port, 0.35), ("1 ms", network.recv(), 0.65)):
                round_trip[name] = one_round_trip(through) * 1000
                with peers(port, through, name.replace(" ", "")) as found:
                    times[name] = measure(found, seconds * share, progress)
    progress.done()
    rows: list[tuple[Any, ...]] = [("Round trips", *PEERS)]
    rows += [(kind, *by_peer.values()) for kind, by_peer in counts.items()]
    return f"""`make bench-warm` (`python -m benchmarks.warm --seconds {seconds:g}`) on {machine}

Ours is `handler.main`, the tutorial `benchmarks/peers/tutorial.py` on stock pg8000. Each runs in a process of its own
with a database of its own and gets the same API Gateway events, {BATCH} at a time by turns, in an alternating order.

Round trips to the database of one warm request, counted by a proxy, the same {COUNTED} times of {COUNTED} unless two
numbers are given. That a connection is alive is checked in ours, at no round trip unless it was silent for 1 s.

{table(*rows)}

Time of one warm request, from the event to the answer. Where the ratio of the medians and that of the lower quartiles
differ, the machine had other work: measure again. On loopback (`SELECT 1` takes {round_trip["loopback"]:.2f} ms):

{table_of_times(times["loopback"], LIMITS["loopback"])}

With 0.5 ms of network each way, by a proxy in its own process (`SELECT 1` takes {round_trip["1 ms"]:.2f} ms):

{table_of_times(times["1 ms"], LIMITS["1 ms"])}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=45, help="for the timing, the rest not included (%(default)s)")
    text = run(parser.parse_args().seconds)
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")


if __name__ == "__main__":
    main()
