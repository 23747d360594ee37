"""With mutated replies, a statement returns the right result or raises, and so does the statement after it.

The server is a script behind a real socket: it replies to each flush with the chunks of the test. Some mutations of a
valid reply are valid replies with another meaning; `is_legal_too` recognizes them.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pg8000 import dbapi

from handler.database.driver.connection import Connection
from tests.support.scripted_server import (
    BOUND,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    EMPTY,
    INTEGER,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARSED,
    STATUS,
    complete,
    data_row,
    error,
    message,
    ready,
    row_description,
    scripted,
    select_reply,
)

# The valid replies to a query, and to a statement with parameters: PostgreSQL manual, 54.2.2 and 54.2.3.
QUERY = "(?:(?:TD*)?C|I|Hd*cC)+Z"
STATEMENT = "12(?:TD*|n)(?:C|I|GC|Hd*cC)Z"
KNOWN = zip(b"RKSNAZTDC12nIEtsGHdc3", strict=True)
FOLLOWING = "the result of the second statement"


BEGUN = (PARSED, BOUND, complete("BEGIN"))
SHOWN = (PARSED, BOUND, data_row("on"), complete("SHOW"))
# `select %s` in autocommit or not: the second statement of each case.
ROLLED_BACK = complete("ROLLBACK") + ready("I")
NEXT_REPLIES = {
    "I": b"".join(select_reply(data_row(FOLLOWING))),
    "T": b"".join(select_reply(data_row(FOLLOWING), status="T")),
    "begin": b"".join((*BEGUN, *select_reply(data_row(FOLLOWING), status="T"))),
}


Replies = tuple[bytes, ...]


class Exchange(NamedTuple):
    """A statement and the server's replies to it; `expected` is the result, or the SQLSTATE of the error."""

    ask: Callable[[Connection], Any]
    expected: Any
    replies: Replies
    autocommit: bool = True
    begun: bool = False  # a transaction is open before the statement
    simple: bool = False  # it is sent as a simple Query, without parameters
    quiet: bool = False  # it may close the connection without an error
    shows: bool = False  # the connection needs a setting, and reads the server's value

    @property
    def status(self) -> str:
        return self.replies[-1][5:].decode()


def run(*args: Any, **kwargs: Any) -> Callable[[Connection], Any]:
    """The rows and the row count of a statement."""

    def ask(connection: Connection) -> Any:
        context = connection.run(*args, **kwargs)
        return context.rows, context.row_count

    return ask


def copied(connection: Connection) -> str:
    stream = io.StringIO()
    connection.run("copy t to stdout", stream=stream)
    return stream.getvalue()


def is_alive(connection: Connection) -> bool:
    connection._idle_check = 0.0
    return connection.is_alive()


