"""1 to 64 environments on one PostgreSQL with 40 connections, with and without PgBouncer. `make bench-scale`.

Each environment is a process with a Lambda handler, which serves one request at a time, and a client, which sends the
next request after each response and tries again later after a 503. Measured are throughput, the 99th percentile and the
connections. This project must return only correct responses and the documented 503.
"""

import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import count
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any, NamedTuple

import psutil

from benchmarks.handlers import Event, configure, get, patch, post
from benchmarks.report import Result, describe_machine, main, say, table
from local.events import Context, HttpResponse, http_response
from tests.support.environments import (
    MAX_CONNECTIONS,
    ROLE,
    connect,
    create_role,
    is_unavailable,
    migrate,
    postgres,
    process,
    role_url,
    url_of,
)
from tests.support.pgbouncer import binary, pgbouncer
from tests.support.ports import reserved_port

STEPS = (1, 2, 4, 8, 16, 32, 64)
SEEDED = 200  # items
BUDGET = MAX_CONNECTIONS - 3 - 1  # superuser_reserved_connections, and the connection that reads pg_stat_activity
POOL = 20  # connections that PgBouncer has to the server
MIX = ("GET",) * 7 + ("list of 50", "POST", "PATCH")
OURS, THEIRS = "handler.main", "benchmarks.peers.tutorial"
SERIES = {
    "ours": (OURS, False),
    "ours, behind PgBouncer": (OURS, True),
    "tutorial": (THEIRS, False),
    "tutorial, behind PgBouncer": (THEIRS, True),
}
LOOK_EVERY = 0.02  # seconds between two reads of pg_stat_activity
Pattern = re.Pattern[bytes]


class Share(NamedTuple):
    """The results of one environment in a step."""

    seconds: list[float]  # times of the correct responses
    unavailable: int  # the documented 503
    errors: Counter[str]  # all other responses and errors
    processor: float  # processor time of the process in seconds


class Step(NamedTuple):
    """The results of all environments in a step."""

    shares: list[Share]
    connections: int  # the maximum number of connections, of the environments or of the pooler
    database: float  # processor seconds of the server

    @property
    def unavailable(self) -> int:
        """The number of environments that got a documented 503."""
        return sum(bool(share.unavailable) for share in self.shares)

    @property
    def errors(self) -> Counter[str]:
        return sum((share.errors for share in self.shares), Counter[str]())


def requests(number: int) -> Iterator[tuple[Event, Pattern]]:
    """Yield the requests of a client without end, each with a part of the body of a correct response."""
    choice = random.Random(number)  # noqa: S311 - the same requests in every run
    for turn in count():
        kind, item, text = choice.choice(MIX), choice.randint(1, SEEDED), f"{number}-{turn}"
        found = f'^{{"id":{item},"name":"Item {item}"'
        match kind:
            case "GET":
                yield get(f"/items/{item}"), re.compile(found.encode())
            case "PATCH":
                yield patch(f"/items/{item}", text), re.compile(f"{found}.*{text}".encode())
            case "POST":
                yield post(f"Item of {text}"), re.compile(f'^{{"id":.*"Item of {text}'.encode())
            case _:
                yield get("/items/"), re.compile(rb'(?:"id":\d+,"name":"Item .*?){50}')


def run_environment(connection: Connection, module: str, url: str, number: int) -> None:
    """At each message, prepare and then send requests from `start` to `end`, until the connection closes."""
    configure(url)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # the handler logs each 503
    todo = requests(number)
    with suppress(EOFError):
        while True:
            connection.recv()
            one_request(module, *next(todo))  # imports the handler and connects
            connection.send("ready")
            start, end = connection.recv()
            time.sleep(max(0, start - time.monotonic()))
            connection.send(be_busy(module, todo, end))


def be_busy(module: str, todo: Iterator[tuple[Event, Pattern]], end: float) -> Share:
    seconds: list[float] = []
    unavailable, errors, processor = 0, Counter[str](), time.process_time()
    while time.monotonic() < end:
        began = time.perf_counter()
        response, is_right = one_request(module, *next(todo))
        if is_right:
            seconds.append(time.perf_counter() - began)
            continue
        if is_unavailable(response):
            unavailable += 1
        elif not response.status:
            errors[response.body.decode()] += 1
        else:
            errors[f"a wrong {response.status}" if response.status < 300 else str(response.status)] += 1
        time.sleep(min(1, max(0, end - time.monotonic())))
    return Share(seconds, unavailable, errors, time.process_time() - processor)


def one_request(module: str, event: Event, right: Pattern) -> tuple[HttpResponse, bool]:
    """Return the response, and whether it is 2xx and correct. Like Lambda, repeat an import that failed."""
    try:
        handler = import_module(module).handler
    except Exception as error:  # noqa: BLE001 - any error of its import
        return HttpResponse(0, [], f"no start: {type(error).__name__}".encode()), False
    response = http_response(handler(event, Context()))
    return response, 200 <= response.status < 300 and right.search(response.body) is not None


def seed(connection: Connection, module: str, url: str) -> None:
    """Create the items through the handler, in another process."""
    configure(url)
    for number in range(1, SEEDED + 1):
        response, is_right = one_request(module, post(f"Item {number}"), re.compile(b'^{"id":%d,' % number))
        assert is_right, response
    connection.send("done")


