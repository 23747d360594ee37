"""FastAPI with SQLAlchemy's asyncio on asyncpg, as in their documentation, behind Mangum."""
# ruff: noqa: ANN201 - written in the style of tutorials

import asyncio
import os
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from mangum import Mangum
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# A connection of asyncpg belongs to one event loop, and Mangum runs each request in the current loop of the thread.
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)

engine = create_async_engine(os.environ["DATABASE_URL"])
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    # Server defaults are returned by the statement: asyncio cannot load an attribute on access.
    __mapper_args__ = {"eager_defaults": True}


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )


async def create_tables():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


loop.run_until_complete(create_tables())


class ItemCreate(BaseModel):
    name: str
    description: str | None = None


class ItemUpdate(BaseModel):
    name: str | None = None
    description: str | None = None


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    description: str | None
    version: int
    created_at: datetime
    updated_at: datetime


class ItemList(BaseModel):
    items: list[ItemRead]
    next_cursor: int | None


async def get_session():
    async with SessionLocal() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI()


@app.post("/items/", response_model=ItemRead, status_code=201)
async def create_item(body: ItemCreate, session: SessionDep):
    item = Item(**body.model_dump())
    session.add(item)
    await session.commit()
    return item


@app.get("/items/", response_model=ItemList)
async def read_items(session: SessionDep, cursor: int | None = None, limit: int = 50):
    query = select(Item).order_by(Item.id.desc()).limit(limit)
    if cursor is not None:
        query = query.where(Item.id < cursor)
    items = (await session.scalars(query)).all()
    return {"items": items, "next_cursor": items[-1].id if len(items) == limit else None}


@app.get("/items/{item_id}", response_model=ItemRead)
async def read_item(item_id: int, session: SessionDep):
    item = await session.get(Item, item_id)
    if item is None:
        raise HTTPException(status_code=404, detail="Item not found")
    return item


@app.patch("/items/{item_id}", response_model=ItemRead)
async def update_item(item_id: int, body: ItemUpdate, session: SessionDep):
    item = await session.get(Item, item_id)
    if item is None:
        raise HTTPException(status_code=404, detail="Item not found")
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(item, name, value)
    item.version += 1
    await session.commit()
    return item


handler = Mangum(app, lifespan="off")