# Results have at most one row, because a connection cannot detect that rows were swapped.
EXCHANGES = {
    "select": Exchange(
        run("select %s", ("x",)), ([["x1"]], 1), select_reply(data_row("x1"))
    ),
    "select in a new transaction": Exchange(
        run("select %s", ("x",)),
        ([["x2"]], 1),
        (*BEGUN, *select_reply(data_row("x2"), status="T")),
        autocommit=False,
    ),
    "select in an open transaction": Exchange(
        run("select %s", ("x",)),
        ([["x3"]], 1),
        select_reply(data_row("x3"), status="T"),
        autocommit=False,
        begun=True,
    ),
    "two columns": Exchange(
        run("select %s, %s", (1, 2)),
        ([[1, 2]], 1),
        select_reply(data_row("1", "2"), oid=INTEGER, count=2),
    ),
    "no rows": Exchange(
        run("select %s", ("x",)),
        ([], 0),
        select_reply(),
    ),
    "insert": Exchange(
        run("insert into t values (%s)", ("x",)),
        (None, 1),
        (PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("I")),
    ),
    "insert in a new transaction": Exchange(
        run("insert into t values (%s)", ("x",)),
        (None, 1),
        (*BEGUN, PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("T")),
        autocommit=False,
    ),
    "with asynchronous messages": Exchange(
        run("select %s", ("x",)),
        ([["x4"]], 1),
        (
            *(NOTICE, PARSED, BOUND, row_description(), NOTICE, data_row("x4"), STATUS, complete("SELECT 1")),
            *(NOTIFICATION, ready("I")),
        ),
    ),
    "select without parameters": Exchange(
        run("select 'x'"), ([["x5"]], 1), select_reply(data_row("x5"))[2:], simple=True
    ),
    "select without parameters in a new transaction": Exchange(
        run("select 'x'"),
        ([["x6"]], 1),
        (*BEGUN, *select_reply(data_row("x6"), status="T")),
        autocommit=False,
    ),
    "select in the first transaction": Exchange(
        run("select %s", ("x",)),
        ([["x9"]], 1),
        (*BEGUN, *SHOWN, *select_reply(data_row("x9"), status="T")),
        autocommit=False,
        shows=True,
    ),
    "insert in the first transaction": Exchange(
        run("insert into t values (%s)", ("x",)),
        (None, 1),
        (*BEGUN, *SHOWN, PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("T")),
        autocommit=False,
        shows=True,
    ),
    "insert without parameters in a new transaction": Exchange(
        run("insert into t values ('x')"),
        (None, 1),
        (*BEGUN, PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("T")),
        autocommit=False,
    ),
    "nothing": Exchange(run(""), (None, -1), (EMPTY, ready("I")), simple=True),
    "refused": Exchange(run("select %s", ("x",)), "22012", (PARSED, error("22012"), ready("I"))),
    "refused in a new transaction": Exchange(
        run("insert into t values (%s)", ("x",)),
        "23505",
        (*BEGUN, PARSED, BOUND, NO_DATA, error("23505"), ready("E")),
        autocommit=False,
    ),
    "refused after a row": Exchange(
        run("select %s", ("x",)),
        "22012",
        (PARSED, BOUND, row_description(), data_row("x7"), error("22012"), ready("I")),
    ),
    "refused without parameters": Exchange(run("select 1/0"), "22012", (error("22012"), ready("I")), simple=True),
    "unreadable": Exchange(
        run("select %s", ("x",)),
        "XX000",
        select_reply(data_row("x8"), oid=INTEGER),
    ),
    "copy out": Exchange(
        copied,
        "1\n",
        (PARSED, BOUND, NO_DATA, COPY_OUT, message(b"d", b"1\n"), COPY_DONE, complete("COPY 1"), ready("I")),
    ),
    "copy in": Exchange(
        run("copy t from stdin", stream=["1\n"]),
        (None, 1),
        (PARSED, BOUND, NO_DATA, COPY_IN, complete("COPY 1"), ready("I")),
    ),
    "commit": Exchange(
        Connection.commit, None, (complete("COMMIT"), ready("I")), autocommit=False, begun=True, simple=True
    ),
    "rollback": Exchange(
        Connection.rollback,
        None,
        (complete("ROLLBACK"), ready("I")),
        autocommit=False,
        begun=True,
        simple=True,
        quiet=True,
    ),
    "ping": Exchange(is_alive, True, (EMPTY, ready("I")), simple=True, quiet=True),
}  # fmt: skip
MESSAGES = sorted(
    {reply for exchange in EXCHANGES.values() for reply in exchange.replies}
    | {message(b"R", bytes(4)), message(b"K", bytes(8)), message(b"s"), message(b"3"), message(b"t", bytes(2))}
)
MUTABLE = pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)


def outcome(ask: Callable[[], Any]) -> Any:
    """The result of `ask`, or the error that it raises. An exception that is not an error of PEP 249 fails the test."""
    try:
        return ask()
    except dbapi.Error as error:
        return error


def is_expected(exchange: Exchange, result: Any) -> bool:
    if isinstance(result, dbapi.DatabaseError):
        return bool(result.args[0].get("C") == exchange.expected)
    return bool(result == exchange.expected)


def execute(exchange: Exchange, *chunks: bytes, exact: bool = True) -> tuple[Any, bool]:
    """Run the statement with the reply `chunks`, then another statement. Returns the result, and whether it closed.

    Checks what must hold for all chunks: a result that is returned is the expected one (only if `exact`); a connection
    that was closed has raised an error; the second statement returns its own result or raises.
    """
    before = [(NEXT_REPLIES["begin"],)] if exchange.begun else []
    after = [(ROLLED_BACK,)] if exchange.status == "E" else []
    after.append((NEXT_REPLIES["T" if exchange.status == "T" else "I" if exchange.autocommit else "begin"],))
    with scripted(*before, chunks, *after, shows=exchange.shows) as (connection, _):
        connection.autocommit = exchange.autocommit
        if exchange.begun:
            connection.run("select %s", ("x",))
        result = outcome(lambda: exchange.ask(connection))
        closed = connection.closed
        refused = isinstance(result, dbapi.Error)
        assert refused or not exact or exchange.quiet or is_expected(exchange, result)
        assert refused or not closed or exchange.quiet
        if exchange.status == "E":
            connection.rollback()
        following = outcome(lambda: connection.run("select %s", ("x",)).rows)
        if closed:
            assert isinstance(following, dbapi.InterfaceError)
        else:
            assert following == [[FOLLOWING]] or connection.closed or following.args[0]["C"] == "25P02"
        return result, closed


def letters_of(replies: Iterable[bytes]) -> str:
    """The codes of the replies up to ReadyForQuery, without those of asynchronous messages."""
    letters, ready, _ = "".join(reply[:1].decode() for reply in replies if reply[:1] not in b"NAS").partition("Z")
    return letters + ready


