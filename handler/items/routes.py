"""The resource's routes. `async def` with the blocking driver called in place: docs/adr/0003 says why."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Response, status
from sqlalchemy import delete, func, insert, select, update

from handler.database.session import ReadSessionDep, SessionDep
from handler.errors import problems
from handler.items.models import Item
from handler.items.schemas import ItemId, ItemIn, ItemOut, ItemPage, ItemPatch
from handler.paging import Page, decode_cursor, encode_cursor

router = APIRouter(prefix="/items", tags=["items"], responses=problems(422, 500, 503))

ItemIdPath = Annotated[ItemId, Path(description="The item's id")]


@router.post("", status_code=status.HTTP_201_CREATED, include_in_schema=False)
@router.post("/", status_code=status.HTTP_201_CREATED, responses=problems(400, 413))
async def create_item(body: ItemIn, session: SessionDep, response: Response) -> ItemOut:
    item = session.scalars(insert(Item).values(body.model_dump()).returning(Item)).one()
    response.headers["Location"] = f"/items/{item.id}"
    return ItemOut.model_validate(item)


@router.get("", include_in_schema=False)
@router.get("/", responses=problems(400))
async def list_items(page: Annotated[Page, Query()], session: ReadSessionDep) -> ItemPage:
    after = decode_cursor(page.cursor)
    # One row more than asked for tells whether there is a next page.
    rows = session.scalars(select(Item).where(Item.id > after).order_by(Item.id).limit(page.limit + 1)).all()
    items = rows[: page.limit]
    return ItemPage(
        items=[ItemOut.model_validate(item) for item in items],
        next_cursor=encode_cursor(items[-1].id) if len(rows) > page.limit else None,
    )


@router.get("/{item_id}", responses=problems(404))
async def read_item(item_id: ItemIdPath, session: ReadSessionDep) -> ItemOut:
    return _found(session.scalars(select(Item).where(Item.id == item_id)).one_or_none())


@router.put("/{item_id}", responses=problems(400, 404, 413))
async def replace_item(item_id: ItemIdPath, body: ItemIn, session: SessionDep) -> ItemOut:
    return _change(session, item_id, body.model_dump())


@router.patch("/{item_id}", responses=problems(400, 404, 413))
async def change_item(item_id: ItemIdPath, body: ItemPatch, session: SessionDep) -> ItemOut:
    return _change(session, item_id, body.model_dump(exclude_unset=True))


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404))
async def delete_item(item_id: ItemIdPath, session: SessionDep) -> None:
    _found(session.scalars(delete(Item).where(Item.id == item_id).returning(Item)).one_or_none())


def _change(session: SessionDep, item_id: int, fields: dict[str, str | None]) -> ItemOut:
    """Change in one statement, so that nothing comes between reading and writing. No fields: no change."""
    if not fields:
        return _found(session.scalars(select(Item).where(Item.id == item_id)).one_or_none())
    change = update(Item).where(Item.id == item_id)
    change = change.values(**fields, version=Item.version + 1, updated_at=func.now())
    return _found(session.scalars(change.returning(Item)).one_or_none())


def _found(item: Item | None) -> ItemOut:
    if item is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Item not found")
    return ItemOut.model_validate(item)
