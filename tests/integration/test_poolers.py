"""Poolers: results through PgBouncer in transaction mode are correct, and no statement would pin RDS Proxy.

The causes of pinning are in the Amazon RDS user guide, "Avoiding pinning an RDS Proxy". RDS Proxy cannot run here, so
the tests record the messages that it would receive.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import pg8000.native
import pytest
from pg8000 import dbapi
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.exc import DBAPIError

from handler.database.connection import connect, make_engine
from handler.database.deadline import timeout_after
from handler.database.driver.connection import Connection
from handler.database.engine import engine
from handler.settings import read_database_settings
from local.postgres import over_tcp
from tests.support.database import connect as connect_directly
from tests.support.database import socket_path, temporary_database
from tests.support.migrated import migrate
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.pool import has_unread, lie_idle, pooled, socket_of
from tests.support.ports import reserved_port
from tests.support.probe.models import Probe
from tests.support.proxy import Pipe, ProxiedConnection, Proxy

ROOT = Path(__file__).parents[2]
PROCESSES = 8
ROUNDS = 34  # of some six requests, in each process
THREADS = 8
CONNECTIONS = 3  # in each thread
STEPS = 200  # in each thread


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture
def pooler(port: int) -> Iterator[str]:
    """The URL of the worker's database through a PgBouncer with two connections."""
    with pgbouncer(os.environ["DATABASE_URL"], port) as url:
        yield url