def is_legal_too(exchange: Exchange, replies: Iterable[bytes]) -> bool:
    """Whether `replies` are a valid reply with another result, so that the connection cannot detect the mutation.

    A result may have any number of rows, and a simple Query may contain any number of statements.
    """
    letters = letters_of(replies)
    if exchange.simple:
        return bool(re.fullmatch("C" * (not exchange.autocommit and not exchange.begun) + QUERY, letters))
    return same_but_for_rows(letters) == same_but_for_rows(letters_of(exchange.replies))


def same_but_for_rows(letters: str) -> str:
    return re.sub("(?<=H)d+", "", re.sub("(?<=T)D+", "", letters))


def is_well_formed(exchange: Exchange, replies: Iterable[bytes]) -> bool:
    """Whether `replies` are a valid reply to some statement that is sent in the same way."""
    begun = not exchange.autocommit and not exchange.begun
    form = "C" * begun + QUERY if exchange.simple else "12C" * begun + "12DC" * exchange.shows + STATEMENT
    return bool(re.fullmatch(form, letters_of(replies)))


def shortened(replies: Replies) -> Iterator[Replies]:
    for index in range(len(replies)):
        yield replies[:index] + replies[index + 1 :]


def doubled(replies: Replies) -> Iterator[Replies]:
    for index, reply in enumerate(replies):
        yield (*replies[:index], reply, *replies[index:])


def swapped(replies: Replies) -> Iterator[Replies]:
    for index in range(len(replies) - 1):
        yield (*replies[:index], replies[index + 1], replies[index], *replies[index + 2 :])


def interspersed(replies: Replies) -> Iterator[Replies]:
    for foreign in MESSAGES:
        for index in range(len(replies) + 1):
            yield (*replies[:index], foreign, *replies[index:])


def missized(replies: Replies) -> Iterator[Replies]:
    """Replies with a length that is invalid, too short or too long."""
    for index, reply in enumerate(replies):
        right = len(reply) - 1
        for length in {-(2**31), -1, 0, 3, 4, right - 1, right + 1, right + 5, 2**31 - 1} - {right}:
            yield (*replies[:index], reply[:1] + length.to_bytes(4, signed=True) + reply[5:], *replies[index + 1 :])


@MUTABLE
def test_a_complete_reply_is_the_result_and_leaves_the_connection_synchronized(exchange: Exchange) -> None:
    result, closed = execute(exchange, b"".join(exchange.replies))

    assert is_expected(exchange, result)
    assert not closed


@MUTABLE
def test_a_reply_split_at_any_byte_is_the_result(exchange: Exchange) -> None:
    data = b"".join(exchange.replies)
    for index in range(1, len(data)):
        result, closed = execute(exchange, data[:index], data[index:])
        assert is_expected(exchange, result), index
        assert not closed


@MUTABLE
def test_a_reply_in_single_bytes_is_the_result(exchange: Exchange) -> None:
    result, closed = execute(exchange, *(bytes((byte,)) for byte in b"".join(exchange.replies)))

    assert is_expected(exchange, result)
    assert not closed


@MUTABLE
def test_a_reply_truncated_at_any_byte_closes_the_connection(exchange: Exchange) -> None:
    data = b"".join(exchange.replies)
    for index in range(len(data)):
        result, closed = execute(exchange, data[:index])
        assert closed, index
        assert exchange.quiet or isinstance(result, dbapi.Error), index


@MUTABLE
@pytest.mark.parametrize("mutate", [shortened, doubled, swapped, interspersed])
def test_a_mutated_reply_gives_no_wrong_result(
    exchange: Exchange, mutate: Callable[[Replies], Iterator[Replies]]
) -> None:
    for replies in mutate(exchange.replies):
        execute(exchange, b"".join(replies), exact=not is_legal_too(exchange, replies))


@MUTABLE
def test_a_message_of_a_wrong_length_gives_no_wrong_result(exchange: Exchange) -> None:
    for replies in missized(exchange.replies):
        execute(exchange, b"".join(replies))


@MUTABLE
def test_the_reply_to_another_statement_gives_no_wrong_result(exchange: Exchange) -> None:
    """Unless it has the same form, because a reply does not name its statement."""
    for other in EXCHANGES.values():
        execute(exchange, b"".join(other.replies), exact=not is_well_formed(exchange, other.replies))


@MUTABLE
def test_an_extra_reply_is_not_the_result_of_the_next_statement(exchange: Exchange) -> None:
    execute(exchange, b"".join(exchange.replies * 2))
    execute(exchange, b"".join((*exchange.replies, *EXCHANGES["select"].replies)))


