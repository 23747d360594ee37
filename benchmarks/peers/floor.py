"""The floor: a bare handler with prepared statements on psycopg. No framework, no validation, no OpenAPI."""
# ruff: noqa: ANN001, ANN201 - written in the style of tutorials

import json
import os

import psycopg
from psycopg.rows import dict_row

COLUMNS = "id, name, description, version, created_at, updated_at"

database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row)
database.execute(
    "CREATE TABLE IF NOT EXISTS items (id bigserial PRIMARY KEY, name text NOT NULL, description text,"
    " version integer NOT NULL DEFAULT 1, created_at timestamptz NOT NULL DEFAULT now(),"
    " updated_at timestamptz NOT NULL DEFAULT now())"
)


def read(sql, *parameters):
    return database.execute(sql, parameters, prepare=True).fetchall()


def response(status, content):
    body = json.dumps(content, default=lambda moment: moment.isoformat(), separators=(",", ":"), ensure_ascii=False)
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": body}


def handler(event, context):
    method, path = event["requestContext"]["http"]["method"], event["rawPath"]
    item_id = path.removeprefix("/items/")
    match method, bool(item_id):
        case "GET", True:
            items = read(f"SELECT {COLUMNS} FROM items WHERE id = %s", int(item_id))
        case "GET", False:
            cursor = int((event.get("queryStringParameters") or {}).get("cursor", 2**31))
            items = read(f"SELECT {COLUMNS} FROM items WHERE id < %s ORDER BY id DESC LIMIT 50", cursor)
            return response(200, {"items": items, "next_cursor": items[-1]["id"] if len(items) == 50 else None})
        case "POST", False:
            body = json.loads(event["body"])
            sql = f"INSERT INTO items (name, description) VALUES (%s, %s) RETURNING {COLUMNS}"
            return response(201, read(sql, body["name"], body.get("description"))[0])
        case "PATCH", True:
            changes = json.loads(event["body"])
            assignments = "".join(f", {name} = %s" for name in ("name", "description") if name in changes)
            sql = f"UPDATE items SET version = version + 1, updated_at = now(){assignments} WHERE id = %s"
            values = [changes[name] for name in ("name", "description") if name in changes]
            items = read(f"{sql} RETURNING {COLUMNS}", *values, int(item_id))
        case _:
            return response(405, {"detail": "Method not allowed"})
    return response(200, items[0]) if items else response(404, {"detail": "Item not found"})
