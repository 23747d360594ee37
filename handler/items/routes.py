"""The resource's routes. `async def` with the blocking driver called in place: docs/adr/0003 says why."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request, Response, status
from sqlalchemy import Result, bindparam, delete, false, func, insert, select, update

from handler.auth import GuardedRoute, caller, needs
from handler.database.session import ReadSessionDep, SessionDep
from handler.errors import problems
from handler.idempotency import IDEMPOTENCY_KEY, earlier_answer, key_of, remember_answer
from handler.items.lists import FIRST, ITEMS, LISTS, SEARCHES, pattern
from handler.items.schemas import ItemId, ItemIn, ItemOut, ItemPage, ItemPatch
from handler.paging import Page, link_to_next, next_cursor, start_keys
from handler.preconditions import CONDITIONS_OF_CHANGE, CONDITIONS_OF_READ, etag, expected_versions, known_versions
from handler.query import describe_query, read_query, refuse_query

router = APIRouter(
    prefix="/items", tags=["items"], responses=problems(400, 401, 403, 422, 500, 503), route_class=GuardedRoute
)
READS, WRITES = needs("items:read"), needs("items:write")

ItemIdPath = Annotated[ItemId, Path(description="The item's id")]

# Statements are built once, and read columns, not entities (docs/adr/0010).
NAMES = ITEMS.c.keys()
BY_ID = ITEMS.c.id == bindparam("item_id")
CREATE = insert(ITEMS).returning(*ITEMS.c)
READ = select(*ITEMS.c).where(BY_ID)
CHANGE = update(ITEMS).where(BY_ID).values(version=ITEMS.c.version + 1, updated_at=func.now()).returning(*ITEMS.c)
DELETE = delete(ITEMS).where(BY_ID).returning(*ITEMS.c)
EXPECTED = ITEMS.c.version.in_(bindparam("expected", expanding=True))
UNWANTED = ITEMS.c.version.not_in(bindparam("unwanted", expanding=True))


# In the order of how often they are asked for: the framework tries each in turn (docs/adr/0020).
@router.get(
    "/{item_id}",
    response_model=ItemOut,
    responses={304: {"description": "Not Modified"}, **problems(404)},
    openapi_extra=READS | CONDITIONS_OF_READ,
)
async def read_item(item_id: ItemIdPath, session: ReadSessionDep, request: Request) -> Response:
    refuse_query(request)
    item = _found(session.execute(READ, {"item_id": item_id}))
    if item.version in known_versions(request):
        return Response(status_code=304, headers={"ETag": etag(item.version)})
    return _answer(item)


@router.get("/", response_model=ItemPage, openapi_extra=READS | describe_query(Page))
async def list_items(session: ReadSessionDep, request: Request) -> Response:
    page = read_query(Page, request)
    first = FIRST[page.order]
    start = dict(zip(first, start_keys(page, *first.values()), strict=True))
    # One row more than asked for tells whether there is a next page.
    parameters = start | {"limit": page.limit + 1}
    if page.q is None:
        statement = LISTS[page.order]
    else:
        statement, parameters["pattern"] = SEARCHES[page.order], pattern(page.q)
    rows = session.execute(statement, parameters).all()
    items, cursor, headers = [_fields(row) for row in rows[: page.limit]], None, {}
    if len(rows) > page.limit:
        cursor = next_cursor(page, *(items[-1][key] for key in first))
        headers["Link"] = link_to_next(f"{request.scope['root_path']}/items/", page, cursor)
    body = ItemPage.model_validate({"items": items, "next_cursor": cursor}).model_dump_json()
    return Response(body, 200, headers, "application/json")


@router.post(
    "/",
    status_code=status.HTTP_201_CREATED,
    response_model=ItemOut,
    responses=problems(409, 413),
    openapi_extra=WRITES | IDEMPOTENCY_KEY,
)
async def create_item(body: ItemIn, session: SessionDep, request: Request) -> Response:
    refuse_query(request)
    scope, key = "", key_of(request)
    if key:
        scope = f"POST /items/ {caller(request)}"  # nobody is answered with what another caller's key stored
        earlier = earlier_answer(session, scope, key, body.model_dump_json().encode())
        if earlier:
            return earlier
    item = session.execute(CREATE, body.model_dump()).one()
    answer = _answer(item, status.HTTP_201_CREATED)
    answer.headers["Location"] = f"{request.scope['root_path']}/items/{item.id}"
    if key:
        remember_answer(session, scope, key, answer)
    return answer


@router.put(
    "/{item_id}",
    response_model=ItemOut,
    responses=problems(404, 412, 413, 428),
    openapi_extra=WRITES | CONDITIONS_OF_CHANGE,
)
async def replace_item(item_id: ItemIdPath, body: ItemIn, session: SessionDep, request: Request) -> Response:
    return _answer(_changed(request, session, item_id, CHANGE, body.model_dump()))


@router.patch(
    "/{item_id}",
    response_model=ItemOut,
    responses=problems(404, 412, 413, 428),
    openapi_extra=WRITES | CONDITIONS_OF_CHANGE,
)
async def change_item(item_id: ItemIdPath, body: ItemPatch, session: SessionDep, request: Request) -> Response:
    """A JSON merge patch (RFC 7396)."""
    fields = body.model_dump(exclude_unset=True)
    return _answer(_changed(request, session, item_id, CHANGE if fields else READ, fields))


@router.delete(
    "/{item_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(404, 412, 428),
    openapi_extra=WRITES | CONDITIONS_OF_CHANGE,
)
async def delete_item(item_id: ItemIdPath, session: SessionDep, request: Request) -> None:
    _changed(request, session, item_id, DELETE, {})


# Without the slash too: a redirect would cost the client a second invocation.
router.add_api_route("", list_items, response_model=ItemPage, openapi_extra=READS, include_in_schema=False)
router.add_api_route(
    "",
    create_item,
    methods=["POST"],
    status_code=201,
    response_model=ItemOut,
    openapi_extra=WRITES,
    include_in_schema=False,
)


def _changed(request: Request, session: SessionDep, item_id: int, statement: Any, fields: dict[str, Any]) -> Any:
    """Check and change in one statement, so that nothing comes between: of several at once, one wins.

    CHANGE sets the columns that `fields` names, as SQLAlchemy does with what is no parameter of the statement.
    """
    refuse_query(request)
    expected, unwanted = expected_versions(request), known_versions(request)
    parameters = fields | {"item_id": item_id}
    if expected is None and not unwanted:
        return _found(session.execute(statement, parameters))
    if expected is not None:
        statement, parameters["expected"] = statement.where(EXPECTED), expected
    if isinstance(unwanted, range):
        statement = statement.where(false())
    elif unwanted:
        statement, parameters["unwanted"] = statement.where(UNWANTED), unwanted
    row = session.execute(statement, parameters).one_or_none()
    if row is None:
        _found(session.execute(READ, {"item_id": item_id}))
        raise HTTPException(status.HTTP_412_PRECONDITION_FAILED, "The item has another version by now")
    return row


def _found(result: Result[Any]) -> Any:
    row = result.one_or_none()
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Item not found")
    return row


def _answer(item: Any, status_code: int = 200) -> Response:
    """One item, serialised once; FastAPI would validate and serialise what it is given again."""
    body = ItemOut.model_validate(_fields(item)).model_dump_json()
    return Response(body, status_code, {"ETag": etag(item.version)}, "application/json")


def _fields(row: Any) -> dict[str, Any]:
    """By name, for pydantic: to ask a Row for each of its attributes takes it four times as long."""
    return dict(zip(NAMES, row, strict=True))
