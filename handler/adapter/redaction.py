"""Log records that quote neither a row nor a parameter nor what a client sent (docs/adr/0029).

The texts of some exceptions quote values: PostgreSQL's messages and details, SQLAlchemy's statements, pydantic's
inputs, Python's own `KeyError` and `ValueError`. In a log record such an exception is replaced by one of the same type
and traceback whose text is known to be safe, wherever it is: as the exception of the record, in its causes, contexts
and groups, as the message or one of its arguments. All loggers of the process make their records here, so it holds for
every logger, handler and formatter.
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

# Their ValueErrors and LookupErrors quote the value that they could not use. Those of the rest are written here.
LIBRARIES = {"sqlalchemy", "pg8000", "dateutil", "pydantic", "pydantic_core", *sys.stdlib_module_names}
VERBS = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "CALL", "DO", "COPY", "LOCK", "SET"}
# A StatementError's text, in that of the error of a session that is used after it: (pg8000.dbapi.IntegrityError) …
QUOTED_ERROR = re.compile(r"\(\w+(?:\.\w+)+\) .*", re.DOTALL)
RAISE = opmap["RAISE_VARARGS"]


def redact_log_records() -> None:
    """Redact every record that any logger of this process makes from now on."""
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
    """`error`, if nothing in its chain quotes a value; else a copy of the chain in which nothing does.

    A copy has the type's name, the traceback, the notes and the place in the chain of its original. Raises nothing.
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
    """A copy of `error` and all that is chained to it, each made once and kept in `copies`, by the original's id.

    `safe_texts`, by id, are None where the original's own text is safe. `quoted` are texts to replace where another
    exception repeats them. What is `below` an exception that quotes values was raised over them: it has no text.
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
    """`error`, its causes and contexts, and theirs, and the members of groups; each once."""
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
    """What to show in place of the text of `error`; None where its own quotes no value."""
    text = None
    match error:
        case StatementError():
            text = " ".join(filter(None, (_describe(error.orig), _outline(error.statement or ""))))
        case dbapi.Error():
            text = _describe(error)
        case ValidationError() | ValidationException():
            text = ", ".join(f"{_location(one)} {one['type']}" for one in error.errors())
        case CompileError():  # it quotes a literal
            text = ""
        case SQLAlchemyError() if QUOTED_ERROR.search(str(error)):
            text = QUOTED_ERROR.sub("…", str(error))
        case (
            ValueError() | LookupError() | AttributeError() | TypeError() | OSError() | SyntaxError() | ImportError()
        ) if not isinstance(error, SQLAlchemyError) and not _is_written(error):
            text = ""
    return text


def _location(problem: Mapping[str, Any]) -> str:
    # The name of a field that should not be there is the sender's own text.
    parts = problem["loc"][:-1] if problem["type"] == "extra_forbidden" else problem["loc"]
    return ".".join(map(str, parts))


def _describe(cause: BaseException | None) -> str:
    """SQLSTATE and message of a pg8000 error, or its text where the driver has no fields for it."""
    if isinstance(cause, dbapi.Error):
        return describe(fields_of(cause)) if fields_of(cause) else str(cause)
    return type(cause).__name__


def _outline(statement: str) -> str:
    """The verb of a statement and its tables, as `[INSERT items]`, and no other word: one may be a value."""
    words = re.findall(r"\w+", statement)
    verbs = [word.upper() for word in words[:1] if word.upper() in VERBS]
    tables = {table.name for table in Base.metadata.tables.values()}
    found = [*verbs, *dict.fromkeys(word for word in words if word in tables)]
    return f"[{' '.join(found)}]" if found else ""


def _is_written(error: BaseException) -> bool:
    """Whether the application raised it, with a text of its author's.

    An expression such as `int(text)` or `prices[name]` raises what the interpreter writes, and libraries quote too.
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