@contextmanager
def redirected(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A function that makes the handler's engine connect to a port."""
    engine.dispose()
    with monkeypatch.context() as patch:
        patch.setattr("handler.database.connection.address_of", lambda *_: ("127.0.0.1", port, None))
        yield
        engine.dispose()


@contextmanager
def console(port: int) -> Iterator[pg8000.native.Connection]:
    password = read_database_settings(os.environ).password
    connection = pg8000.native.Connection(
        "postgres", password=password, host="127.0.0.1", port=port, database="pgbouncer"
    )
    try:
        yield connection
    finally:
        connection.close()


def open_connection(url: str) -> Connection:
    return connect(read_database_settings({"DATABASE_URL": url}))


def wait_until(condition: Callable[[], object], timeout: float = 5) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@needs_pgbouncer
@pytest.mark.parametrize("password", [None, "guess"])
def test_pgbouncer_listens_on_loopback_and_requires_the_password(password: str | None, pooler: str) -> None:
    settings = read_database_settings({"DATABASE_URL": pooler})
    assert settings.host == "127.0.0.1"
    connect(settings).close()
    with pytest.raises(dbapi.OperationalError, match=r"28P01|08P01|the server asks for a password"):
        connect(settings.model_copy(update={"password": password}))


# ---------------------------------------------------------------- results through PgBouncer

MANY = f"""
import multiprocessing, sys
import fastapi, mangum, pg8000, pytest, sqlalchemy.orm  # imported once for all processes, because it takes long

def work(number):
    from tests.integration.test_poolers import use_the_service
    use_the_service(number)

context = multiprocessing.get_context("fork")
processes = [context.Process(target=work, args=(number,)) for number in range({PROCESSES})]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(any(process.exitcode for process in processes))
"""


def use_the_service(number: int) -> None:
    """The requests of each process. Reads and lists are in AUTOCOMMIT, the others are transactions."""
    # Imported after the fork, because the import creates the handler's event loop.
    from tests.support.client import call, listed
    from tests.support.cursors import probe_cursor

    for cycle in range(ROUNDS):
        token = f"{number}-{cycle}-{random.random()}"
        created = call("POST", "/probes/", {"name": token})
        assert (created.status, created.json["name"]) == (201, token), created
        path = f"/probes/{created.json['id']}"
        assert call("GET", path).json == created.json
        cursor = probe_cursor(UUID(int=UUID(created.json["id"]).int + 1))
        page = call("GET", "/probes/", query=f"limit=1&cursor={cursor}")
        assert listed(page) == [created.json]
        changed = call("PATCH", path, {"note": token})
        assert (changed.status, changed.json["note"], changed.json["version"]) == (200, token, 2), changed
        assert call("GET", path).json == created.json | changed.json
        if cycle % 2:
            assert call("DELETE", path).status == 204
            assert call("GET", path).status == 404


@needs_pgbouncer
def test_many_processes_on_two_connections_get_their_own_results(pooler: str, port: int, database: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MANY],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": pooler},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert database.run("SELECT count(*), count(DISTINCT name) FROM probes") == [[PROCESSES * ROUNDS // 2] * 2]
    with console(port) as admin:
        assert len(admin.run("SHOW SERVERS")) == 2


def take_steps(url: str, seed: int) -> int:
    """Execute statements of all kinds, in turn on several connections. Returns the number of stored rows."""
    choice, stored = random.Random(seed), 0
    connections = [open_connection(url) for _ in range(CONNECTIONS)]
    for step in range(STEPS):
        connection, token = choice.choice(connections), f"{seed}-{step}"
        kind = choice.choice(["read", "plain read", "write", "commit", "rollback", "refused", "failed transaction"])
        connection.autocommit = kind in {"read", "plain read", "write", "refused"}
        connection.read_only = kind == "read"
        connection.isolation_level = "SERIALIZABLE" if kind == "rollback" else None
        cursor = connection.cursor()
        where = "SELECT %s, current_setting('transaction_isolation'), current_setting('transaction_read_only')"
        if kind == "read":
            assert cursor.execute(where, (token,)).fetchall() == ([token, "read committed", "on"],)
        elif kind == "plain read":
            assert cursor.execute(f"SELECT '{token}'").fetchall() == ([token],)
        elif kind == "write":
            cursor.execute("INSERT INTO probes (name) VALUES (%s) RETURNING name", (token,))
            assert cursor.fetchall() == ([token],)
            stored += 1
        elif kind == "refused":
            with pytest.raises(dbapi.IntegrityError) as refused:
                cursor.execute("INSERT INTO probes (name) VALUES (%s)", (" ",))
            assert refused.value.args[0]["n"] == "ck_probes_name_not_blank"
        else:
            level = "serializable" if kind == "rollback" else "read committed"
            transaction = "SELECT %s, pg_backend_pid(), pg_current_xact_id()::text"
            [(mine, *first)] = cursor.execute(transaction, (token,)).fetchall()
            cursor.execute("INSERT INTO probes (name) VALUES (%s)", (token,))
            assert cursor.execute(where, (token,)).fetchall() == ([token, level, "off"],)
            assert cursor.execute(f"SELECT name FROM probes WHERE name = '{token}'").fetchall() == ([token],)
            assert [[mine, *first]] == [[token, *row[1:]] for row in cursor.execute(transaction, (token,)).fetchall()]
            if kind == "failed transaction":
                with pytest.raises(dbapi.DataError):
                    cursor.execute("SELECT 1 / %s::int", (0,))
            if kind == "commit":
                connection.commit()
                stored += 1
            else:
                connection.rollback()
    for connection in connections:
        connection.close()
    return stored


@needs_pgbouncer
def test_statements_of_many_connections_interleave_in_and_outside_of_transactions(pooler: str, database: Any) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        stored = sum(threads.map(lambda seed: take_steps(pooler, seed), range(THREADS)))
    assert database.run("SELECT count(*), count(DISTINCT name) FROM probes") == [[stored] * 2]


@needs_pgbouncer
def test_migrations_run_behind_the_pooler(port: int, server_url: str) -> None:
    with temporary_database(server_url, "pooled_" + os.environ.get("PYTEST_XDIST_WORKER", "main")) as url:
        with pgbouncer(url, port) as pooled_url:
            migrate(pooled_url)
            migrate(pooled_url)
        with connect_directly(url) as connection:
            assert connection.run("SELECT count(*) FROM probes") == [[0]]


# ---------------------------------------------------------------- statements that exceed their deadline


@needs_pgbouncer
@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("values", [(), (30,)], ids=["plain", "with a parameter"])
def test_a_statement_that_exceeds_its_deadline_is_cancelled(
    autocommit: bool, values: tuple[int, ...], pooler: str, database: Any
) -> None:
    connection, other = open_connection(pooler), open_connection(pooler)
    connection.autocommit = other.autocommit = True
    other.run("SELECT 1")
    connection.autocommit = autocommit
    with timeout_after(0.2), pytest.raises(dbapi.DatabaseError) as raised:
        connection.run("SELECT pg_sleep(%s)" if values else "SELECT pg_sleep(30)", values)
    assert raised.value.args[0]["C"] == "57014"
    assert connection.closed
    running = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query ~ '(^|;)SELECT pg_sleep'"
    assert wait_until(lambda: database.run(f"{running} AND state = 'active'") == [], 2)
    # The cancel request stops no other statement.
    for number in range(20):
        assert other.run("SELECT %s::int", (number,)).rows == [[number]]
    other.close()


@needs_pgbouncer
def test_a_statement_that_exceeds_its_deadline_in_the_queue_never_runs(pooler: str, database: Any) -> None:
    busy = [open_connection(pooler), open_connection(pooler)]
    for connection in busy:
        connection.run("SELECT 1")  # in a transaction: both connections to the server are taken
    queued = open_connection(pooler)
    queued.autocommit = True
    with timeout_after(0.2), pytest.raises(dbapi.DatabaseError) as raised:
        queued.run("INSERT INTO probes (name) VALUES (%s)", ("late",))
    assert raised.value.args[0]["C"] == "57014"
    for connection in busy:
        connection.commit()
        assert connection.run("SELECT 1").rows == [[1]]
        connection.close()
    with closing(open_connection(pooler)) as after:
        after.autocommit = True
        assert after.run("SELECT count(*) FROM probes").rows == [[0]]
    assert database.run("SELECT count(*) FROM probes") == [[0]]


# ---------------------------------------------------------------- faults between two requests


class Event(NamedTuple):
    happen: Callable[[int, Any], object]
    settings: Mapping[str, Any] = MappingProxyType({})  # PgBouncer's


def reconnect(port: int, _: Any) -> None:
    with console(port) as admin:
        admin.run("RECONNECT")


def has_no_server(port: int, _: Any = None) -> bool:
    with console(port) as admin:
        return wait_until(lambda: admin.run("SHOW SERVERS") == [])


def lose_the_servers(port: int, database: Any) -> None:
    with console(port) as admin:
        for row in admin.run("SHOW SERVERS"):
            columns = [column["name"] for column in admin.columns]
            database.run(f"SELECT pg_terminate_backend({row[columns.index('remote_pid')]})")
    assert has_no_server(port)


def check_idle(*_: object) -> None:
    """Use the connection after it was idle for a minute. The idle check succeeds, and the connection is kept."""
    before = socket_of(pooled())
    lie_idle()
    engine.connect().close()
    assert socket_of(pooled()) is before


EVENTS = {
    "the idle check": Event(check_idle),
    "the engine is disposed": Event(lambda *_: engine.dispose()),
    "RECONNECT": Event(reconnect),
    "server_idle_timeout": Event(has_no_server, {"server_idle_timeout": 0.1}),
    "the server processes are terminated": Event(lose_the_servers),
    "client_idle_timeout": Event(lambda *_: wait_until(has_unread), {"client_idle_timeout": 0.2}),
}


@needs_pgbouncer
@pytest.mark.parametrize("event", EVENTS)
def test_faults_of_idle_connections_fail_no_request(
    event: str, port: int, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.client import call, create_probe

    happen, settings = EVENTS[event]
    with pgbouncer(os.environ["DATABASE_URL"], port, **settings), redirected(port, monkeypatch):
        created = create_probe("before")
        happen(port, database)
        assert call("GET", f"/probes/{created['id']}").json == created
        happen(port, database)
        assert call("PATCH", f"/probes/{created['id']}", {"name": "after"}).json["name"] == "after"
    assert database.run("SELECT name, version FROM probes") == [["after", 2]]


@needs_pgbouncer
@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_a_restart_of_the_pooler_fails_only_requests_while_it_is_down(
    method: str, port: int, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.client import call, create_probe

    upstream, body = os.environ["DATABASE_URL"], {"name": "after"} if method == "PATCH" else None
    with redirected(port, monkeypatch):
        with pgbouncer(upstream, port):
            path = f"/probes/{create_probe('before')['id']}"
        with pgbouncer(upstream, port):
            assert call(method, path, body).status == 200
        assert call(method, path, body).status == 503
        with pgbouncer(upstream, port):
            assert call(method, path, body).status == 200
    assert database.run("SELECT version FROM probes") == [[3 if method == "PATCH" else 1]]


@needs_pgbouncer
def test_requests_are_503_while_the_pooler_is_full(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.client import call

    with pgbouncer(os.environ["DATABASE_URL"], port, max_client_conn=1) as url, redirected(port, monkeypatch):
        held: list[Connection] = []
        while not held:  # until PgBouncer has closed the connection with which pgbouncer() checked it
            with suppress(dbapi.OperationalError):
                held.append(open_connection(url))
        with closing(held[0]):
            assert call("GET", "/probes/").status == 503
        assert wait_until(lambda: call("GET", "/probes/").status == 200)


# ---------------------------------------------------------------- messages that RDS Proxy rejects, or that pin it

# The statements that the service and SQLAlchemy may send, by their first word. SET, RESET, DISCARD, PREPARE, EXECUTE,
# DEALLOCATE, DECLARE, LISTEN, LOAD, LOCK and CREATE are not among them.
HARMLESS = {
    *("", "begin", "show", "commit", "rollback", "savepoint", "release"),
    *("select", "with", "insert", "update", "delete"),
}
PINNING_WORDS = re.compile(r"\b(set_config|nextval|setval|currval|pg_\w*advisory\w*|temp|temporary)\b", re.IGNORECASE)
# The startup parameters beside user and database. PgBouncer 1.18 tracks them (manual, "Transaction pooling" in its
# feature map), and RDS Proxy accepts the parameters that drivers of other languages send at each startup.
STARTUP = {"client_encoding", "DateStyle", "TimeZone"}
LONGEST_STATEMENT = 16 * 1024  # bytes
# The two messages of SCRAM, then each statement in one flush with one Sync, then Terminate.
CONVERSATION = re.compile(r"pp(Q|(PBE)*PBDE(PBE)?S)*X")


class Recorder(Proxy):
    """A proxy that records the data of each client."""

    def __init__(self, upstream: str | tuple[str, int]) -> None:
        self._sent: dict[ProxiedConnection, bytearray] = {}
        super().__init__(upstream)

    def conversations(self) -> list[bytes]:
        """The data of each connection until now."""
        with self.halted():
            return [bytes(sent) for sent in self._sent.values()]

    def record(self, connection: ProxiedConnection, pipe: Pipe, size: int) -> None:
        if pipe is connection.requests:
            self._sent.setdefault(connection, bytearray()).extend(pipe.chunks[-1][1])
        super().record(connection, pipe, size)


class Conversation(NamedTuple):
    """The messages of one client: PostgreSQL manual, 54.7 "Message Formats"."""

    startup: dict[str, str]
    codes: str
    statements: list[str]
    names: set[str]  # of statements and portals

    @classmethod
    def parse(cls, data: bytes) -> "Conversation":
        size = int.from_bytes(data[:4])
        assert data[4:8] == (196608).to_bytes(4), "protocol 3.0"
        words = data[8:size].removesuffix(b"\0\0").decode().split("\0")
        startup, codes = dict(zip(words[::2], words[1::2], strict=True)), ""
        statements: list[str] = []
        names: set[str] = set()
        while size < len(data):
            code, length = chr(data[size]), int.from_bytes(data[size + 1 : size + 5])
            body = data[size + 5 : size + 1 + length]
            assert len(body) == length - 4
            size += 1 + length
            codes += code
            strings = body.split(b"\0")
            if code == "Q":
                statements += strings[0].decode().split(";")  # no statement here has one inside a literal
            elif code == "P":
                names.add(strings[0].decode())
                statements.append(strings[1].decode())
            elif code == "B":
                names |= {strings[0].decode(), strings[1].decode()}
            elif code == "E":
                names.add(strings[0].decode())
            elif code in "DC":
                names.add(strings[0][1:].decode())
        return cls(startup, codes, statements, names)


def assert_harmless(conversation: Conversation) -> None:
    assert conversation.startup.keys() <= {"user", "database", "application_name", *STARTUP}
    assert CONVERSATION.fullmatch(conversation.codes), conversation.codes
    assert conversation.names <= {""}
    for statement in conversation.statements:
        assert (statement.split() or [""])[0].lower() in HARMLESS, statement
        assert not PINNING_WORDS.search(statement), statement
        assert len(statement.encode()) <= LONGEST_STATEMENT


def use_every_feature(life: Engine) -> None:
    """Use every feature of an engine, except disposing of it."""
    some = insert(Probe).values(name="some")
    with life.connect() as connection:
        connection.execute(select(Probe)).all()  # and rolls back on return to the pool
    with life.begin() as connection:
        connection.execute(some)
        connection.execute(insert(Probe), [{"name": "one"}, {"name": "two"}])
        with suppress(DBAPIError), connection.begin_nested():
            connection.execute(text("SELECT 1 / :zero"), {"zero": 0})
        with connection.begin_nested():
            connection.execute(text("SELECT 1"))
    for failing in (text("SELECT 1 / 0"), text("SELECT 1 / :zero").bindparams(zero=0)):
        with suppress(DBAPIError), life.begin() as connection:
            connection.execute(some)
            connection.execute(failing)
    options: dict[str, Any]
    for options in (
        {"isolation_level": "AUTOCOMMIT"},
        {"isolation_level": "READ COMMITTED"},
        {"isolation_level": "REPEATABLE READ"},
        {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True, "postgresql_deferrable": True},
        {"postgresql_readonly": True},
    ):
        with life.connect().execution_options(**options) as connection:
            connection.execute(select(Probe).where(Probe.name == "some")).all()
            connection.execute(text("SELECT 1"))
            connection.commit()
            with pytest.raises(DBAPIError):
                connection.execute(text("SELECT 1 / :zero"), {"zero": 0})


def use_every_route() -> None:
    from tests.support.client import call, create_probe

    path = f"/probes/{create_probe('Lamp', 'x' * 10_000)['id']}"
    for method, where, body, status in (
        ("GET", path, None, 200),
        ("GET", "/probes/", None, 200),
        ("PUT", path, {"name": "Lamp"}, 200),
        ("PATCH", path, {"name": "Lamp"}, 200),
        ("DELETE", path, None, 204),
        ("GET", path, None, 404),
        ("PATCH", path, {"name": "Lamp"}, 404),
        ("GET", "/health/ready", None, 200),
    ):
        assert call(method, where, body).status == status, (method, where)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    with Recorder(socket_path(os.environ["DATABASE_URL"])) as recorder, redirected(recorder.port, monkeypatch):
        yield recorder


def test_no_statement_of_an_engine_pins_a_proxy(recorder: Recorder) -> None:
    fresh = make_engine(read_database_settings(os.environ), pool_pre_ping=True)
    for one in (fresh, engine):
        use_every_feature(one)
        if one is engine:
            use_every_route()
            check_idle()
        one.dispose()
    assert wait_until(lambda: all(data.endswith(b"X\0\0\0\4") for data in recorder.conversations()))
    conversations = [Conversation.parse(data) for data in recorder.conversations()]
    assert len(conversations) == 2
    for conversation in conversations:
        assert_harmless(conversation)
    said = {
        statement.split(maxsplit=1)[0].lower() for one in conversations for statement in one.statements if statement
    }
    assert said == HARMLESS - {"", "with"}
    begins = [statement.lower() for statement in conversations[0].statements if statement.startswith("begin ")]
    assert "begin isolation level serializable read only deferrable" in begins
    assert "" in conversations[1].statements  # the idle check


def test_the_recorder_detects_statements_that_pin_a_proxy(recorder: Recorder) -> None:
    """Stock pg8000 does both: it names its statements and sends SET."""
    url = over_tcp(os.environ["DATABASE_URL"], recorder.port)
    stock = create_engine(url.replace("postgresql", "postgresql+pg8000", 1), connect_args={"ssl_context": False})
    with stock.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT :one"), {"one": "1"})
    stock.dispose()
    assert wait_until(lambda: all(data.endswith(b"X\0\0\0\4") for data in recorder.conversations()))
    [conversation] = map(Conversation.parse, recorder.conversations())
    assert any(statement.lower().startswith("set session") for statement in conversation.statements)
    assert not CONVERSATION.fullmatch(conversation.codes)
    with pytest.raises(AssertionError):
        assert_harmless(conversation)


# ---------------------------------------------------------------- session state

SESSION = {
    # The settings of pg_trgm exist after a search has loaded the extension.
    "settings": "SELECT name, setting, source FROM pg_settings WHERE name NOT LIKE 'pg\\_trgm.%' ORDER BY name",
    "prepared statements": "SELECT * FROM pg_prepared_statements",
    "cursors": "SELECT * FROM pg_cursors WHERE name <> ''",
    "channels": "SELECT pg_listening_channels()",
    "role and temporary schema": "SELECT session_user, current_user, current_schema, pg_my_temp_schema()",
}


def test_an_engine_leaves_no_state_in_its_session(database: Any) -> None:
    engine.dispose()
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    use_every_feature(engine)
    use_every_route()
    check_idle()
    [[state, locks]] = database.run(
        f"SELECT state, (SELECT count(*) FROM pg_locks WHERE pid = {pid}) FROM pg_stat_activity WHERE pid = {pid}"
    )
    assert (state, locks) == ("idle", 0)
    assert pooled().execute_simple("SELECT pg_backend_pid()").rows == [[pid]]
    with closing(open_connection(os.environ["DATABASE_URL"])) as fresh:
        for what, question in SESSION.items():
            assert pooled().execute_simple(question).rows == fresh.execute_simple(question).rows, what
