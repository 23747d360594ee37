"""A page that is too large for its event source has the probes that fit, and the next pages have the others."""

import json
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from fastapi import APIRouter, FastAPI, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from handler.api.auth import requires_scopes
from handler.api.pagination import Keyset, Page, PageQuery, paginate
from handler.database.session import ReadSessionDep, SessionDep
from handler.main import handler
from tests.support.client import ELEMENTS, probe_id
from tests.support.event_sources import EVENT_SOURCES, Received, parse_response
from tests.support.event_sources import Request as Sent
from tests.support.probe.models import Probe

LIMITS = dict.fromkeys(EVENT_SOURCES, 6_291_556) | {"ALB": 1_048_576, "ALB, multi-value": 1_048_576}
INSERT = "INSERT INTO probes (name, note) SELECT 'probe ' || lpad(g::text, 4, '0'), {} FROM generate_series(1, {}) g"
WIDE = "repeat('字', 10000)"  # 30,000 bytes
ESCAPED = "repeat(chr(1), 10000)"  # 60,000 bytes in JSON, and 70,000 in a JSON string in JSON


def get(source: str, path: str, query: str = "", method: str = "GET") -> Received:
    event = EVENT_SOURCES[source](Sent(method, path, query))
    returned = handler(event, None)
    assert len(json.dumps(returned, ensure_ascii=False).encode()) <= LIMITS[source]
    return parse_response(event, returned)


def pages(source: str, path: str, query: str) -> list[list[Any]]:
    """The probes of every page, following the cursors."""
    found = []
    while True:
        response = get(source, path, query)
        assert response.status == 200, response.body[:300]
        page = json.loads(response.body)
        found.append(page[ELEMENTS])
        if page["next_cursor"] is None:
            assert "link" not in response.headers
            return found
        assert len(found) <= 300
        query = urlsplit(response.headers["link"].partition(">")[0].lstrip("<")).query
        assert page["next_cursor"] in query


def ids(found: list[list[Any]]) -> list[int]:
    return [UUID(probe["id"]).int for page in found for probe in page]


@pytest.mark.parametrize("source", ["ALB", "ALB, multi-value"])
@pytest.mark.parametrize("query", ["", "limit=100", "state=idle", "limit=100&state=idle"])
def test_a_load_balancer_gets_the_large_probes_that_fit_into_a_page(source: str, query: str, database: Any) -> None:
    database.run(INSERT.format(WIDE, 101))
    found = pages(source, "/probes/", query)
    assert ids(found) == list(range(101, 0, -1))
    assert [len(page) for page in found[:-1]] == [len(found[0])] * (len(found) - 1)
    assert 25 <= len(found[0]) <= 34, "most of 1 MB is used"


@pytest.mark.parametrize("source", ["HTTP API 2.0", "HTTP API 1.0", "REST API", "function URL"])
def test_a_page_has_the_escaped_probes_that_fit_into_6_mb(source: str, database: Any) -> None:
    database.run(INSERT.format(ESCAPED, 101))
    found = pages(source, "/probes/", "limit=100")
    assert ids(found) == list(range(101, 0, -1))
    assert 75 <= len(found[0]) <= 90


@pytest.mark.parametrize("source", ["ALB", "HTTP API 2.0"])
@pytest.mark.parametrize("large", ["g % 2 = 0", "g <= 60", "g > 60", "g % 50 = 49", "g IN (1, 101)"])
def test_pages_of_probes_of_different_sizes_have_each_probe_once(large: str, source: str, database: Any) -> None:
    note = f"CASE WHEN {large} THEN {ESCAPED} END"
    database.run(INSERT.format(note, 101))
    assert ids(pages(source, "/probes/", "limit=100")) == list(range(101, 0, -1))


def test_head_has_the_headers_of_the_page_that_fits(database: Any) -> None:
    database.run(INSERT.format(WIDE, 51))
    responses = [get("ALB", "/probes/", method=method) for method in ("GET", "HEAD")]
    for response in responses:
        del response.headers["x-request-id"]
    assert responses[0].headers == responses[1].headers
    assert (responses[1].status, responses[1].body) == (200, b"")


# A list of another resource.


class Large(BaseModel):
    id: UUID
    text: str


class LargePage(Page[Large]):
    pass


class LargeQuery(PageQuery):
    size: int = 100_000


def add_lists(app: FastAPI) -> None:
    router = APIRouter(prefix="/test", dependencies=[requires_scopes()])

    def page(session: Session, query: LargeQuery, request: Request, response: Response) -> Any:
        found = paginate(session, select(Probe), Keyset(query, request, Probe.id), response)
        texts = {probe.id: "x" * (query.size if probe.id == probe_id(3) else 10) for probe in found[ELEMENTS]}
        return {**found, ELEMENTS: [{"id": one, "text": text} for one, text in texts.items()]}

    @router.get("/read", response_model=LargePage)
    async def _read(
        query: Annotated[LargeQuery, Query()], session: ReadSessionDep, request: Request, response: Response
    ) -> Any:
        return page(session, query, request, response)

    @router.post("/write", response_model=LargePage)
    async def _write(
        query: Annotated[LargeQuery, Query()], session: SessionDep, request: Request, response: Response
    ) -> Any:
        session.add(Probe(name=f"written {session.scalar(select(func.count()).select_from(Probe))}"))
        session.flush()
        return page(session, query, request, response)

    app.include_router(router)


def test_a_probe_that_is_too_large_is_a_500_and_the_previous_page_is_a_200(
    serve: Callable[..., FastAPI], database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    serve(add_lists)
    database.run(INSERT.format("NULL", 5))
    query = "limit=5&size=2000000"
    first = get("ALB", "/test/read", query)
    page = json.loads(first.body)
    assert (first.status, ids([page[ELEMENTS]])) == (200, [1, 2])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    second = get("ALB", "/test/read", f"{query}&cursor={page['next_cursor']}")
    assert second.status == 500
    assert json.loads(second.body)["detail"].endswith("bytes, and at most 1048576 can be returned")
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == json.loads(second.body)["detail"]
    assert get("HTTP API 2.0", "/test/read", query).status == 200


def test_a_request_that_may_write_is_not_run_again_for_a_smaller_page(
    serve: Callable[..., FastAPI], database: Any
) -> None:
    serve(add_lists)
    database.run(INSERT.format("NULL", 5))
    assert get("ALB", "/test/write", "size=2000000", method="POST").status == 500
    assert database.run("SELECT count(*) FROM probes WHERE name LIKE 'written%'") == [[1]]
