"""The usual tutorial on Lambda: sync routes, SQLAlchemy's defaults, stock pg8000, Mangum.

Items and pages are those of this project, so that the work is the same. `# fails:` marks known failures. With
`postgresql+psycopg://` in DATABASE_URL the same code runs on psycopg 3.
"""
# ruff: noqa: ANN201, FAST002 - written in the style of tutorials

import os
from datetime import datetime

from fastapi import Depends, FastAPI, HTTPException
from mangum import Mangum
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

# fails: an environment serves one request at a time and may open 15 connections. A connection that was closed while the
# environment was frozen is a 500, and a request on a silent connection hangs. No server certificate is verified.
engine = create_engine(os.environ["DATABASE_URL"])
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True, index=True)
    name: Mapped[str] = mapped_column(index=True)
    description: Mapped[str | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )


# Runs at every cold start. fails: if two environments start at once with an empty database; it never changes a table.
Base.metadata.create_all(bind=engine)


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


app = FastAPI()


# Sync functions run in a thread; under Mangum each request starts a new one.
def get_db():
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


@app.post("/items/", response_model=ItemRead, status_code=201)
def create_item(item: ItemCreate, db: Session = Depends(get_db)):
    db_item = Item(**item.model_dump())
    db.add(db_item)
    db.commit()
    db.refresh(db_item)  # a second transaction, which reads the new row
    return db_item


@app.get("/items/", response_model=ItemList)
def read_items(cursor: int | None = None, limit: int = 50, db: Session = Depends(get_db)):
    query = db.query(Item)
    if cursor is not None:
        query = query.filter(Item.id < cursor)
    items = query.order_by(Item.id.desc()).limit(limit).all()
    return {"items": items, "next_cursor": items[-1].id if len(items) == limit else None}


@app.get("/items/{item_id}", response_model=ItemRead)
def read_item(item_id: int, db: Session = Depends(get_db)):
    item = db.query(Item).filter(Item.id == item_id).first()  # fails: 500 from 2147483648 on
    if item is None:
        raise HTTPException(status_code=404, detail="Item not found")
    return item


@app.patch("/items/{item_id}", response_model=ItemRead)
def update_item(item_id: int, item: ItemUpdate, db: Session = Depends(get_db)):
    db_item = db.query(Item).filter(Item.id == item_id).first()
    if db_item is None:
        raise HTTPException(status_code=404, detail="Item not found")
    for name, value in item.model_dump(exclude_unset=True).items():
        setattr(db_item, name, value)  # fails: overwrites a change that was made since the read
    db_item.version += 1
    db.commit()
    db.refresh(db_item)
    return db_item


handler = Mangum(app)  # runs startup and shutdown on every invocation
