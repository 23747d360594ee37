"""1 to 64 environments on one PostgreSQL with 40 connections, with and without PgBouncer. `make bench-scale`.

Each environment is a process with a Lambda handler that serves one request at a time, and the client who sends it the
next when it has the answer; a client that is told to come back later does. What is looked at: that nothing but right
answers and the documented 503 comes back, how many connections there are, throughput, and the 99th percentile.
"""

import argparse
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import count
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any, NamedTuple

import psutil

from benchmarks.environments import MAX_CONNECTIONS, ROLE, Postgres, connect, migrate, new_server, process, url_of
from benchmarks.report import Progress, describe_machine, table, write_section
from local.events import Context, HttpResponse, http_event, http_response
from tests.support.pgbouncer import pgbouncer, reserved_port

TITLE = "Scale"
STEPS = (1, 2, 4, 8, 16, 32, 64)
SEEDED = 200  # items
BUDGET = MAX_CONNECTIONS - 3 - 1  # superuser_reserved_connections, and the one that looks at pg_stat_activity
POOL = 20  # connections that PgBouncer has to the server
MIX = ("GET",) * 7 + ("list of 50", "POST", "PATCH")
OURS, THEIRS = "handler.main", "benchmarks.peers.tutorial"
SERIES = {
    "ours": (OURS, False),
    "ours, behind PgBouncer": (OURS, True),
    "tutorial": (THEIRS, False),
    "tutorial, behind PgBouncer": (THEIRS, True),
}
LOOK_EVERY = 0.02  # seconds between two looks at pg_stat_activity
START_UP = 25  # seconds that a series takes besides its steps, about


class Share(NamedTuple):
    """What one environment did in a step."""

    seconds: list[float]  # of the requests that were answered 2xx and right
    refused: int  # the documented 503
    errors: Counter[str]  # anything else
    processor: float  # seconds of its own


class Step(NamedTuple):
    """What all environments did in a step."""

    environments: int
    elapsed: float
    shares: list[Share]
    connections: int  # the most that there were, the environments' or the pooler's
    database: float  # processor seconds of the server

    @property
    def seconds(self) -> list[float]:
        return [one for share in self.shares for one in share.seconds]

    @property
    def errors(self) -> Counter[str]:
        return sum((share.errors for share in self.shares), Counter[str]())


def requests(number: int) -> Iterator[tuple[dict[str, Any], "re.Pattern[bytes]"]]:
    """The endless requests of a client, each with what is in a right answer's body."""
    choice = random.Random(number)  # noqa: S311 - the same requests in every run
    json = [("content-type", "application/json")]
    for turn in count():
        kind, item = choice.choice(MIX), choice.randint(1, SEEDED)
        it, text = b'^{"id":%d,"name":"Item %d"' % (item, item), b"%d-%d" % (number, turn)
        match kind:
            case "GET":
                yield http_event("GET", f"/items/{item}", "", [], b""), re.compile(it)
            case "PATCH":
                body = b'{"description": "%b"}' % text
                yield http_event("PATCH", f"/items/{item}", "", json, body), re.compile(it + b".*" + text)
            case "POST":
                body = b'{"name": "Item of %b"}' % text
                yield http_event("POST", "/items/", "", json, body), re.compile(b'^{"id":.*"Item of ' + text)
            case _:
                yield http_event("GET", "/items/", "", [], b""), re.compile(rb'(?:"id":\d+,"name":"Item .*?){50}')


def is_documented(answer: HttpResponse) -> bool:
    """The 503 of README.md: a problem, with the time after which to try again."""
    headers = dict(answer.headers)
    return (
        answer.status == 503
        and headers.get("content-type") == "application/problem+json"
        and headers.get("retry-after", "").isdigit()
    )