@MUTABLE
def test_a_fatal_error_after_a_reply_changes_neither_that_result_nor_the_next(exchange: Exchange) -> None:
    """The server process is ended between two statements."""
    replies = (*exchange.replies, error("57P01", "FATAL"))
    before = [(NEXT_REPLIES["begin"],)] if exchange.begun else []
    with scripted(*before, (b"".join(replies),), shows=exchange.shows) as (connection, _):
        connection.autocommit = exchange.autocommit
        if exchange.begun:
            connection.run("select %s", ("x",))
        assert is_expected(exchange, outcome(lambda: exchange.ask(connection)))
        following = outcome(lambda: connection.run("select %s", ("y",)))
        assert isinstance(following, dbapi.Error)
        assert connection.closed


@MUTABLE
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_garbage_in_a_reply_gives_no_wrong_result(exchange: Exchange, data: st.DataObject) -> None:
    """The garbage is between messages, because inside a message it may change a value, which no client can detect."""
    index = data.draw(st.integers(0, len(exchange.replies) - 1), label="where")
    lost = data.draw(st.integers(0, 2), label="replaced messages")
    garbage = data.draw(st.binary(min_size=1, max_size=12), label="garbage")
    execute(exchange, b"".join((*exchange.replies[:index], garbage, *exchange.replies[index + lost :])))


@MUTABLE
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(replies=st.lists(st.sampled_from(MESSAGES), max_size=8))
def test_messages_in_any_order_give_no_wrong_result(exchange: Exchange, replies: list[bytes]) -> None:
    replies = [*replies, ready(exchange.status)]
    execute(exchange, b"".join(replies), exact=not is_well_formed(exchange, replies))


@pytest.mark.parametrize("mutate", [shortened, doubled, swapped, interspersed, missized])
@pytest.mark.parametrize("name", [name for name, exchange in EXCHANGES.items() if exchange.status == "T"])
def test_commit_after_a_mutated_reply_succeeds_only_if_it_was_sent(
    name: str, mutate: Callable[[Replies], Iterator[Replies]]
) -> None:
    exchange = EXCHANGES[name]
    before = [(NEXT_REPLIES["begin"],)] if exchange.begun else []
    for replies in mutate(exchange.replies):
        after = (complete("COMMIT") + ready("I"),)
        with scripted(*before, (b"".join(replies),), after, shows=exchange.shows) as (connection, script):
            if exchange.begun:
                connection.run("select %s", ("x",))
            if not isinstance(outcome(lambda: exchange.ask(connection)), dbapi.Error):
                committed = outcome(connection.commit)
                assert isinstance(committed, dbapi.Error) or script.sent.endswith(b"commit\0")


@pytest.mark.parametrize("last", ["", "E", "E without fields", "C"])
def test_the_end_of_the_stream_is_an_operational_error_with_its_fields(last: str) -> None:
    """The API maps errors by their SQLSTATE (`exc.args[0]["C"]`)."""
    words = {
        "": b"",
        "E": error("57P01", "FATAL"),
        "E without fields": message(b"E", b"\0"),
        "C": complete("ROLLBACK"),
    }
    failed = b"".join(EXCHANGES["refused in a new transaction"].replies)
    with scripted((failed,), (words[last],)) as (connection, _):
        with pytest.raises(dbapi.IntegrityError):
            connection.run("insert into t values (%s)", ("x",))
        with pytest.raises(dbapi.OperationalError) as lost:
            connection.run("commit")
        assert connection.closed
        assert lost.value.args[0]["C"] == ("57P01" if last == "E" else "08006")


@pytest.mark.parametrize("code", sorted({bytes((byte,)) for byte in range(256)} - set(map(bytes, KNOWN))))
def test_an_unknown_message_closes_the_connection(code: bytes) -> None:
    result, closed = execute(EXCHANGES["select"], message(code), *EXCHANGES["select"].replies)

    assert isinstance(result, dbapi.OperationalError)
    assert closed


@pytest.mark.parametrize(
    "malformed",
    [
        *(
            message(b"S", body)
            for body in (b"", b"TimeZone", b"TimeZone\0UTC", b"TimeZone\0", b"TimeZone\0UTC\0more\0")
        ),
        *(message(b"N", body) for body in (b"", b"SNOTICE", b"SNOTICE\0VNOTICE")),
    ],
)
def test_a_malformed_message_that_may_come_at_any_time_closes_the_connection(malformed: bytes) -> None:
    """It can stand in place of lost rows: without them, `SELECT 1` is the end of a SELECT INTO."""
    with scripted((malformed + complete("SELECT 1") + ready("I"),)) as (connection, _):
        connection.autocommit = True
        with pytest.raises(dbapi.OperationalError, match="08P01"):
            connection.run("select 'x5'")
        assert connection.closed
