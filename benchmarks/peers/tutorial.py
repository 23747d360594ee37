"""The usual tutorial, as people copy it to Lambda: sync routes, SQLAlchemy's defaults, stock pg8000, Mangum.

Left as it is found; `# fails:` says where it does.
"""
# ruff: noqa: ANN201, FAST002 - it is written as people write it

import os

from fastapi import Depends, FastAPI, HTTPException
from mangum import Mangum
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

# fails: up to 15 connections for each environment, which serves one request at a time; one that was cut while the
# environment was frozen is a 500, one that is silent hangs; over the network nobody's certificate is verified.
engine = create_engine(os.environ["DATABASE_URL"])
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True, index=True)
    name: Mapped[str] = mapped_column(index=True)
    description: Mapped[str | None]


# fails: on every cold start, and from two environments at once on an empty database. It never changes a table.
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


app = FastAPI()


# Sync functions go to a thread, which under Mangum is a new one for each request.
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
    db.refresh(db_item)  # a second transaction, to read what was just written
    return db_item


@app.get("/items/", response_model=list[ItemRead])
def read_items(db: Session = Depends(get_db)):
    return db.query(Item).limit(50).all()  # fails: in no order, so there is no next page


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
        setattr(db_item, name, value)  # fails: who else changed it since it was read is overwritten
    db.commit()
    db.refresh(db_item)
    return db_item


@app.delete("/items/{item_id}")
def delete_item(item_id: int, db: Session = Depends(get_db)):
    item = db.query(Item).filter(Item.id == item_id).first()
    if item is None:
        raise HTTPException(status_code=404, detail="Item not found")
    db.delete(item)
    db.commit()
    return {"ok": True}


handler = Mangum(app)  # runs startup and shutdown on every invocation
