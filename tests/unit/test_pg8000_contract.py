"""The parts of pg8000 that `handler.database` uses exist and have not changed.

After an upgrade of pg8000 that fails here, read the code that the message names, adapt `handler/database/` or this
file, and run `python -m tests.upstream.run`.
"""

import hashlib
import inspect
import io
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from packaging.requirements import Requirement
from pg8000 import PGInterval, converters, core, dbapi, exceptions
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000

from handler.database.driver import dialect
from handler.database.driver.connection import SOCKET_ATTRIBUTES, Connection, Cursor
from handler.database.driver.errors import ERRORS
from handler.database.driver.protocol import SYNC
from handler.database.driver.synchronized import SynchronizedConnection

ROOT = Path(__file__).parents[2]


class Wire:
    """A socket that has received all bytes of the server already, and records what the connection sends."""

    def __init__(self, replies: bytes) -> None:
        self.replies = io.BytesIO(replies)
        self.sent = b""
        self.calls: list[str] = []

    def makefile(self, **options: str) -> "Wire":
        self.calls.append(f"makefile {options}")
        return self

    def write(self, data: bytes) -> None:
        self.sent += data

    def flush(self) -> None:
        self.calls.append("flush")

    def read(self, size: int) -> bytes:
        return self.replies.read(size)

    def close(self) -> None:
        self.calls.append("close")


def message(code: bytes, data: bytes = b"") -> bytes:
    return code + pack("!i", len(data) + 4) + data


AUTHENTICATED = message(b"R", pack("!i", 0))
READY = message(b"Z", b"I")
GREETING = AUTHENTICATED + message(b"S", b"server_version\x0018.6\x00") + message(b"K", b"12345678") + READY


def connected(replies: bytes = b"") -> Any:
    """A connection of stock pg8000 after its login, which will read `replies`."""
    return dbapi.Connection("me", sock=Wire(GREETING + replies), ssl_context=False)


def test_the_installed_pg8000_is_in_the_range_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "pg8000")
    assert pinned.specifier.contains(version("pg8000"))


def test_the_tests_of_upstream_are_those_of_the_installed_version() -> None:
    requirements = (ROOT / "tests" / "upstream" / "requirements.txt").read_text()
    assert f"\npg8000=={version('pg8000')} " in requirements


# Connecting


def test_connecting_uses_the_given_socket_through_one_file_object() -> None:
    connection = connected()
    wire = connection._usock
    assert wire is connection._sock
    assert wire.calls == ["makefile {'mode': 'rwb'}", "flush"]
    parameters = b"user\x00me\x00\x00"
    assert wire.sent == pack("!ii", len(parameters) + 8, 196608) + parameters


def test_connecting_stores_the_reported_parameters() -> None:
    connection = connected()
    assert connection._backend_key_data == b"12345678"
    assert connection.parameter_statuses == {"server_version": "18.6"}
    assert connection._client_encoding == "utf8"
    assert connection._transaction_status is None, "SynchronizedConnection.__init__ sets it since pg8000 forgets it"
    assert connection.autocommit is False


def test_a_rejected_login_calls_close_and_raises_the_fields_of_the_server() -> None:
    closed = []

    class Watched(dbapi.Connection):  # type: ignore[misc] # pg8000 ships no types
        def close(self) -> None:
            closed.append(self._sock)

    wire = Wire(message(b"E", b"SFATAL\x00C28P01\x00Mno\x00\x00"))
    with pytest.raises(dbapi.DatabaseError) as error:
        Watched("me", sock=wire, ssl_context=False)
    assert error.value.args == ({"S": "FATAL", "C": "28P01", "M": "no"},)
    assert closed == [wire]


def test_a_connection_has_only_known_attributes() -> None:
    """Another attribute may belong to the socket: SOCKET_ATTRIBUTES, which a new socket replaces."""
    assert set(vars(connected())) - set(SOCKET_ATTRIBUTES) == {
        *("_caches", "_commands_with_count", "_statement_nums", "_xid", "autocommit", "message_types"),
        *("notices", "notifications", "password", "pg_types", "py_types", "user"),
    }
    assert set(SOCKET_ATTRIBUTES) <= set(vars(connected())) | {"_address", "_peer", "_set_local"}


# Messages


def test_there_is_a_handler_for_every_message_that_may_come() -> None:
    connection = connected()
    assert b"".join(sorted(connection.message_types)) == b"123ACDEGHIKNRSTZcdnst"
    for handler in connection.message_types.values():
        assert len(inspect.signature(handler).parameters) == 2


def test_a_context_holds_the_result() -> None:
    assert vars(core.Context("select 1", stream="s")) == {
        "statement": "select 1",
        "stream": "s",
        "rows": None,
        "row_count": -1,
        "columns": None,
        "input_funcs": [],
        "error": None,
    }


