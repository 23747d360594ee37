"""After any steps, a connection to PostgreSQL is synchronized or closed, and the table equals its model.

After each step the connection is closed, or a query with a unique token returns that token. A second connection sees
exactly the rows that are committed in the model.
"""

import io
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pg8000.native
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pg8000 import dbapi

from handler.database.deadline import timeout_after
from handler.database.driver.connection import Connection
from handler.settings import read_database_settings
from tests.support.database import connect

LOST, LATE, STOPPED = ConnectionResetError("lost"), TimeoutError("late"), KeyboardInterrupt()
NAME = 19  # the oid of a type that no other step uses; reading its values fails
PATIENCE = 5.0  # the maximum seconds of a step, and until a server process ends whose client is gone
KEYS = st.integers(0, 4)
HOW = st.booleans()  # with parameters, or without


class Unsendable:
    def __str__(self) -> str:
        raise ValueError("no text")


# Statements that the driver rejects without sending them.
UNSENDABLE: dict[str, tuple[str, tuple[Any, ...]]] = {
    "lone surrogate": ("select %s", ("\ud800",)),
    "no text": ("select %s", (Unsendable(),)),
    "too many": ("select %s", (1,) * 65536),
    "no such placeholder": ("select %d", (1,)),
    "NUL in a query": ("select '\0'", ()),
    "NUL in a statement": ("select '\0', %s", (1,)),
    "surrogate in a query": ("select '\ud800'", ()),
    "surrogate in a statement": ("select '\ud800', %s", (1,)),
}
# Statements that the server rejects, and their SQLSTATEs.
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "22012": ("select 1 / %s", (0,)),
    "22021": ("select %s::text", ("\0",)),
    "22P02": ("select %s::integer", ("x",)),
    "42601": ("selekt %s", (1,)),
    "42P18": ("select %s is null", (None,)),
    "08P01": ("select %s", (1, 2)),
    "42703": ("select nothing from model", ()),
    "42P01": ("select 1; select * from no_such_table", ()),
}


def connect_pipeline(**login: str) -> Connection:
    to = read_database_settings(os.environ)
    connection = Connection(
        (f"{to.host}/.s.PGSQL.{to.port}", 0, None),
        {"user": to.user, "password": to.password, "database": to.database} | login,
        timeout=5.0,
        idle_check=0.0,
    )
    connection.register_in_adapter(NAME, refuse_to_read)
    return connection


def refuse_to_read(value: str) -> None:
    raise ValueError(f"{value} cannot be read")


def interrupt(_: str) -> None:
    raise KeyboardInterrupt


def throw(error: BaseException | None) -> None:
    if error:
        raise error


def error_of(ask: Callable[[], Any]) -> BaseException | None:
    try:
        ask()
    except (dbapi.Error, KeyboardInterrupt) as error:
        return error
    return None


def sqlstate_of(error: BaseException | None) -> Any:
    assert isinstance(error, dbapi.DatabaseError)
    return error.args[0]["C"]


def process_of(connection: Connection) -> int:
    return int.from_bytes(connection._backend_key_data[:4])


