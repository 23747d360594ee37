"""The resource's routes. `async def` with the blocking driver called in place: docs/adr/0003 says why."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, HTTPException, Path, Query, Response, status
from sqlalchemy import Result, Table, bindparam, delete, func, insert, select, update

from handler.database.session import ReadSessionDep, SessionDep
from handler.errors import problems
from handler.items.models import Item
from handler.items.schemas import ItemId, ItemIn, ItemOut, ItemPage, ItemPatch
from handler.paging import Page, decode_cursor, encode_cursor

router = APIRouter(prefix="/items", tags=["items"], responses=problems(422, 500, 503))

ItemIdPath = Annotated[ItemId, Path(description="The item's id")]


# Statements are built once, and read columns, not entities: an answer needs no object that tracks its changes.
# Building one for each request, and an entity for each row, takes longer than PostgreSQL does (benchmarks/).
ITEMS = cast(Table, Item.__table__)
BY_ID = ITEMS.c.id == bindparam("item_id")
CREATE = insert(ITEMS).returning(*ITEMS.c)
READ = select(*ITEMS.c).where(BY_ID)
LIST = select(*ITEMS.c).where(ITEMS.c.id > bindparam("after")).order_by(ITEMS.c.id).limit(bindparam("limit"))
CHANGE = update(ITEMS).where(BY_ID).values(version=ITEMS.c.version + 1, updated_at=func.now()).returning(*ITEMS.c)
DELETE = delete(ITEMS).where(BY_ID).returning(ITEMS.c.id)


@router.post("", status_code=status.HTTP_201_CREATED, include_in_schema=False)
@router.post("/", status_code=status.HTTP_201_CREATED, responses=problems(400, 413))
async def create_item(body: ItemIn, session: SessionDep, response: Response) -> ItemOut:
    item = session.execute(CREATE, body.model_dump()).one()
    response.headers["Location"] = f"/items/{item.id}"
    return ItemOut.model_validate(item)


@router.get("", include_in_schema=False)
@router.get("/", responses=problems(400))
async def list_items(page: Annotated[Page, Query()], session: ReadSessionDep) -> ItemPage:
    # One row more than asked for tells whether there is a next page.
    rows = session.execute(LIST, {"after": decode_cursor(page.cursor), "limit": page.limit + 1}).all()
    items = rows[: page.limit]
    return ItemPage(
        items=[ItemOut.model_validate(item) for item in items],
        next_cursor=encode_cursor(items[-1].id) if len(rows) > page.limit else None,
    )


@router.get("/{item_id}", responses=problems(404))
async def read_item(item_id: ItemIdPath, session: ReadSessionDep) -> ItemOut:
    return ItemOut.model_validate(_found(session.execute(READ, {"item_id": item_id})))


@router.put("/{item_id}", responses=problems(400, 404, 413))
async def replace_item(item_id: ItemIdPath, body: ItemIn, session: SessionDep) -> ItemOut:
    return _change(session, item_id, body.model_dump())


@router.patch("/{item_id}", responses=problems(400, 404, 413))
async def change_item(item_id: ItemIdPath, body: ItemPatch, session: SessionDep) -> ItemOut:
    return _change(session, item_id, body.model_dump(exclude_unset=True))


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404))
async def delete_item(item_id: ItemIdPath, session: SessionDep) -> None:
    _found(session.execute(DELETE, {"item_id": item_id}))


def _change(session: SessionDep, item_id: int, fields: dict[str, str | None]) -> ItemOut:
    """Change in one statement, so that nothing comes between reading and writing. No fields: no change."""
    statement = CHANGE.values(**fields) if fields else READ
    return ItemOut.model_validate(_found(session.execute(statement, {"item_id": item_id})))


def _found(result: Result[Any]) -> Any:
    row = result.one_or_none()
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Item not found")
    return row