def test_handlers_read_rows_as_text_by_the_type_s_converter_and_count_them() -> None:
    connection = connected()
    context = core.Context("select")
    described = pack("!h", 2) + b"".join(name + b"\0" + pack("!ihihih", 0, 0, 23, 4, -1, 0) for name in (b"a", b"b"))
    connection.message_types[b"T"](described, context)
    assert context.rows == []
    connection.message_types[b"D"](pack("!hi", 2, 2) + b"42" + pack("!i", -1), context)
    connection.message_types[b"C"](b"SELECT 1\x00", context)
    assert context.rows == [[42, None]]
    assert context.row_count == 1
    assert [(column["name"], column["type_oid"]) for column in context.columns] == [("a", 23), ("b", 23)]


@pytest.mark.parametrize(("status", "open_"), [(b"I", False), (b"T", True), (b"E", True)])
def test_ready_for_query_tells_whether_a_transaction_is_open(status: bytes, open_: bool) -> None:
    connection = connected()
    connection.message_types[b"Z"](status, core.Context(None))
    assert connection._transaction_status == status
    assert connection._in_transaction is open_


@pytest.mark.parametrize("statement", ["commit", "COMMIT;"])
def test_the_commit_of_a_failed_transaction_raises(statement: str) -> None:
    """SynchronizedConnection._raise_error makes 25P02 of the InterfaceError."""
    connection = connected()
    connection._transaction_status = b"E"
    context = core.Context(statement)
    connection.message_types[b"C"](b"ROLLBACK\x00", context)
    assert isinstance(context.error, dbapi.InterfaceError)
    assert context.error.args == ("in failed transaction block",)
    for allowed in ("rollback", "rollback to savepoint a"):
        context = core.Context(allowed)
        connection.message_types[b"C"](b"ROLLBACK\x00", context)
        assert context.error is None


def test_errors_are_one_family_whichever_module_names_them() -> None:
    assert dbapi.DatabaseError is exceptions.DatabaseError
    assert dbapi.InterfaceError is exceptions.InterfaceError
    assert not issubclass(dbapi.InterfaceError, dbapi.DatabaseError)
    assert all(issubclass(error, dbapi.DatabaseError) for error in ERRORS.values())


def test_copy_in_ends_with_copy_done_and_a_sync() -> None:
    connection = connected()
    connection._usock.sent = b""
    connection.message_types[b"G"](pack("!bh", 0, 0), core.Context("copy", stream=["1\n", b"2\n"]))
    assert connection._usock.sent == message(b"d", b"1\n") + message(b"d", b"2\n") + message(b"c") + SYNC


# Statements and parameters


def test_parameters_become_text() -> None:
    made = converters.make_params(connected().py_types, (1, None, "a", [1, None], b"\x00", True))
    assert list(made) == ["1", None, "a", "{1,NULL}", "\\x00", "true"]


def test_format_style_is_numbered() -> None:
    statement = "select %s, '%s', \"%s\" %% %s -- %s"
    assert dbapi.convert_paramstyle("format", statement, ())[0] == "select $1, '%s', \"%s\" % $2 -- %s"


def test_a_cursor_reads_what_the_driver_writes() -> None:
    connection = connected()
    cursor = dbapi.Cursor(connection)
    assert vars(cursor) == {
        "_c": connection,
        "arraysize": 1,
        "_context": None,
        "_row_iter": None,
        "_input_oids": (),
    }
    cursor.setinputsizes(23, str)
    assert cursor._input_oids == [23, converters.TEXT]
    cursor._context = core.Context("select")
    cursor._context.columns = [{"name": "a", "type_oid": 23}]
    cursor._context.row_count, cursor._row_iter = 2, iter([[1], [2]])
    assert cursor.description == [("a", 23, None, None, None, None, None)]
    assert cursor.rowcount == 2
    assert (cursor.fetchone(), cursor.fetchall()) == ([1], ([2],))
    cursor.close()
    assert cursor._c is None


# What is replaced


@pytest.mark.parametrize(
    ("ours", "theirs", "own"),
    [
        (
            SynchronizedConnection,
            dbapi.Connection,
            {"_execute", "_raise_error", "_exchange", "_read_replies", "_cancel", "_mark_used", "closed", "abandon"}
            | {"_retire", "_usock", "_sock", "_last_request"},
        ),
        (
            Connection,
            SynchronizedConnection,
            {"is_alive", "run", "_run_first", "_run_and_read_settings", "_compare_settings", "_replace_socket"}
            | {"_begin", "_batch", "_simple_batch", "_extended_batch", "_encode"},
        ),
        (Cursor, dbapi.Cursor, set()),
        (dialect.Dialect, PGDialect_pg8000, set()),
    ],
)
def test_every_overridden_method_exists_in_pg8000(ours: type, theirs: type, own: set[str]) -> None:
    """If pg8000 renames a method, the driver no longer overrides it, and no other test detects that."""
    defined = {name for name in vars(ours) if not name.startswith("__")}
    assert {name for name in defined - own if not hasattr(theirs, name)} == set()


def test_no_other_method_of_the_connection_uses_the_socket() -> None:
    """A new one would bypass the deadline and the check of the replies: override it, or check that it is not called."""
    methods = inspect.getmembers(dbapi.Connection, inspect.isfunction)
    speaking = {name for name, method in methods if "_flush(" in inspect.getsource(method)}
    overridden = {"execute_unnamed", "execute_simple", "close"}
    connecting = {"handle_AUTHENTICATION_REQUEST"}
    in_a_statement = {"handle_COPY_IN_RESPONSE"}
    never_called = {"prepare_statement", "execute_named", "close_prepared_statement"}
    assert speaking == overridden | connecting | in_a_statement | never_called