class Machine(RuleBasedStateMachine):
    """The model: `stored` has the committed rows, and `seen` the rows that the open transaction, if any, sees."""

    observer: pg8000.native.Connection

    def __init__(self) -> None:
        super().__init__()
        self.observer.run("truncate model")
        self.tokens = map("token {}".format, itertools.count())
        self.stored: dict[int, str] = {}
        self.seen: dict[int, str] | None = None
        self.failed = self.doomed = self.notified = False
        self.processes: set[int] = set()
        self.connect()

    def teardown(self) -> None:
        self.connection.abandon()
        self.wait_for_end()

    # The expected effects of a statement.

    def run(self, statement: str, *values: Any, stream: Any = None) -> Any:
        with timeout_after(PATIENCE):
            return self.connection.cursor().execute(statement, values, stream=stream)

    def rows(self, statement: str, *values: Any) -> list[list[Any]]:
        return list(self.run(statement, *values).fetchall())

    @property
    def current(self) -> dict[int, str]:
        return self.stored if self.seen is None else self.seen

    def begin(self) -> None:
        """A statement has reached the server: unless it runs alone, a transaction is open now."""
        if not self.connection.autocommit and self.seen is None:
            self.seen = dict(self.stored)

    def write(self, key: int, value: str, *, dooms: bool = False) -> None:
        self.begin()
        self.current[key] = value
        self.doomed |= dooms

    def refuse(self, sqlstate: str, ask: Callable[[], Any]) -> None:
        """The server rejects the statement of `ask`, and the open transaction, if there is one, has failed."""
        self.begin()
        with pytest.raises(dbapi.DatabaseError) as refused:
            ask()
        assert refused.value.args[0]["C"] == ("25P02" if self.failed else sqlstate)
        self.failed = self.seen is not None

    def lose(self, maybe: dict[int, str] | None = None) -> None:
        """The connection is closed and its transaction is lost, unless `maybe` was stored."""
        assert self.connection.closed
        self.wait_for_end()
        if maybe is not None and self.stored_rows() == maybe:
            self.stored = maybe
        self.seen, self.failed, self.doomed = None, False, False

    def wait_for_end(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.observer.run("select 1 from pg_stat_activity where pid = any(:pids)", pids=list(self.processes)):
            assert time.monotonic() < deadline, "the server process of a closed connection still runs"
            time.sleep(0.002)
        self.processes.clear()

    # The steps, and their preconditions.

    is_open = precondition(lambda self: not self.connection.closed)
    is_well = precondition(lambda self: not self.connection.closed and not self.failed)

    @precondition(lambda self: self.connection.closed)
    @rule()
    def reconnect(self) -> None:
        for ask in (self.connection.close, lambda: self.run("select 1"), lambda: self.run("select %s", 1)):
            with pytest.raises(dbapi.InterfaceError):
                ask()
        self.connection.rollback()
        assert not self.connection.is_alive()
        self.connect()

    def connect(self) -> None:
        self.connection = connect_pipeline()
        self.processes.add(process_of(self.connection))
        self.listen()

    def listen(self) -> None:
        """Change a setting of the session, which is lost with the connection."""
        autocommit, self.connection.autocommit = self.connection.autocommit, True
        self.connection.run("listen model")
        self.connection.autocommit = autocommit

    @initialize(autocommit=HOW)
    def begin_with(self, autocommit: bool) -> None:
        self.connection.autocommit = autocommit

    @is_open
    @rule()
    def switch_autocommit(self) -> None:
        self.connection.autocommit = not self.connection.autocommit

    @is_open
    @rule(key=KEYS, with_parameters=HOW)
    def insert(self, key: int, with_parameters: bool) -> None:
        token = next(self.tokens)
        values = (key, token) if with_parameters else ()
        row = "%s, %s" if with_parameters else f"{key}, '{token}'"
        statement = f"insert into model values ({row}) returning value"
        if self.failed or key in self.current:
            self.refuse("23505", lambda: self.run(statement, *values))
        else:
            cursor = self.run(statement, *values)
            assert list(cursor.fetchall()) == [[token]]
            assert cursor.rowcount == 1
            self.write(key, token)

    @is_well
    @rule(key=KEYS, with_parameters=HOW)
    def update(self, key: int, with_parameters: bool) -> None:
        token = next(self.tokens)
        if with_parameters:
            cursor = self.run("update model set value = %s where key = %s", token, key)
        else:
            cursor = self.run(f"update model set value = '{token}' where key = {key}")
        self.begin()
        assert cursor.rowcount == (key in self.current)
        if key in self.current:
            self.write(key, token)

    @is_well
    @rule(key=KEYS, with_parameters=HOW)
    def select(self, key: int, with_parameters: bool) -> None:
        self.begin()
        expected = [[self.current[key]]] if key in self.current else []
        if with_parameters:
            assert self.rows("select value from model where key = %s", key) == expected
        else:
            assert self.rows(f"select value from model where key = {key}") == expected

    @is_well
    @rule(with_parameters=HOW)
    def select_everything(self, with_parameters: bool) -> None:
        self.begin()
        values = (0,) if with_parameters else ()
        rows = self.rows("select key, value from model" + " where key >= %s" * with_parameters, *values)
        assert dict(rows) == self.current

    @is_well
    @rule(first=KEYS, second=KEYS)
    def run_two_statements_at_once(self, first: int, second: int) -> None:
        """Without parameters they are sent in one query, which is a transaction unless one is open."""
        one, two = next(self.tokens), next(self.tokens)
        inserts = f"insert into model values ({first}, '{one}'); insert into model values ({second}, '{two}')"
        if first in self.current or second in self.current or first == second:
            self.refuse("23505", lambda: self.run(inserts))
        else:
            assert self.run(inserts).rowcount == 2
            self.write(first, one)
            self.write(second, two)

    @is_open
    @rule(sqlstate=st.sampled_from(sorted(REFUSED)))
    def execute_a_statement_that_the_server_rejects(self, sqlstate: str) -> None:
        statement, values = REFUSED[sqlstate]
        # The server reports a syntax error rather than the failed transaction.
        if self.failed and sqlstate == "42601":
            with pytest.raises(dbapi.ProgrammingError):
                self.run(statement, *values)
        else:
            self.refuse(sqlstate, lambda: self.run(statement, *values))

    @is_open
    @rule(name=st.sampled_from(sorted(UNSENDABLE)))
    def execute_a_statement_that_cannot_be_sent(self, name: str) -> None:
        statement, values = UNSENDABLE[name]
        with pytest.raises(dbapi.Error):
            self.run(statement, *values)
        assert not self.connection.closed

    @is_well
    @rule(key=KEYS, with_parameters=HOW)
    def write_and_return_a_value_that_cannot_be_read(self, key: int, with_parameters: bool) -> None:
        """The statement is executed, and its result is lost."""
        token = next(self.tokens)
        with pytest.raises(dbapi.InternalError, match="cannot be read"):
            self.run(
                f"insert into model values ({key}, '{token}') "
                "on conflict (key) do update set value = excluded.value returning value::name, value"
                + ", %s::integer"
                * with_parameters,
                *(1,) * with_parameters,
            )
        self.write(key, token)

    @is_well
    @rule(value=st.sampled_from(["'24:00'::time", "'[0:1]={1,2}'::integer[]", "array['24:00'::time]"]))
    def read_a_value_that_pg8000_cannot_read(self, value: str) -> None:
        self.begin()
        with pytest.raises(dbapi.InternalError, match="cannot be read"):
            self.run(f"select 'first', {value} union all select 'second', {value}")

    @is_well
    @rule(key=KEYS, with_parameters=HOW)
    def insert_a_row_that_fails_at_commit(self, key: int, with_parameters: bool) -> None:
        """The deferred constraint is checked when the transaction ends."""
        token = next(self.tokens)
        values = (key, token) if with_parameters else ()
        row = "%s, %s" if with_parameters else f"{key}, '{token}'"
        insert = f"insert into model values ({row}, -1)"
        if key in self.current:
            self.refuse("23505", lambda: self.run(insert, *values))
        elif self.connection.autocommit and self.seen is None:
            self.refuse("23503", lambda: self.run(insert, *values))
        else:
            self.run(insert, *values)
            self.write(key, token, dooms=True)

    @is_open
    @rule()
    def commit(self) -> None:
        if self.seen is None:
            self.connection.commit()
        elif self.failed or self.doomed:
            with pytest.raises(dbapi.InternalError if self.failed else dbapi.IntegrityError):
                self.connection.commit()
        else:
            self.connection.commit()
            self.stored = self.seen
        self.seen, self.failed, self.doomed = None, False, False

    @is_open
    @rule()
    def rollback(self) -> None:
        self.connection.rollback()
        assert not self.connection.closed
        self.seen, self.failed, self.doomed = None, False, False

    @is_open
    @rule(key=KEYS, count=st.integers(0, 16), failure=st.sampled_from([LOST, STOPPED]), with_parameters=HOW)
    def insert_and_interrupt_the_reply(
        self, key: int, count: int, failure: BaseException, with_parameters: bool
    ) -> None:
        """Ctrl-C, or the connection ends during the reply. The first statement of a transaction is retried."""
        token, process = next(self.tokens), process_of(self.connection)
        values = (key, token) if with_parameters else ()
        row = "%s, %s" if with_parameters else f"{key}, '{token}'"
        possible = not self.failed and key not in self.current
        alone, begins = self.connection.autocommit and self.seen is None, self.seen is None
        with self.failing_after(count, failure):
            error = error_of(lambda: self.run(f"insert into model values ({row})", *values))
        if self.connection.closed:
            if failure is LOST:
                assert isinstance(error, dbapi.OperationalError)
                assert alone or not begins
            else:
                assert error is STOPPED
            self.lose(self.current | {key: token} if alone and possible else None)
        elif possible:
            assert error is None
            self.write(key, token)
        else:
            self.refuse("23505", lambda: throw(error))
        self.follow(process)

    @precondition(lambda self: not self.connection.closed and self.seen is not None)
    @rule(count=st.integers(0, 5), failure=st.sampled_from([LOST, STOPPED, LATE]))
    def commit_and_interrupt_the_reply(self, count: int, failure: BaseException) -> None:
        possible = not self.failed and not self.doomed
        after = self.current if possible else None
        with self.failing_after(count, failure):
            error = error_of(self.connection.commit)
        if self.connection.closed:
            assert error is STOPPED if failure is STOPPED else sqlstate_of(error) == "08007"
            self.lose(after)
        else:
            assert (error is None) == possible
            self.stored = after or self.stored
        self.seen, self.failed, self.doomed = None, False, False

    @precondition(lambda self: not self.connection.closed and self.seen is not None)
    @rule(count=st.integers(0, 5), failure=st.sampled_from([LOST, STOPPED, LATE]))
    def roll_back_and_interrupt_the_reply(self, count: int, failure: BaseException) -> None:
        """A lost connection needs no rollback, because the server rolls back."""
        with self.failing_after(count, failure):
            error = error_of(self.connection.rollback)
        assert error is None or (error is STOPPED and self.connection.closed)
        self.seen, self.failed, self.doomed = None, False, False
        if self.connection.closed:
            self.lose()

    @contextmanager
    def failing_after(self, count: int, failure: BaseException) -> Iterator[None]:
        """During the block, the replies of this socket can be read `count` times."""
        stream, counter = self.connection._sock, itertools.count()

        def read(size: int) -> bytes:
            if next(counter) >= count:
                raise failure
            return type(stream).read(stream, size)  # type: ignore[no-any-return] # pg8000 ships no types

        stream.read = read
        try:
            yield
        finally:
            del stream.read

    def follow(self, process: int) -> None:
        """The connection may have replaced its socket, while the server is still busy with the old one."""
        if not self.connection.closed and process != process_of(self.connection):
            self.wait_for_end()
            self.processes.add(process_of(self.connection))

    @is_well
    @rule(count=st.integers(0, 3))
    def interrupt_the_reading_of_a_value(self, count: int) -> None:
        self.connection.register_in_adapter(NAME, interrupt)
        with pytest.raises(KeyboardInterrupt):
            self.run("select 'x'::name from generate_series(0, %s::integer)", count)
        self.lose()

    @is_well
    @rule(key=KEYS, with_parameters=HOW)
    def run_out_of_time_in_a_statement(self, key: int, with_parameters: bool) -> None:
        value = "%s" if with_parameters else "'late'"
        statement = f"with slow as (select pg_sleep(30)) insert into model select {key}, {value} from slow"
        with timeout_after(0.05), pytest.raises(dbapi.OperationalError) as late:
            self.run(statement, *("late",) * with_parameters)
        assert late.value.args[0]["C"] == "57014"
        # On a very busy machine the deadline passes before the statement is sent, and nothing has changed.
        if self.connection.closed or "the statement was not sent" not in late.value.args[0]["M"]:
            self.lose()

    @is_open
    @rule()
    def run_out_of_time_before_a_statement(self) -> None:
        with timeout_after(0.0), pytest.raises(dbapi.OperationalError):
            self.run("select 1")
        assert not self.connection.closed

    @is_open
    @rule()
    def lose_the_server_process(self) -> None:
        """The first statement of a transaction is retried on a new connection; a later one fails."""
        process = process_of(self.connection)
        self.observer.run("select pg_terminate_backend(:process)", process=process)
        self.wait_for_end()
        begins = self.seen is None and not self.connection.autocommit
        token = next(self.tokens)
        if begins:
            assert self.rows("select %s", token) == [[token]]
            self.begin()
            self.follow(process)
            self.commit()
            self.listen()
        else:
            with pytest.raises(dbapi.OperationalError):
                self.run("select %s", token)
            self.lose()

    @precondition(lambda self: not self.connection.closed and self.seen is None and not self.connection.autocommit)
    @rule(key=KEYS)
    def write_in_a_read_only_transaction(self, key: int) -> None:
        """After a failover the server itself may be read-only."""
        self.run("set transaction read only")
        with pytest.raises(dbapi.InternalError) as refused:
            self.run("insert into model values (%s, 'x')", key)
        assert refused.value.args[0]["C"] == "25006"
        self.lose()

    @is_well
    @rule(keys=st.sets(KEYS, max_size=3), kind=st.sampled_from(["iterable", "text", "bytes"]))
    def copy_in(self, keys: set[int], kind: str) -> None:
        rows = {key: next(self.tokens) for key in sorted(keys)}
        lines = [f"{key}\t{token}\t\\N\n" for key, token in rows.items()]
        text = "".join(lines)
        stream = {"iterable": lines, "text": io.StringIO(text), "bytes": io.BytesIO(text.encode())}[kind]
        if keys & self.current.keys():
            self.refuse_copy("23505", stream)
        else:
            assert self.run("copy model from stdin", stream=stream).rowcount == len(rows)
            self.begin()
            self.current.update(rows)

    @is_well
    @rule()
    def copy_in_rows_that_the_server_rejects(self) -> None:
        self.refuse_copy("22P02", ["no number\tx\t\\N\n"] * 3)

    def refuse_copy(self, sqlstate: str, stream: Any) -> None:
        self.refuse(sqlstate, lambda: self.run("copy model from stdin", stream=stream))
        if self.connection.closed:
            self.lose()

    @is_well
    @rule(kind=st.sampled_from([None, ValueError, KeyboardInterrupt]), key=KEYS)
    def copy_in_from_a_stream_that_fails(self, kind: type[BaseException] | None, key: int) -> None:
        """The server waits for more data, and must not store the data that it has."""

        def stream() -> Iterator[str]:
            yield f"{key}\thalf\t\\N\n"
            assert kind
            raise kind

        error = error_of(lambda: self.run("copy model from stdin", stream=stream() if kind else None))
        assert isinstance(error, KeyboardInterrupt) if kind is KeyboardInterrupt else sqlstate_of(error) == "08P01"
        self.lose()

    @is_well
    @rule()
    def copy_out(self) -> None:
        self.begin()
        stream = io.StringIO()
        self.run("copy (select key from model order by key) to stdout", stream=stream)
        assert stream.getvalue() == "".join(f"{key}\n" for key in sorted(self.current))

    @is_well
    @rule(with_stream=HOW)
    def copy_out_to_a_stream_that_fails(self, with_stream: bool) -> None:
        self.begin()
        stream = io.StringIO() if with_stream else None
        if stream:
            stream.close()
        with pytest.raises(dbapi.InternalError):
            self.run("copy (select 1) to stdout", stream=stream)
        assert not self.connection.closed

    @is_well
    @rule(with_parameters=HOW)
    def notice(self, with_parameters: bool) -> None:
        self.begin()
        token = next(self.tokens)
        query = f"do $$ begin raise notice '{token}'; end $$; select '{token}'"
        if with_parameters:
            query = f"select '{token}' from pg_temp.note('{token}') where %s::integer is not null"
            self.run(
                "create or replace function pg_temp.note(t text) returns integer language plpgsql as "
                "$$ begin raise notice '%', t; return 1; end $$"
            )
        assert self.rows(query, *(1,) * with_parameters) == [[token]]
        assert any(token.encode() in notice.values() for notice in self.connection.notices)

    @is_well
    @rule(by_itself=HOW)
    def notify(self, by_itself: bool) -> None:
        token = next(self.tokens)
        self.notified = True
        if by_itself:
            self.begin()
            self.run("select pg_notify('model', %s)", token)
        else:
            self.observer.run("select pg_notify('model', :token)", token=token)
            if self.seen is None:
                self.wait_for_message()

    def wait_for_message(self) -> None:
        """The next steps must not depend on the time of the notification, because Hypothesis repeats them."""
        deadline = time.monotonic() + PATIENCE
        while not self.connection._sock.has_unread():
            assert time.monotonic() < deadline

    @is_open
    @rule()
    def check_that_it_is_alive(self) -> None:
        """After a notification, the connection does not count as alive."""
        assert self.connection.is_alive() or self.notified

    @is_open
    @rule(politely=HOW)
    def close(self, politely: bool) -> None:
        if politely:
            self.connection.close()
        else:
            self.connection.abandon()
        self.lose()

    # The invariants, which are checked after each step.

    @invariant()
    def returns_the_token_of_a_query(self) -> None:
        if self.connection.closed:
            return
        token, other = next(self.tokens), next(self.tokens)
        autocommit, self.connection.autocommit = self.connection.autocommit, True
        if self.failed:
            with pytest.raises(dbapi.InternalError):
                self.run("select %s", token)
        else:
            assert self.rows("select %s", token) == [[token]]
            assert self.rows(f"select '{other}'") == [[other]]
        self.connection.autocommit = autocommit
        assert self.connection._in_transaction == (self.seen is not None)

    @invariant()
    def has_stored_the_committed_rows(self) -> None:
        assert self.stored_rows() == self.stored

    def stored_rows(self) -> dict[int, str]:
        return dict(self.observer.run("select key, value from model"))


@pytest.fixture
def observer() -> Iterator[pg8000.native.Connection]:
    """A second connection, pg8000's own, beside the table of the model."""
    with connect(os.environ["DATABASE_URL"]) as observer:
        observer.run(
            "create table model (key integer primary key, value text not null, "
            "owner integer references model deferrable initially deferred)"
        )
        try:
            yield observer
        finally:
            observer.run("drop table model")


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = connect_pipeline()
    connection.autocommit = True
    yield connection
    connection.abandon()


def test_a_connection_is_synchronized_or_closed_after_any_steps(
    observer: pg8000.native.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Derandomized, so that a failure is caused by a change and not by chance."""
    monkeypatch.setattr(Machine, "observer", observer, raising=False)
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True, database=None),
    )


def test_a_copy_of_many_rows_leaves_the_connection_synchronized(connection: Connection) -> None:
    stream = io.StringIO()

    connection.run("copy (select generate_series(1, 3)) to stdout", stream=stream)

    assert stream.getvalue() == "1\n2\n3\n"
    assert not connection.closed


def test_a_copy_that_a_trigger_rejects_leaves_the_connection_synchronized_or_closed(
    connection: Connection, observer: pg8000.native.Connection
) -> None:
    observer.run("create function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$")
    observer.run("create trigger refusal before insert on model execute function refuse()")
    try:
        with pytest.raises(dbapi.DatabaseError):
            connection.run("copy model from stdin", stream=["1\tx\t\\N\n"])
        assert connection.closed or connection.run("select 'in step'").rows == [["in step"]]
    finally:
        observer.run("drop function refuse cascade")


def test_a_successful_commit_does_not_raise_for_asynchronous_messages(
    connection: Connection, observer: pg8000.native.Connection
) -> None:
    connection.run("listen model")
    connection.autocommit = False
    connection.run("insert into model values (1, 'x')")
    connection.run("select pg_notify('model', %s)", ("é",))

    connection.commit()

    assert observer.run("select value from model") == [["x"]]


def test_text_is_stored_correctly_in_a_database_that_is_not_unicode(server_url: str) -> None:
    with connect(server_url) as admin:
        admin.run("create database latin encoding 'LATIN1' template template0 locale 'C'")
        connection = connect_pipeline(database="latin")
        try:
            assert connection.run("select %s::text, length(%s::text)", ("é", "é")).rows == [["é", 1]]
        finally:
            connection.abandon()
            admin.run("drop database latin with (force)")
