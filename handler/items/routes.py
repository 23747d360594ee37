"""The routes of items. docs/adr/0003 explains why they are `async def` with a blocking driver."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response, status

from handler.api.auth import requires_scopes
from handler.api.conditional import check_preconditions, delete_if_match, etag, update_if_match
from handler.api.fields import Id
from handler.api.idempotency import IDEMPOTENT
from handler.api.problems import problem_responses
from handler.api.routing import RepeatableRoute
from handler.database.session import ReadSessionDep, SessionDep
from handler.items import queries
from handler.items.models import Item
from handler.items.schemas import ItemCreate, ItemListQuery, ItemPage, ItemRead, ItemUpdate

router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=RepeatableRoute,
    responses=problem_responses(400, 422, 500, 503),
)

READ, WRITE = requires_scopes("items:read"), requires_scopes("items:write")

ItemId = Annotated[Id, Path(description="The item's id")]


@router.get(
    "/{item_id}",
    response_model=ItemRead,
    dependencies=[READ],
    responses={304: {"description": "Not Modified"}, **problem_responses(404, 412)},
)
async def read_item(item_id: ItemId, session: ReadSessionDep, request: Request, response: Response) -> Any:
    """Read an item; 304 where `If-None-Match` has its ETag."""
    item = session.get(Item, item_id)
    if item is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Item not found")
    response.headers["ETag"] = etag(item.version)
    check_preconditions(request, item.version)
    return item


@router.get("/", response_model=ItemPage, dependencies=[READ])
async def list_items(
    query: Annotated[ItemListQuery, Query()], session: ReadSessionDep, request: Request, response: Response
) -> Any:
    """List items, newest first or by name; `q` searches in name and description."""
    return queries.list_items(session, query, request, response)


@router.post(
    "/",
    response_model=ItemRead,
    status_code=status.HTTP_201_CREATED,
    dependencies=[WRITE, IDEMPOTENT],
    responses=problem_responses(409, 413, 415),
)
async def create_item(body: ItemCreate, session: SessionDep, request: Request, response: Response) -> Any:
    """Create an item. A retry with the same `Idempotency-Key` gets the first response."""
    item = Item(**body.model_dump())
    session.add(item)
    session.flush()
    response.headers["ETag"] = etag(item.version)
    response.headers["Location"] = f"{request.scope['path']}{item.id}"
    return item


@router.put(
    "/{item_id}", response_model=ItemRead, dependencies=[WRITE], responses=problem_responses(404, 412, 413, 415)
)
async def replace_item(
    item_id: ItemId, body: ItemCreate, session: SessionDep, request: Request, response: Response
) -> Any:
    """Replace the fields of an item that a client can set."""
    item = update_if_match(session, Item, item_id, body.model_dump(), request)
    response.headers["ETag"] = etag(item.version)
    return item


@router.patch(
    "/{item_id}", response_model=ItemRead, dependencies=[WRITE], responses=problem_responses(404, 412, 413, 415)
)
async def update_item(
    item_id: ItemId, body: ItemUpdate, session: SessionDep, request: Request, response: Response
) -> Any:
    """Change the given fields of an item: a JSON merge patch (RFC 7396)."""
    item = update_if_match(session, Item, item_id, body.model_dump(exclude_unset=True), request)
    response.headers["ETag"] = etag(item.version)
    return item


@router.delete(
    "/{item_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=[WRITE],
    responses=problem_responses(404, 412),
)
async def delete_item(item_id: ItemId, session: SessionDep, request: Request) -> None:
    """Delete an item."""
    delete_if_match(session, Item, item_id, request)
