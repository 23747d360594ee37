"""Powertools for AWS Lambda: its resolver and validation, with SQL on pg8000 without an ORM."""
# ruff: noqa: ANN201 - written in the style of tutorials

import os
from datetime import datetime
from urllib.parse import urlsplit

import pg8000.native
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from pydantic import BaseModel

COLUMNS = "id, name, description, version, created_at, updated_at"

url = urlsplit(os.environ["DATABASE_URL"])
database = pg8000.native.Connection(
    url.username, host=url.hostname, port=url.port, database=url.path[1:], password=url.password
)
database.run(
    "CREATE TABLE IF NOT EXISTS items (id bigserial PRIMARY KEY, name text NOT NULL, description text,"
    " version integer NOT NULL DEFAULT 1, created_at timestamptz NOT NULL DEFAULT now(),"
    " updated_at timestamptz NOT NULL DEFAULT now())"
)
app = APIGatewayHttpResolver(enable_validation=True)


class ItemCreate(BaseModel):
    name: str
    description: str | None = None


class ItemUpdate(BaseModel):
    name: str | None = None
    description: str | None = None


class ItemRead(BaseModel):
    id: int
    name: str
    description: str | None
    version: int
    created_at: datetime
    updated_at: datetime


class ItemList(BaseModel):
    items: list[ItemRead]
    next_cursor: int | None


def read(sql: str, **parameters) -> list[ItemRead]:
    return [ItemRead(**dict(zip(ItemRead.model_fields, row, strict=True))) for row in database.run(sql, **parameters)]


@app.post("/items/")
def create_item(item: ItemCreate) -> tuple[ItemRead, int]:
    values = item.model_dump()
    sql = f"INSERT INTO items (name, description) VALUES (:name, :description) RETURNING {COLUMNS}"
    return read(sql, **values)[0], 201


@app.get("/items/")
def list_items(cursor: int = 2**31, limit: int = 50) -> ItemList:
    sql = f"SELECT {COLUMNS} FROM items WHERE id < :cursor ORDER BY id DESC LIMIT :limit"
    items = read(sql, cursor=cursor, limit=limit)
    return ItemList(items=items, next_cursor=items[-1].id if len(items) == limit else None)


@app.get("/items/<item_id>")
def read_item(item_id: int) -> ItemRead:
    found = read(f"SELECT {COLUMNS} FROM items WHERE id = :id", id=item_id)
    if not found:
        raise NotFoundError("Item not found")
    return found[0]


@app.patch("/items/<item_id>")
def update_item(item_id: int, item: ItemUpdate) -> ItemRead:
    changes = item.model_dump(exclude_unset=True)
    assignments = "".join(f", {name} = :{name}" for name in changes)
    sql = f"UPDATE items SET version = version + 1, updated_at = now(){assignments} WHERE id = :id RETURNING {COLUMNS}"
    found = read(sql, id=item_id, **changes)
    if not found:
        raise NotFoundError("Item not found")
    return found[0]


def handler(event, context):
    return app.resolve(event, context)