@contextmanager
def watching(url: str) -> Iterator[Callable[[], int]]:
    """Read pg_stat_activity during the block. The yielded function returns the maximum since its last call."""
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        with connect(url) as admin:
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
    """Return the processor time of the present server processes, in seconds. They do not change during a step."""
    total = 0.0
    for one in [postmaster, *postmaster.children()]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def run_series(name: str, seconds: float) -> tuple[str, dict[int, Step]]:
    """Run every step with the environments of the previous step and new ones. Returns the steps and the machine."""
    module, is_pooled = SERIES[name]
    with postgres("-c", f"max_connections={MAX_CONNECTIONS}") as admin_url, ExitStack() as stack:
        create_role(admin_url)
        with connect(admin_url) as admin:
            machine = describe_machine(admin)
            admin.run(f"GRANT CREATE ON SCHEMA public TO {ROLE}")  # the tutorial creates its table itself
            postmaster = psutil.Process(psutil.Process(admin.run("SELECT pg_backend_pid()")[0][0]).ppid())
        if module == OURS:
            migrate(admin_url)
        url = role_url(admin_url)
        with process(seed, module, url) as seeder:
            seeder.recv()
        if is_pooled:
            port = stack.enter_context(reserved_port())
            upstream = url_of(url, "postgres")  # without the name of the driver
            stack.enter_context(pgbouncer(upstream, port, pool_size=POOL, max_client_conn=200))
            url = role_url(admin_url, port)
        most = stack.enter_context(watching(admin_url))
        environments = [
            stack.enter_context(process(run_environment, module, url, number, method="forkserver"))
            for number in range(STEPS[-1])
        ]
        steps = {}
        for number in STEPS:
            say(f"scale: {name}, {number} environments")
            most()
            for one in environments[:number]:
                one.send("get ready")
            for one in environments[:number]:
                one.recv()
            start = time.monotonic() + 0.1
            for one in environments[:number]:
                one.send((start, start + seconds))
            time.sleep(max(0, start - time.monotonic()))
            database = processor_time(postmaster)
            time.sleep(seconds)
            database = processor_time(postmaster) - database
            steps[number] = Step([one.recv() for one in environments[:number]], most(), database)
        return machine, steps


HEAD = (
    *("environments", "requests/s", "median, ms", "p99, ms", "connections"),
    *("503", "environments with 503", "errors", "processor, ms", "database's, ms"),
)


def row_of(number: int, step: Step, seconds: float, budget: int) -> tuple[Any, ...]:
    times = [one for share in step.shares for one in share.seconds]
    unavailable = sum(share.unavailable for share in step.shares)
    total = len(times) + unavailable + step.errors.total()
    return (
        number,
        f"{len(times) / seconds:,.0f}",
        f"{median(times) * 1000:.2f}",
        f"{quantiles(times, n=100)[98] * 1000:.2f}",
        f"{step.connections} of {budget}",
        f"{unavailable} of {total:,}" if unavailable else 0,
        step.unavailable,
        ", ".join(f"{times} x {error}" for error, times in step.errors.items()) or 0,
        f"{sum(share.processor for share in step.shares) / total * 1000:.2f}",
        f"{step.database / total * 1000:.2f}",
    )


def faults(name: str, steps: dict[int, Step], budget: int, is_pooled: bool) -> Iterator[str]:
    """Yield the rules that this project violated."""
    for number, step in steps.items():
        where = f"{name}, {number} environments"
        if step.errors:
            yield f"{where}: {dict(step.errors)}"
        if step.connections > budget:
            yield f"{where}: {step.connections} connections, above {budget}"
        if step.unavailable != max(0, 0 if is_pooled else number - budget):
            yield f"{where}: {step.unavailable} environments got 503"


def run(seconds: float) -> Result:
    if binary() is None:
        sys.exit("bench-scale: PgBouncer is not installed: apt-get install pgbouncer")
    machine = ""
    texts, failures = list[str](), list[str]()
    for name, (module, is_pooled) in SERIES.items():
        budget = POOL if is_pooled else BUDGET
        described, steps = run_series(name, seconds)
        machine = machine or described
        rows = [row_of(number, step, seconds, budget) for number, step in steps.items()]
        texts.append(f"{name.capitalize()}:\n\n{table(HEAD, *rows)}".replace("pgbouncer", "PgBouncer"))
        if module == OURS:
            failures += faults(name, steps, budget, is_pooled)
    tables = "\n\n".join(texts)
    section = f"""{machine} with
max_connections={MAX_CONNECTIONS}, of which 3 are reserved for superusers and 1 reads pg_stat_activity: the budget is
{BUDGET}. Behind PgBouncer (transaction pooling, as RDS Proxy does it) it is the {POOL} that its pool may have.

An environment is a process with the handler, which serves one request at a time, and a client, which sends the next
request after each response, and waits for a second after a response that is not 2xx, as Retry-After says. Of ten
requests {MIX.count("GET")} are GET, and one each is a list of 50, a POST and a PATCH. Each step takes {seconds:g} s,
over loopback. Environments, pooler and database share the machine's cores, so with more environments than cores a
request waits for a core, and the throughput should stay constant. "connections" is the maximum in pg_stat_activity,
read every {LOOK_EVERY * 1000:g} ms. "503" counts the documented 503; all other responses are errors, also a wrong body.
"processor" is the processor time of the environment for one request, "database's" that of the server.

{tables}"""
    return Result(section, f"{texts[0]}\n\n{texts[2]}", tuple(failures))


if __name__ == "__main__":
    main("scale", "Scale", run, seconds=5.0)
