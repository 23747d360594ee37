"""The routes of orders. `async def` with the blocking driver called directly: docs/adr/0003 explains why."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response, status
from sqlalchemy.orm import joinedload

from examples.orders import queries
from examples.orders.models import NEXT_STATUSES, Order, OrderLine
from examples.orders.schemas import OrderCreate, OrderListQuery, OrderPage, OrderRead, OrderUpdate
from handler.api.auth import requires_scopes
from handler.api.conditional import check_preconditions, etag
from handler.api.fields import CanonicalUUID
from handler.api.idempotency import IDEMPOTENT
from handler.api.problems import problem_responses
from handler.api.routing import RepeatableRoute
from handler.database.session import ReadSessionDep, SessionDep

router = APIRouter(
    prefix="/orders",
    tags=["orders"],
    route_class=RepeatableRoute,
    responses=problem_responses(400, 422, 500, 503),
)

READ, WRITE = requires_scopes("orders:read"), requires_scopes("orders:write")

OrderId = Annotated[CanonicalUUID, Path(description="The order's id")]


@router.get(
    "/{order_id}",
    response_model=OrderRead,
    dependencies=[READ],
    responses={304: {"description": "Not Modified"}, **problem_responses(404, 412)},
)
async def read_order(order_id: OrderId, session: ReadSessionDep, request: Request, response: Response) -> Any:
    """Read an order with its lines; 304 where `If-None-Match` has its ETag."""
    order = session.get(Order, order_id, options=[joinedload(Order.lines)])
    if order is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Order not found")
    response.headers["ETag"] = etag(order.version)
    check_preconditions(request, order.version)
    return order


@router.get("/", response_model=OrderPage, dependencies=[READ])
async def list_orders(
    query: Annotated[OrderListQuery, Query()], session: ReadSessionDep, request: Request, response: Response
) -> Any:
    """List orders without their lines, newest or highest total first."""
    return queries.list_orders(session, query, request, response)


@router.post(
    "/",
    response_model=OrderRead,
    status_code=status.HTTP_201_CREATED,
    dependencies=[WRITE, IDEMPOTENT],
    responses=problem_responses(409, 413, 415),
)
async def create_order(body: OrderCreate, session: SessionDep, request: Request, response: Response) -> Any:
    """Create an order with its lines. With an `Idempotency-Key`, a retry gets the first response."""
    order = Order(
        **body.model_dump(exclude={"lines"}),
        lines=[OrderLine(**line.model_dump()) for line in body.lines],
        total=sum((line.quantity * line.unit_price for line in body.lines), Decimal(0)),
    )
    session.add(order)
    session.flush()
    response.headers["ETag"] = etag(order.version)
    response.headers["Location"] = f"{request.scope['path']}{order.id}"
    return order


@router.patch(
    "/{order_id}",
    response_model=OrderRead,
    dependencies=[WRITE],
    responses=problem_responses(404, 409, 412, 413, 415),
)
async def update_order(
    order_id: OrderId, body: OrderUpdate, session: SessionDep, request: Request, response: Response
) -> Any:
    """Change the status of an order; 409 where the new status does not follow the present one."""
    order = session.get(Order, order_id, options=[joinedload(Order.lines)])
    if order is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Order not found")
    check_preconditions(request, order.version)
    if body.status not in NEXT_STATUSES[order.status]:
        raise HTTPException(status.HTTP_409_CONFLICT, f"An order that is {order.status} cannot become {body.status}")
    order.status = body.status
    session.flush()
    response.headers["ETag"] = etag(order.version)
    return order