def run_environment(connection: Connection, module: str, url: str, number: int) -> None:
    """In its own process: get ready when told to, then be busy from `start` to `end`, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none"}
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # where the handler logs each refusal
    todo = requests(number)
    try:
        while True:
            connection.recv()
            one_request(module, *next(todo))  # imports the handler and connects
            connection.send("ready")
            start, end = connection.recv()
            time.sleep(max(0, start - time.monotonic()))
            connection.send(be_busy(module, todo, end))
    except EOFError:
        pass


def be_busy(module: str, todo: Iterator[tuple[dict[str, Any], "re.Pattern[bytes]"]], end: float) -> Share:
    seconds: list[float] = []
    refused, errors, processor = 0, Counter[str](), time.process_time()
    while time.monotonic() < end:
        began = time.perf_counter()
        answer, is_right = one_request(module, *next(todo))
        if is_right:
            seconds.append(time.perf_counter() - began)
            continue
        if is_documented(answer):
            refused += 1
        else:
            errors[name_of(answer)] += 1
        time.sleep(min(1, max(0, end - time.monotonic())))
    return Share(seconds, refused, errors, time.process_time() - processor)


def name_of(error: HttpResponse) -> str:
    if not error.status:
        return error.body.decode()
    return f"a wrong {error.status}" if error.status < 300 else str(error.status)


def one_request(module: str, event: dict[str, Any], right: "re.Pattern[bytes]") -> tuple[HttpResponse, bool]:
    """The answer, and whether it is 2xx and right. Like Lambda, imports again what could not be imported."""
    try:
        handler = import_module(module).handler
    except Exception as error:  # noqa: BLE001 - whatever its import raises
        return HttpResponse(0, [], f"no start: {type(error).__name__}".encode()), False
    answer = http_response(handler(event, Context()))
    return answer, 200 <= answer.status < 300 and right.search(answer.body) is not None


@contextmanager
def environments(module: str, url: str) -> Iterator[list[Connection]]:
    """As many as the largest step needs, and their connections; none has imported its handler yet."""
    with ExitStack() as stack:
        yield [stack.enter_context(process(run_environment, module, url, number)) for number in range(STEPS[-1])]


@contextmanager
def watching(postgres: Postgres) -> Iterator[Callable[[], int]]:
    """Looks at pg_stat_activity all the time; the function returns the most connections of ROLE since its last call."""
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        with connect(postgres.admin_url) as admin:
            while not over.wait(LOOK_EVERY):
                most = max(most, admin.run(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'")[0][0])

    def read() -> int:
        nonlocal most
        found, most = most, 0
        return found

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield read
    finally:
        over.set()
        thread.join()


def processor_time(postmaster: psutil.Process) -> float:
    """Seconds of the server's processes that are there; none of the environments' goes during a step."""
    total = 0.0
    for one in [postmaster, *postmaster.children()]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def seed(connection: Connection, module: str, url: str) -> None:
    """In a process of its own: the items, through the handler."""
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none"}
    handler = import_module(module).handler
    for number in range(1, SEEDED + 1):
        body = b'{"name": "Item %d"}' % number
        event = http_event("POST", "/items/", "", [("content-type", "application/json")], body)
        answer = http_response(handler(event, Context()))
        assert re.match(b'{"id":%d,' % number, answer.body), answer
    connection.send("done")


def run_series(module: str, pooled: bool, seconds: float, progress: Progress) -> list[Step]:
    """Every step, each with the environments of the one before and as many new ones."""
    with new_server() as postgres, ExitStack() as stack:
        with connect(postgres.admin_url) as admin:
            admin.run(f"GRANT CREATE ON SCHEMA public TO {ROLE}")  # the tutorial makes its table itself
        if module == OURS:
            migrate(postgres.admin_url)
        with process(seed, module, postgres.url) as seeder:
            seeder.recv()
        url = postgres.url
        if pooled:
            port = stack.enter_context(reserved_port())
            stack.enter_context(pgbouncer(postgres.url, port, pool_size=POOL, max_client_conn=200))
            url = url_of(postgres.admin_url, port)
        with connect(postgres.admin_url) as admin:
            postmaster = psutil.Process(psutil.Process(admin.run("SELECT pg_backend_pid()")[0][0]).ppid())
        most = stack.enter_context(watching(postgres))
        all_of_them = stack.enter_context(environments(module, url))
        steps = []
        for number in STEPS:
            most()
            for one in all_of_them[:number]:
                one.send("get ready")
            for one in all_of_them[:number]:
                one.recv()
            start = time.monotonic() + 0.1
            for one in all_of_them[:number]:
                one.send((start, start + seconds))
            time.sleep(max(0, start - time.monotonic()))
            database = processor_time(postmaster)
            time.sleep(seconds)
            database = processor_time(postmaster) - database
            shares = [one.recv() for one in all_of_them[:number]]
            steps.append(Step(number, seconds, shares, most(), database))
            progress.show()
        return steps


def row_of(step: Step, pooled: bool) -> tuple[Any, ...]:
    seconds = step.seconds
    refused = [share.refused for share in step.shares if share.refused]
    answered = len(seconds) + sum(refused) + step.errors.total()
    p99 = quantiles(seconds, n=100)[98]
    return (
        step.environments,
        f"{len(seconds) / step.elapsed:,.0f}",
        f"{median(seconds) * 1000:.2f}",
        f"{p99 * 1000:.2f}",
        f"{step.connections} of {POOL if pooled else BUDGET}",
        f"{sum(refused)} of {answered:,}" if refused else 0,
        len(refused),
        ", ".join(f"{number} x {error}" for error, number in step.errors.items()) or 0,
        f"{sum(share.processor for share in step.shares) / answered * 1000:.2f}",
        f"{step.database / answered * 1000:.2f}",
    )


HEAD = (
    *("environments", "requests/s", "median, ms", "p99, ms", "connections"),
    *("503", "environments with 503", "errors", "processor, ms", "database's, ms"),
)


def faults(series: str, steps: list[Step]) -> list[str]:
    """What must not be, of ours."""
    _, pooled = SERIES[series]
    budget = POOL if pooled else BUDGET
    found = []
    for step in steps:
        where = f"{series}, {step.environments} environments"
        if step.errors:
            found.append(f"{where}: {dict(step.errors)}")
        if step.connections > budget:
            found.append(f"{where}: {step.connections} connections, above {budget}")
        refused = sum(bool(share.refused) for share in step.shares)
        if refused != max(0, 0 if pooled else step.environments - budget):
            found.append(f"{where}: {refused} environments were answered 503")
    return found


def run(seconds: float) -> tuple[str, list[str]]:
    """The section's text, and what must not be."""
    progress = Progress(len(SERIES) * (START_UP + len(STEPS) * (seconds + 1)))
    with new_server() as postgres, connect(postgres.admin_url) as admin:
        machine = describe_machine(admin)
    texts, wrong = [], []
    for series, (module, pooled) in SERIES.items():
        steps = run_series(module, pooled, seconds, progress)
        texts.append(f"{series[0].upper()}{series[1:]}:\n\n{table(HEAD, *(row_of(step, pooled) for step in steps))}")
        if module == OURS:
            wrong += faults(series, steps)
    progress.done()
    tables = "\n\n".join(texts)
    text = f"""`make bench-scale` (`python -m benchmarks.scale --seconds {seconds:g}`) on {machine} with
max_connections={MAX_CONNECTIONS}, of which 3 are kept for superusers and 1 looks: the budget is {BUDGET}.
Behind PgBouncer (transaction pooling, as RDS Proxy does it) it is the {POOL} that its pool may have.

An environment is a process with the handler that serves one request at a time, and a client who sends the next when it
has the answer, and waits a second after any that is not 2xx, as Retry-After says. Of ten requests {MIX.count("GET")}
are GET, and a list of 50, a POST and a PATCH; over loopback, {seconds:g} s at each step. Environments, pooler and
database share the machine's cores: beyond as many environments as cores a request's time is its turn's, and the
throughput should stay. "connections" is the most that pg_stat_activity showed, looked at every {LOOK_EVERY * 1000:g}
ms. A 503 is the documented one; anything else is an error, a wrong body too. "processor" is what a request took of its
environment, "database's" of the server.

{tables}"""
    return text, wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="for each step (%(default)s)")
    text, wrong = run(parser.parse_args().seconds)
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")
    if wrong:
        sys.exit("scale: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
