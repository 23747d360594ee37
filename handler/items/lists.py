"""The statements of lists and searches, built once (docs/adr/0010), and why a page stays cheap (docs/adr/0012)."""

from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Table,
    bindparam,
    func,
    or_,
    select,
    tuple_,
    union_all,
)

from handler.items.models import Item
from handler.items.schemas import MAX_ID

ITEMS = cast("Table", Item.__table__)
LIMIT = bindparam("limit", type_=Integer)
NEAR = 8000  # rows of the order that a search looks at before it asks the trigram index

# What comes before every row, in each order: the keys that the first page starts after.
FIRST: dict[str, dict[str, Any]] = {"newest": {"id": MAX_ID}, "name": {"name": "", "id": 0}}


def _after(order: str) -> ColumnElement[bool]:
    if order == "newest":
        return ITEMS.c.id < bindparam("id")
    return tuple_(ITEMS.c.name, ITEMS.c.id) > tuple_(bindparam("name"), bindparam("id"))


def _by(order: str, source: FromClause) -> list[ColumnElement[Any]]:
    return [source.c.id.desc()] if order == "newest" else [source.c.name, source.c.id]


def _contains(source: FromClause) -> ColumnElement[bool]:
    columns = (source.c.name, source.c.description)
    return or_(*(column.ilike(bindparam("pattern"), escape="\\") for column in columns))


def _list(order: str) -> Select[Any]:
    return select(*ITEMS.c).where(_after(order)).order_by(*_by(order, ITEMS))


def _search(order: str) -> Select[Any]:
    """A frequent text fills the page from the next rows of the order; a rare one is what the trigram index is for.

    PostgreSQL's own choice between the two rests on an estimate that can be wrong by thousands of times; here each is
    fenced off (MATERIALIZED), and the second runs only when the first did not fill the page.
    """
    next_rows = _list(order).limit(NEAR).subquery("next_rows")
    near = select(next_rows).where(_contains(next_rows)).order_by(*_by(order, next_rows)).limit(LIMIT).cte("near")
    is_full = select(func.count()).select_from(near).scalar_subquery() >= LIMIT
    far = select(*ITEMS.c).where(_after(order), _contains(ITEMS), ~is_full).cte("far").prefix_with("MATERIALIZED")
    found = union_all(select(near).where(is_full), select(far)).subquery("found")
    return select(found).order_by(*_by(order, found)).limit(LIMIT)


LISTS = {order: _list(order).limit(LIMIT) for order in FIRST}
SEARCHES = {order: _search(order) for order in FIRST}


def pattern(text: str) -> str:
    """`text` anywhere, for LIKE, in which these characters stand for others (PostgreSQL manual, 9.7.1)."""
    escaped = text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return f"%{escaped}%"
