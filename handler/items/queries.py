"""The lists of items. docs/adr/0012 explains why their pages stay cheap."""

from typing import Any

from fastapi import Request, Response
from sqlalchemy import ColumnElement, func, or_, select, union_all
from sqlalchemy.orm import Session, aliased

from handler.api.pagination import Keyset, page_of, paginate
from handler.items.models import Item
from handler.items.schemas import ItemListQuery

SCAN_ROWS = 8000  # rows that a search scans in order before it uses the trigram index (docs/adr/0012)


def list_items(session: Session, query: ItemListQuery, request: Request, response: Response) -> dict[str, Any]:
    """A page of items, in one statement."""
    if query.order == "name":
        keyset = Keyset(query, request, Item.name, Item.id)
    else:
        keyset = Keyset(query, request, Item.id, descending=True)
    if query.q is None:
        return paginate(session, select(Item), keyset, response)
    return page_of(_search(session, keyset, query.q), keyset, response)


def _search(session: Session, keyset: Keyset, text: str) -> Any:
    """Search the next rows in order, which finds a frequent text, and then the trigram index, which finds a rare one.

    PostgreSQL would choose between the two by an estimate that can be wrong by a factor of thousands. MATERIALIZED
    separates them here, and the second runs only where the first did not fill the page.
    """
    limit = keyset.limit + 1
    in_order = select(Item).where(keyset.after()).order_by(*keyset.order_by()).limit(SCAN_ROWS).subquery()
    scanned = aliased(Item, in_order)
    near = select(scanned).where(_contains(scanned, text)).order_by(*_ordered(keyset, scanned)).limit(limit).cte("near")
    is_full = select(func.count()).select_from(near).scalar_subquery() >= limit
    far = select(Item).where(keyset.after(), _contains(Item, text), ~is_full).cte("far").prefix_with("MATERIALIZED")
    found = aliased(Item, union_all(select(near).where(is_full), select(far)).subquery())
    return session.scalars(select(found).order_by(*_ordered(keyset, found)).limit(limit)).all()


def _ordered(keyset: Keyset, item: type[Item]) -> list[ColumnElement[Any]]:
    return keyset.order_by(*(getattr(item, key.key) for key in keyset.keys))


def _contains(item: type[Item], text: str) -> ColumnElement[bool]:
    return or_(item.name.icontains(text, autoescape=True), item.description.icontains(text, autoescape=True))
