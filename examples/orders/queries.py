"""The statements of orders that are more than one line of a route."""

from typing import Any

from fastapi import Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from examples.orders.models import Order
from examples.orders.schemas import OrderListQuery
from handler.api.pagination import Keyset, paginate


def list_orders(session: Session, query: OrderListQuery, request: Request, response: Response) -> dict[str, Any]:
    """A page of orders, in one statement."""
    statement = select(Order)
    if query.status is not None:
        statement = statement.where(Order.status == query.status)
    first = Order.total if query.order == "total" else Order.created_at
    keyset = Keyset(query, request, first, Order.id, descending=True)
    return paginate(session, statement, keyset, response)
