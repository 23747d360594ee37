"""What the database says becomes a problem+json that tells a client what to do, and nothing more."""

import subprocess
import sys

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from handler.database.session import SessionDep
from tests.client import call, create

RAISE = "DO $$ BEGIN RAISE EXCEPTION 'SECRET-SQL-TEXT' USING ERRCODE = '{}', CONSTRAINT = 'ck_of_test'; END $$"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("23505", 409),
        ("23503", 409),
        ("23514", 422),
        ("23502", 422),
        ("22001", 422),
        ("22021", 422),
        ("40001", 503),
        ("40P01", 503),
        ("55P03", 503),
        ("57014", 503),
        ("53300", 503),
        ("57P01", 503),
        ("25006", 503),
        ("08006", 503),
        ("28P01", 503),
        ("42P01", 500),
        ("42703", 500),
        ("XX000", 500),
        ("P0001", 500),
    ],
)
def test_a_sqlstate_has_its_status(code: str, status: int, app: FastAPI) -> None:
    @app.post("/test/raise")
    async def _route(session: SessionDep) -> None:
        session.execute(text(RAISE.format(code)))

    response = call("POST", "/test/raise")
    assert response.status == status
    assert response.json["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in response.headers) == (status == 503)
    assert response.json.get("constraint") == ("ck_of_test" if status in (409, 422) else None)
    assert b"SECRET" not in response.body
    assert b"Traceback" not in response.body
    assert create("after")["name"] == "after"


def test_a_check_of_the_database_refuses_what_passed_the_api(app: FastAPI) -> None:
    @app.post("/test/past")
    async def _route(session: SessionDep) -> None:
        session.execute(text("INSERT INTO items (name) VALUES ('')"))

    response = call("POST", "/test/past")
    assert (response.status, response.json["constraint"]) == (422, "ck_items_name_length")


def test_a_database_that_is_gone_is_503_and_liveness_stays() -> None:
    code = (
        "from tests.client import call;"
        "answers = [call('GET', path) for path in ('/health/live', '/health/ready', '/items/1')];"
        "assert [answer.status for answer in answers] == [200, 503, 503], answers;"
        "assert answers[1].headers['retry-after'] == '1';"
        "assert b'127.0.0.1' not in answers[1].body + answers[2].body"
    )
    environment = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "AUTH_MODE": "none"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
