"""The features of SQLAlchemy work with this driver, on real PostgreSQL."""

import datetime as dt
import enum
import os
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Column,
    DateTime,
    Engine,
    Enum,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    delete,
    event,
    exc,
    func,
    insert,
    inspect,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.orm.exc import StaleDataError

from handler.database.connection import make_engine
from handler.settings import read_database_settings
from tests.support.column_values import VALUES


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "feature_authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    version: Mapped[int] = mapped_column()
    created_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's name and shape


class Book(Base):
    __tablename__ = "feature_books"
    __table_args__ = (CheckConstraint("pages > 0", name="feature_books_have_pages"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("feature_authors.id", deferrable=True), index=True)
    title: Mapped[str] = mapped_column(Text)
    pages: Mapped[int] = mapped_column(default=1)
    color: Mapped[Color] = mapped_column(Enum(Color, name="feature_color"), default=Color.RED)
    author: Mapped[Author] = relationship(back_populates="books")


AUTHORS: Any = Author.__table__
BOOKS: Any = Book.__table__


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = make_engine(read_database_settings(os.environ), pool_size=1, max_overflow=1)
    Base.metadata.create_all(made)
    yield made
    made.dispose()
    Base.metadata.drop_all(made)
    made.dispose()


@pytest.fixture(autouse=True)
def _empty(engine: Engine) -> Iterator[None]:
    yield
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE feature_authors, feature_books RESTART IDENTITY"))


def stored(engine: Engine) -> list[str]:
    """The authors that another connection sees."""
    with engine.connect() as connection:
        return list(connection.scalars(select(AUTHORS.c.name).order_by(AUTHORS.c.id)))


def add(connection: Any, *names: str) -> None:
    connection.execute(insert(AUTHORS), [{"name": name, "version": 1} for name in names])


def fields(error: Any) -> dict[str, str]:
    """PostgreSQL's error fields by their letters."""
    found: dict[str, str] = error.value.orig.args[0]
    return found


# Values


@pytest.mark.parametrize(("kind", "value"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_a_value_comes_back_as_it_was_stored(kind: Any, value: Any, engine: Engine) -> None:
    table = Table("feature_values", MetaData(), Column("value", kind), prefixes=["TEMPORARY"])
    with engine.connect() as connection:
        table.create(connection)
        connection.execute(insert(table).values(value=value))
        assert connection.execute(select(table.c.value)).scalar_one() == value
        if not isinstance(kind, JSONB):  # one row and no other is equal to it
            same = table.c.value.is_(None) if value is None else table.c.value == value
            assert connection.execute(select(func.count()).where(same)).scalar_one() == 1
        connection.rollback()


@pytest.mark.parametrize("kind", [Text(), LargeBinary(), JSONB()], ids=["text", "bytea", "jsonb"])
def test_a_value_may_have_10_mb(kind: Any, engine: Engine) -> None:
    characters = "aé\U0001f9e8 " * (10 * 1024 * 1024 // 8)
    value: Any = {"text": characters} if isinstance(kind, JSONB) else characters
    value = characters.encode() if isinstance(kind, LargeBinary) else value
    table = Table("feature_large", MetaData(), Column("value", kind), prefixes=["TEMPORARY"])
    with engine.connect() as connection:
        table.create(connection)
        assert connection.execute(insert(table).values(value=value).returning(table.c.value)).scalar_one() == value
        assert connection.execute(select(table.c.value)).scalar_one() == value
        connection.rollback()


def test_an_address_comes_back_as_it_was_stored(engine: Engine) -> None:
    with engine.connect() as connection:
        address = connection.execute(select(func.host(bindparam("address", "2001:db8::1", INET())))).scalar_one()
    assert address == "2001:db8::1"


def test_jsonb_can_be_searched(engine: Engine) -> None:
    document = Table("feature_documents", MetaData(), Column("body", JSONB), prefixes=["TEMPORARY"])
    with engine.connect() as connection:
        document.create(connection)
        connection.execute(insert(document), [{"body": {"a": {"b": [1, 2]}, "c": "x"}}, {"body": {"d": None}}])
        count = select(func.count()).select_from(document)
        for found in (
            document.c.body.has_key("a"),  # the operator is a question mark
            document.c.body.contains({"c": "x"}),
            document.c.body["a"]["b"][1].as_integer() == 2,
            document.c.body[("a", "b", "0")].as_string() == "1",
            document.c.body["c"].astext == "x",
        ):
            assert connection.execute(count.where(found)).scalar_one() == 1
        connection.rollback()


def test_arrays_can_be_searched(engine: Engine) -> None:
    with engine.connect() as connection:
        add(connection, "a", "b", "c")
        chosen = AUTHORS.c.name == func.any(bindparam("names", ["a", "c", "'"], ARRAY(Text)))
        assert connection.scalars(select(AUTHORS.c.name).where(chosen).order_by("name")).all() == ["a", "c"]
        within = AUTHORS.c.name.in_([])
        assert connection.scalars(select(AUTHORS.c.name).where(within)).all() == []
        connection.rollback()


def test_a_text_that_postgresql_cannot_store_is_a_data_error_and_the_connection_stays_usable(engine: Engine) -> None:
    with engine.connect() as connection:
        add(connection, "before")
        for value in ("\x00", "\ud800"):
            with pytest.raises(exc.DataError), connection.begin_nested():
                connection.execute(select(bindparam("value", value, Text())))
        connection.commit()
    assert stored(engine) == ["before"]


# text(), and the percent sign


@pytest.mark.parametrize(
    ("statement", "values", "expected"),
    [
        ("SELECT 'a%b'", {}, "a%b"),
        ("SELECT '100%s %% %(x)s'", {}, "100%s %% %(x)s"),
        ("SELECT 7 % 4", {}, 3),
        ("SELECT 'a%b' || :x", {"x": "%s"}, "a%b%s"),
        ("SELECT :x LIKE 'a%'", {"x": "abc"}, True),
        ("SELECT mod(:x, 4)", {"x": 7}, 3),
        ("SELECT CAST(:x AS text) -- 50% of it", {"x": "x"}, "x"),
        ('SELECT :x AS "50%"', {"x": None}, None),
        (r"SELECT '\:x' || :x", {"x": "y"}, ":xy"),
        ("SELECT CAST(:x AS text) || :x", {"x": "y"}, "yy"),
        ("SELECT 1 -- \U0001f9e8", {}, 1),
    ],
)
def test_percent_signs_in_text_are_not_placeholders(
    statement: str, values: dict[str, Any], expected: Any, engine: Engine
) -> None:
    with engine.connect() as connection:
        assert connection.execute(text(statement), values).scalar_one() == expected
        assert connection.execute(text(statement), values).scalar_one() == expected


def test_like_takes_its_pattern_literally(engine: Engine) -> None:
    with engine.connect() as connection:
        add(connection, "50%", "500", "5_0")
        names = select(AUTHORS.c.name).order_by("name")
        assert connection.scalars(names.where(AUTHORS.c.name.like("50%"))).all() == ["50%", "500"]
        assert connection.scalars(names.where(AUTHORS.c.name.contains("%", autoescape=True))).all() == ["50%"]
        assert connection.scalars(names.where(AUTHORS.c.name.like(literal_column("'5_0'")))).all() == ["500", "5_0"]
        connection.rollback()


def test_modulo_works_with_parameters(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(select(bindparam("x", 7) % 4)).scalar_one() == 3


def test_modulo_works_without_parameters(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(select(literal_column("7", Integer) % literal_column("4"))).scalar_one() == 3


def test_several_statements_run_as_one_when_they_have_no_parameters(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO feature_authors (name, version) VALUES ('a', 1); SELECT 1; SELECT 2"))
    assert stored(engine) == ["a"]
    with pytest.raises(exc.DataError), engine.begin() as connection:
        connection.execute(text("INSERT INTO feature_authors (name, version) VALUES ('b', 1); SELECT 1 / 0"))
    assert stored(engine) == ["a"]


def test_several_statements_with_parameters_are_an_error(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(exc.ProgrammingError) as error:
            connection.execute(text("SELECT :x; SELECT 2"), {"x": 1})
        assert fields(error)["C"] == "42601"


@pytest.mark.parametrize("statement", ["", ";", "-- nothing"])
def test_an_empty_statement_is_not_an_error(statement: str, engine: Engine) -> None:
    with engine.connect() as connection:
        assert not connection.execute(text(statement)).returns_rows
        assert connection.execute(select(1)).scalar_one() == 1


# Many rows


def test_insertmanyvalues_stores_many_rows_with_few_statements_and_returns_them_in_order(engine: Engine) -> None:
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    names = [f"author {number}" for number in range(2500)]
    with engine.begin() as connection:
        result = connection.execute(
            insert(AUTHORS).returning(AUTHORS.c.id, AUTHORS.c.name, sort_by_parameter_order=True),
            [{"name": name, "version": 1} for name in names],
        )
        assert [row.name for row in result] == names
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) == 3
    assert stored(engine) == names


def test_executemany_updates_and_deletes_every_row_and_counts_them(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, "a", "b", "c")
        changed = update(AUTHORS).where(AUTHORS.c.name == bindparam("old")).values(name=bindparam("new"))
        result = connection.execute(
            changed, [{"old": "a", "new": "x"}, {"old": "b", "new": "y"}, {"old": "no", "new": "z"}]
        )
        assert result.rowcount == 2
        gone = delete(AUTHORS).where(AUTHORS.c.name == bindparam("old"))
        assert connection.execute(gone, [{"old": "x"}, {"old": "c"}]).rowcount == 2
    assert stored(engine) == ["y"]


def test_an_executemany_that_fails_stores_nothing(engine: Engine) -> None:
    with pytest.raises(exc.IntegrityError), engine.begin() as connection:
        add(connection, "a", "b", "a")
    assert stored(engine) == []


def test_returning_returns_the_written_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        made = connection.execute(insert(AUTHORS).values(name="a", version=1).returning(AUTHORS)).one()
        assert made.created_at.utcoffset() is not None
        changed = update(AUTHORS).values(version=AUTHORS.c.version + 1).returning(AUTHORS.c.version)
        assert connection.execute(changed).scalar_one() == 2
        assert connection.execute(delete(AUTHORS).returning(AUTHORS.c.id)).scalars().all() == [made.id]


def test_on_conflict_inserts_or_updates_or_does_nothing(engine: Engine) -> None:
    row = pg.insert(AUTHORS).values(name="a", version=1)
    upsert = row.on_conflict_do_update(index_elements=["name"], set_={"version": AUTHORS.c.version + 10})
    with engine.begin() as connection:
        assert connection.execute(upsert.returning(AUTHORS.c.version)).scalar_one() == 1
        assert connection.execute(upsert.returning(AUTHORS.c.version)).scalar_one() == 11
        assert connection.execute(row.on_conflict_do_nothing().returning(AUTHORS.c.id)).all() == []
    assert stored(engine) == ["a"]


# Streaming


SERIES = select(func.generate_series(1, bindparam("last", 1000)).label("number"))


def cursors(connection: Any) -> int:
    """The number of open cursors on the server, without the cursor of this statement."""
    return int(connection.execute(text("SELECT count(*) FROM pg_cursors WHERE name <> ''")).scalar_one())


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 7}], ids=["stream_results", "yield_per"])
def test_streaming_reads_everything_in_order(options: dict[str, Any], engine: Engine) -> None:
    with engine.connect() as connection:
        result = connection.execute(SERIES, execution_options=options)
        assert next(iter(result.scalars())) == 1
        assert cursors(connection) == 1
        assert list(result.scalars()) == list(range(2, 1001))
        assert cursors(connection) == 0


def test_streaming_without_parameters_reads_everything(engine: Engine) -> None:
    with engine.connect() as connection:
        statement = text("SELECT generate_series(1, 10)")
        result = connection.execute(statement, execution_options={"stream_results": True})
        assert [list(part) for part in result.scalars().partitions(3)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]


def test_streaming_may_end_early(engine: Engine) -> None:
    with engine.connect() as connection:
        result = connection.execute(SERIES, execution_options={"yield_per": 10})
        assert result.fetchmany(3)[-1].number == 3
        result.close()
        assert cursors(connection) == 0
        assert connection.execute(select(1)).scalar_one() == 1


def test_streams_and_statements_of_one_connection_do_not_disturb_each_other(engine: Engine) -> None:
    with engine.connect() as connection:
        streams = [connection.execute(SERIES, {"last": 9}, execution_options={"yield_per": 2}) for _ in range(2)]
        for one, other in zip(streams[0].scalars(), streams[1].scalars(), strict=True):
            assert one == other == connection.execute(select(bindparam("x", one))).scalar_one()


def test_an_error_in_the_middle_of_a_stream_is_raised_and_the_connection_stays_usable(engine: Engine) -> None:
    with engine.connect() as connection:
        statement = text("SELECT 1 / (5 - n) FROM generate_series(1, 9) n")
        result = connection.execute(statement, execution_options={"stream_results": True})
        assert result.fetchone() == (0,)
        with pytest.raises(exc.DataError):
            result.all()
        connection.rollback()
        assert connection.execute(select(1)).scalar_one() == 1


def test_a_session_streams_objects(engine: Engine) -> None:
    with Session(engine) as session:
        add(session, *(f"{number}" for number in range(25)))
        found = session.scalars(select(Author).order_by(Author.id).execution_options(yield_per=10))
        assert [author.name for author in found] == [f"{number}" for number in range(25)]


# Transactions


def test_a_savepoint_undoes_only_what_came_after_it(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, "before")
        with connection.begin_nested() as savepoint:
            add(connection, "inside")
            savepoint.rollback()
        with connection.begin_nested():
            add(connection, "kept")
            with pytest.raises(exc.IntegrityError), connection.begin_nested():
                add(connection, "kept")
        add(connection, "after")
    assert stored(engine) == ["before", "kept", "after"]


def test_after_an_error_a_transaction_rejects_everything_but_rollback(engine: Engine) -> None:
    with engine.connect() as connection:
        add(connection, "lost")
        with pytest.raises(exc.DataError):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(exc.InternalError) as error:
            connection.execute(select(1))
        assert fields(error)["C"] == "25P02"
        connection.rollback()
        add(connection, "kept")
        connection.commit()
    assert stored(engine) == ["kept"]


def test_the_commit_of_a_failed_transaction_is_an_error(engine: Engine) -> None:
    with engine.connect() as connection:
        add(connection, "lost")
        with pytest.raises(exc.DataError):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(exc.InternalError) as error:
            connection.commit()
        assert fields(error)["C"] == "25P02"
    assert stored(engine) == []


def test_a_connection_that_is_returned_to_the_pool_is_rolled_back(engine: Engine) -> None:
    with engine.connect() as connection:
        process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        add(connection, "lost")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() == process
        add(connection, "kept")
        connection.commit()
    assert stored(engine) == ["kept"]


@pytest.mark.parametrize("level", ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_an_isolation_level_applies_to_one_transaction(level: str, engine: Engine) -> None:
    show = text("SHOW transaction_isolation")
    with engine.execution_options(isolation_level=level).connect() as connection:
        assert connection.get_isolation_level() == level
        assert connection.execute(show).scalar_one() == level.lower()
        connection.rollback()
        assert connection.execute(show).scalar_one() == level.lower()
    with engine.connect() as connection:
        assert connection.execute(show).scalar_one() == "read committed"
    with Session(engine) as session:
        session.connection(execution_options={"isolation_level": level.replace(" ", "_")})
        assert session.execute(show).scalar_one() == level.lower()


def test_serializable_rejects_write_skew(engine: Engine) -> None:
    """Write skew: each counts, then adds (PostgreSQL manual, 13.2.3 "Serializable Isolation Level")."""
    serializable = engine.execution_options(isolation_level="SERIALIZABLE")
    count = select(func.count()).select_from(AUTHORS)
    with serializable.connect() as one, serializable.connect() as other:
        assert one.execute(count).scalar_one() == other.execute(count).scalar_one() == 0
        add(one, "one")
        add(other, "other")
        one.commit()
        with pytest.raises(exc.OperationalError) as error:
            other.commit()
        assert fields(error)["C"] == "40001"
    assert stored(engine) == ["one"]


def test_a_read_only_transaction_rejects_writes(engine: Engine) -> None:
    with engine.execution_options(postgresql_readonly=True).connect() as connection:
        assert connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
        with pytest.raises(exc.InternalError) as error:
            add(connection, "lost")
        assert fields(error)["C"] == "25006"
    with engine.begin() as connection:
        assert connection.execute(text("SHOW transaction_read_only")).scalar_one() == "off"
        add(connection, "kept")
    assert stored(engine) == ["kept"]


def test_deferrable_applies_to_the_transaction(engine: Engine) -> None:
    options = {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True, "postgresql_deferrable": True}
    show = text("SELECT current_setting('transaction_deferrable') || current_setting('transaction_isolation')")
    with engine.execution_options(**options).connect() as connection:
        assert connection.execute(show).scalar_one() == "onserializable"
    with engine.connect() as connection:
        assert connection.execute(show).scalar_one() == "offread committed"


def test_autocommit_stores_each_statement_and_runs_what_a_transaction_cannot(engine: Engine) -> None:
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        add(connection, "kept")
        with pytest.raises(exc.DataError):
            connection.execute(text("SELECT 1 / 0"))
        assert connection.execute(select(1)).scalar_one() == 1
        connection.execute(text("VACUUM feature_authors"))
        connection.rollback()
    assert stored(engine) == ["kept"]
    with engine.connect() as connection:
        add(connection, "lost")
    assert stored(engine) == ["kept"]


def test_two_phase_commit_is_not_supported(engine: Engine) -> None:
    with (
        engine.connect() as connection,
        pytest.raises(exc.NotSupportedError, match="two-phase commit is not supported"),
    ):
        connection.begin_twophase()
    with engine.begin() as connection:
        add(connection, "kept")
    assert stored(engine) == ["kept"]


# Errors


@pytest.mark.parametrize(
    ("statement", "kind", "sqlstate", "constraint"),
    [
        ("INSERT INTO feature_authors VALUES (9, 'a', 1)", exc.IntegrityError, "23505", "feature_authors_name_key"),
        ("INSERT INTO feature_authors VALUES (1, NULL, 1)", exc.IntegrityError, "23502", None),
        (
            "INSERT INTO feature_books VALUES (1, 9, 't', 1, 'RED')",
            exc.IntegrityError,
            "23503",
            "feature_books_author_id_fkey",
        ),
        (
            "INSERT INTO feature_books VALUES (1, 1, 't', 0, 'RED')",
            exc.IntegrityError,
            "23514",
            "feature_books_have_pages",
        ),
        ("INSERT INTO feature_books VALUES (1, 1, 't', 1, 'GREEN')", exc.DataError, "22P02", None),
        ("INSERT INTO feature_authors VALUES (1, repeat('x', 21), 1)", exc.DataError, "22001", None),
        ("SELECT 1 / 0", exc.DataError, "22012", None),
        ("SELECT 2147483647 + 1", exc.DataError, "22003", None),
        ("SELECT * FROM feature_nothing", exc.ProgrammingError, "42P01", None),
        ("SELECT nothing FROM feature_authors", exc.ProgrammingError, "42703", None),
        ("SELEC 1", exc.ProgrammingError, "42601", None),
        ("SELECT count(DISTINCT 1) OVER ()", exc.NotSupportedError, "0A000", None),
        ("SET LOCAL statement_timeout = 20; SELECT pg_sleep(9)", exc.OperationalError, "57014", None),
    ],
)
def test_an_error_has_pep_249_s_class_its_sqlstate_and_its_constraint(
    statement: str, kind: type[exc.DBAPIError], sqlstate: str, constraint: str | None, engine: Engine
) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO feature_authors (name, version) VALUES ('a', 1)"))
        with pytest.raises(kind) as error:
            connection.execute(text(statement))
        assert type(error.value) is kind
        assert fields(error)["C"] == sqlstate
        assert fields(error).get("n") == constraint
        assert not error.value.connection_invalidated
        connection.rollback()
        assert connection.execute(select(1)).scalar_one() == 1


def test_a_constraint_that_is_checked_at_commit_is_an_integrity_error(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        connection.execute(insert(BOOKS).values(author_id=9, title="t"))
        with pytest.raises(exc.IntegrityError) as error:
            connection.commit()
        assert fields(error)["C"] == "23503"
        assert fields(error)["n"] == "feature_books_author_id_fkey"
        connection.rollback()
        assert connection.execute(select(func.count()).select_from(BOOKS)).scalar_one() == 0


# The ORM and the schema


def test_objects_are_stored_and_read_with_their_relationships(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        author = Author(name="a", books=[Book(title="one"), Book(title="two", color=Color.DARK_BLUE)])
        session.add(author)
    with Session(engine) as session, session.begin():
        author = session.scalars(select(Author).options(selectinload(Author.books))).one()
        assert [(book.title, book.color) for book in author.books] == [("one", Color.RED), ("two", Color.DARK_BLUE)]
        author.books[0].title = "changed"
        del author.books[1]
        author.books.append(Book(title="three", pages=3))
    with Session(engine) as session, session.begin():
        found = session.scalars(select(Book).join(Book.author).where(Author.name == "a").order_by(Book.id)).all()
        assert [(book.title, book.author.name) for book in found] == [("changed", "a"), ("three", "a")]
        session.delete(found[0].author)
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Book)) == 0


def test_many_objects_are_flushed_with_their_keys(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        authors = [Author(name=f"{number}", books=[Book(title="b")]) for number in range(1200)]
        session.add_all(authors)
        session.flush()
        assert all(book.author_id == author.id for author in authors for book in author.books)


def test_an_object_that_another_has_changed_is_stale(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Author(name="a"))
    with Session(engine) as one, Session(engine) as other:
        one.scalars(select(Author)).one().name = "one"
        other.scalars(select(Author)).one().name = "other"
        one.commit()
        with pytest.raises(StaleDataError):
            other.commit()
    assert stored(engine) == ["one"]


def test_the_schema_can_be_inspected(engine: Engine) -> None:
    found = inspect(engine)
    assert {"feature_authors", "feature_books"} <= set(found.get_table_names())
    assert found.has_table("feature_books")
    assert found.has_table("feature_books", schema="public")
    assert not found.has_table("feature_nothing")
    columns = {column["name"]: column for column in found.get_columns("feature_books")}
    assert isinstance(columns["color"]["type"], pg.ENUM)
    assert not columns["title"]["nullable"]
    assert found.get_pk_constraint("feature_books")["constrained_columns"] == ["id"]
    (key,) = found.get_foreign_keys("feature_books")
    assert (key["referred_table"], key["referred_schema"]) == ("feature_authors", None)
    assert [index["column_names"] for index in found.get_indexes("feature_books")] == [["author_id"]]
    assert [check["name"] for check in found.get_check_constraints("feature_books")] == ["feature_books_have_pages"]
    (unique,) = found.get_unique_constraints("feature_authors")
    assert unique["column_names"] == ["name"]


def test_tables_can_be_reflected(engine: Engine) -> None:
    metadata = MetaData()
    metadata.reflect(engine, only=["feature_books"])
    assert set(metadata.tables) == {"feature_books", "feature_authors"}  # the table that it refers to is reflected too
    books = metadata.tables["feature_books"]
    with engine.connect() as connection:
        assert connection.execute(select(books).join(metadata.tables["feature_authors"])).all() == []
