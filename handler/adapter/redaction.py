"""Log records that quote no row, no parameter and no text of a client (docs/adr/0029).

The texts of some exceptions quote values: PostgreSQL's messages and details, SQLAlchemy's statements, pydantic's
inputs, Python's own `KeyError` and `ValueError`. In a log record such an exception is replaced by one of the same type
and traceback with a safe text: as the exception of the record, in its causes, contexts and groups, and as the message
or one of its arguments. All loggers of the process create their records here, so this applies to every logger, handler
and formatter.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dis import opmap
from types import TracebackType
from typing import Any

from fastapi.exceptions import ValidationException
from pg8000 import dbapi
from pydantic import ValidationError
from sqlalchemy.exc import CompileError, SQLAlchemyError, StatementError

from handler.database.base import Base
from handler.database.error_fields import describe, fields_of

# ValueErrors and LookupErrors of these packages quote the invalid value. Other modules are the application's own.
LIBRARIES = {"sqlalchemy", "pg8000", "dateutil", "pydantic", "pydantic_core", *sys.stdlib_module_names}
VERBS = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "CALL", "DO", "COPY", "LOCK", "SET"}
# A session that is used after an error quotes the text of that error: (pg8000.dbapi.IntegrityError) …
QUOTED_ERROR = re.compile(r"\(\w+(?:\.\w+)+\) .*", re.DOTALL)
RAISE = opmap["RAISE_VARARGS"]


def redact_log_records() -> None:
    """Redact every record that any logger of this process creates from now on."""
    make_record = logging.getLogRecordFactory()

    def make_redacted_record(*args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*args, **options)
        if record.exc_info and record.exc_info[1]:
            error = redact(record.exc_info[1])
            record.exc_info = (type(error), error, record.exc_info[2])
        record.msg = _redact_argument(record.msg)
        if isinstance(record.args, Mapping):
            record.args = {name: _redact_argument(one) for name, one in record.args.items()}
        elif record.args:
            record.args = tuple(map(_redact_argument, record.args))
        return record

    logging.setLogRecordFactory(make_redacted_record)


def redact(error: BaseException) -> BaseException:
    """Return `error` if no exception in its chain quotes a value, and otherwise a copy of the chain without values.

    A copy has the type's name, the traceback, the notes and the position in the chain of its original. Raises nothing.
    """
    try:
        safe_texts = {id(one): _safe_text(one) for one in _chain(error)}
        if not any(text is not None for text in safe_texts.values()):
            return error
        quoted = {str(one): text for one in _chain(error) if (text := safe_texts[id(one)]) is not None}
        return _copy(error, safe_texts, quoted, {})
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise, and a chain may be too long
        return _stand_in(error, "")


def _redact_argument(argument: Any) -> Any:
    return redact(argument) if isinstance(argument, BaseException) else argument


def _copy(
    error: BaseException,
    safe_texts: Mapping[int, str | None],
    quoted: Mapping[str, str],
    copies: dict[int, BaseException],
    *,
    below: bool = False,
) -> BaseException:
    """Copy `error` and the exceptions in its chain, each once. `copies` has the copies by the original's id.

    `safe_texts`, by id, are None where the original's text is safe. `quoted` are texts to replace where another
    exception repeats them. An exception `below` one that quotes values may quote them too, so its copy has no text.
    """
    if id(error) in copies:
        return copies[id(error)]
    safe = safe_texts[id(error)]
    below = below or safe is not None

    def copy_of(other: BaseException | None) -> BaseException | None:
        return _copy(other, safe_texts, quoted, copies, below=below) if other else None

    own_text, members = str(error), tuple[Any, ...]()
    if isinstance(error, BaseExceptionGroup):
        own_text, members = error.message, tuple(copy_of(one) for one in error.exceptions)
    copy = _stand_in(error, safe or ("" if below else _without(quoted, own_text)), members)
    copies[id(error)] = copy
    for note in () if below else getattr(error, "__notes__", ()):
        copy.add_note(_without(quoted, str(note)))
    copy.__cause__, copy.__context__ = copy_of(error.__cause__), copy_of(error.__context__)
    copy.__suppress_context__ = error.__suppress_context__
    return copy


def _without(quoted: Mapping[str, str], text: str) -> str:
    for one, safe in quoted.items():
        text = text.replace(one, safe) if one else text
    return text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, all its causes and contexts, direct and indirect, and the members of groups, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [other for other in (one.__cause__, one.__context__) if other]
            waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


def _stand_in(error: BaseException, text: str, members: Sequence[Any] = ()) -> BaseException:
    """An exception that formatters show as `error`, with another text and, for a group, other members."""
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    # A BaseExceptionGroup can have members of any kind.
    base = BaseExceptionGroup if members else Exception
    arguments = (text, members) if members else (text,)
    copy: BaseException = type(kind.__name__, (base,), names)(*arguments)
    vars(copy)["is_logged"] = getattr(error, "is_logged", False)  # errors.is_logged
    return copy.with_traceback(error.__traceback__)


def _safe_text(error: BaseException) -> str | None:
    """The text to show in place of that of `error`; None where its own text quotes no value."""
    text = None
    match error:
        case StatementError():
            text = " ".join(filter(None, (_describe(error.orig), _outline(error.statement or ""))))
        case dbapi.Error():
            text = _describe(error)
        case ValidationError() | ValidationException():
            text = ", ".join(f"{_location(one)} {one['type']}" for one in error.errors())
        case CompileError():  # its text quotes a literal
            text = ""
        case SQLAlchemyError() if QUOTED_ERROR.search(str(error)):
            text = QUOTED_ERROR.sub("…", str(error))
        case (
            ValueError() | LookupError() | AttributeError() | TypeError() | OSError() | SyntaxError() | ImportError()
        ) if not isinstance(error, SQLAlchemyError) and not _is_written(error):
            text = ""
    return text


def _location(problem: Mapping[str, Any]) -> str:
    # The client chose the name of an undeclared field.
    parts = problem["loc"][:-1] if problem["type"] == "extra_forbidden" else problem["loc"]
    return ".".join(map(str, parts))


def _describe(cause: BaseException | None) -> str:
    """The SQLSTATE and message of a pg8000 error, or its text where it has no fields."""
    if isinstance(cause, dbapi.Error):
        return describe(fields_of(cause)) if fields_of(cause) else str(cause)
    return type(cause).__name__


def _outline(statement: str) -> str:
    """The verb of a statement and its tables, as `[INSERT items]`. Other words may be values."""
    words = re.findall(r"\w+", statement)
    verbs = [word.upper() for word in words[:1] if word.upper() in VERBS]
    tables = {table.name for table in Base.metadata.tables.values()}
    found = [*verbs, *dict.fromkeys(word for word in words if word in tables)]
    return f"[{' '.join(found)}]" if found else ""


def _is_written(error: BaseException) -> bool:
    """Whether a `raise` in the application raised the error, with a text that its author wrote.

    The interpreter writes the text for an expression such as `int(text)` or `prices[name]`, and libraries quote values.
    """
    last = _last(error.__traceback__)
    if last is None:
        return True  # it was never raised
    frame = last.tb_frame
    is_of_library = frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES
    return not is_of_library and frame.f_code.co_code[last.tb_lasti] == RAISE


def _last(traceback: TracebackType | None) -> TracebackType | None:
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    return traceback