READ: list[tuple[Callable[..., Any], str, str]] = [
    (
        core.CoreConnection.__init__,
        "c9557d9f5d4a0fb2",
        "the startup, and what is left open when it fails: Connection.__init__",
    ),
    (
        core.CoreConnection.handle_AUTHENTICATION_REQUEST,
        "1bce623334c9f27f",
        "it replies every request at every moment: Connection.handle_AUTHENTICATION_REQUEST; stream.TlsSocket",
    ),
    (
        core.CoreConnection.handle_COPY_IN_RESPONSE,
        "3085e7face3d7824",
        "it may raise while the server waits: Connection._read_replies",
    ),
    (
        core.CoreConnection.handle_COPY_OUT_RESPONSE,
        "ea5c045949ebbcbd",
        "it may raise, and the replies go on: Connection._read_replies",
    ),
    (
        core.CoreConnection.handle_COMMAND_COMPLETE,
        "dead6eaa3e83cf76",
        "the failed COMMIT, by the statement's first word: _raise_error",
    ),
    (
        core.CoreConnection.handle_DATA_ROW,
        "d6a80acc05cbc255",
        "what Connection.handle_DATA_ROW does",
    ),
    (
        core.CoreConnection.handle_PARAMETER_STATUS,
        "a10155ab03ed149d",
        "client_encoding: Connection.handle_PARAMETER_STATUS looks at what it keeps",
    ),
    (core.CoreConnection.handle_NOTICE_RESPONSE, "a1e625bcaf3bb2d4", "Connection.handle_NOTICE_RESPONSE cuts it"),
    (
        core.CoreConnection.handle_COPY_DATA,
        "d600b4bbf98a3a86",
        "it hands the data on and keeps none: Connection.handle_COPY_DATA",
    ),
    (core.CoreConnection.execute_unnamed, "2e8af5bad64b6640", "what Connection._extended_batch does in one flush"),
    (core.CoreConnection.execute_simple, "57ca4e0354186ded", "what Connection.execute_simple does"),
    (core.CoreConnection.send_PARSE, "8de25ddc1da6f52e", "what protocol.parse does; an oid of -1 is sent as 0"),
    (core.CoreConnection.send_BIND, "f817ecd2ddfdd0db", "what protocol.bind does"),
    (core.CoreConnection.close, "9383ab7e1e4dd3f6", "what Connection.close does"),
    (dbapi.Cursor.execute, "1a87beac02bb15ff", "what Cursor.execute and Connection.run do"),
    (dbapi.Cursor.executemany, "5f359513ff5f032e", "it calls execute, which reads and clears _input_oids"),
    (dbapi.Cursor.callproc, "f0b3bc6d353f6707", "it calls execute_unnamed, outside a transaction"),
    (dbapi.Connection.commit, "33f87e623209f788", "what Connection.commit does"),
    (dbapi.Connection.rollback, "b6d214b8281a8452", "what Connection.rollback does"),
    (dbapi.Connection.tpc_commit, "a32cd15b1c536d7c", "it switches autocommit, and calls execute_unnamed and commit"),
    (
        dbapi.Connection.tpc_rollback,
        "dc733ad889e371e5",
        "it switches autocommit, and calls execute_unnamed and rollback",
    ),
    (
        dbapi.convert_paramstyle,
        "d86b773c239000bd",
        "statements.numbered caches its result: it may depend on nothing but the statement",
    ),
    (converters._array_in, "e5910769300adeef", "timestamps.py makes arrays of its own readers"),
    (converters._range_in, "4c307637aed1c3ef", "timestamps.py makes ranges of its own readers"),
    (converters._multirange_in, "3867ee5eebe77c3d", "timestamps.py makes multiranges of its own readers"),
    (converters.timestamp_in, "b6ecc8b2f93568bd", "timestamps.py calls it for text that is not in ISO 8601"),
    (converters.timestamptz_in, "44cfaf2647764916", "timestamps.py calls it for text that is not in ISO 8601"),
    (converters.make_params, "d164156f5ba5b850", "Connection._extended_batch calls it before the first byte"),
    (
        converters.make_param,
        "165f15e01f02e7df",
        "values.write_array: None is no text, and the classes are asked in their order",
    ),
    (
        converters._parse_array,
        "f6ff7d9ccb4a4097",
        "values.READERS: what is escaped in an element is not when its reader sees it",
    ),
    (PGInterval.__str__, "a9b5a5e76d6b04e3", "values.write_interval puts a sign before each number"),
]


@pytest.mark.parametrize(("function", "digest", "why"), READ, ids=[case[0].__qualname__ for case in READ])
def test_a_function_of_pg8000_has_not_changed(function: Callable[..., Any], digest: str, why: str) -> None:
    found = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    assert found == digest, f"read {function.__module__}.{function.__qualname__} again: {why}"
