"""Habits of FastAPI and SQLAlchemy users work, or the error says why they do not."""

import asyncio
import gzip
import importlib.util
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import PydanticV1NotSupportedError
from fastapi.responses import Response as PlainResponse
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, v1
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload
from starlette.middleware.gzip import GZipMiddleware

from handler.api.auth import PUBLIC, authorizer, requires_scopes
from handler.api.routing import ApiRoute, RepeatableRoute
from handler.app import MAX_BODY_BYTES
from handler.database.engine import engine
from handler.database.session import ReadSessionDep, SessionDep, get_read_session, get_session
from local.events import http_event
from tests.support.application import make_app
from tests.support.client import ELEMENTS, Response, call, create_probe, invoke, probe_names, probe_path
from tests.support.probe.models import Probe

Serve = Callable[[FastAPI], None]
Lines = list[dict[str, Any]]


class Base(DeclarativeBase):
    """The base class of this file's tables, which no migration creates."""


class Author(Base):
    __tablename__ = "habit_authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    version: Mapped[int] = mapped_column(server_default="1")
    books: Mapped[list["Book"]] = relationship(
        back_populates="author", cascade="all, delete-orphan", order_by="Book.id"
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's name and shape

    @property
    def titles(self) -> list[str]:
        return [book.title for book in self.books]


class Book(Base):
    __tablename__ = "habit_books"

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    title: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="books")


class EntityRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class BookRead(EntityRead):
    title: str


class AuthorRead(EntityRead):
    name: str
    version: int
    books: list[BookRead]


class AuthorTitles(EntityRead):
    name: str
    titles: list[str]


@pytest.fixture
def authors(database: Any) -> Iterator[Any]:
    """Two authors with two books each."""
    Base.metadata.create_all(engine)
    database.run("INSERT INTO habit_authors (name) VALUES ('ann'), ('bob')")
    database.run("INSERT INTO habit_books (author_id, title) VALUES (1, 'a'), (1, 'b'), (2, 'c'), (2, 'd')")
    yield database
    engine.dispose()
    Base.metadata.drop_all(engine)


def assert_problem(response: Any, status: int) -> None:
    """Check a response of `call` or of TestClient."""
    assert (response.status_code if isinstance(response, httpx.Response) else response.status) == status
    assert response.headers["content-type"] == "application/problem+json"


def with_claims(method: str, path: str, scope: str) -> Response:
    """The event of a request with a token that an authorizer has verified."""
    event = http_event(method, path, "", [], b"")
    event["requestContext"]["authorizer"] = {"jwt": {"claims": {"sub": "ann", "scope": scope}}}
    return invoke(event)


# app.dependency_overrides


def now() -> str:
    return "now"


@pytest.mark.parametrize("client", ["TestClient", "handler"])
def test_a_plain_dependency_can_be_overridden(client: str, serve_app: Serve) -> None:
    app = make_app()
    router = APIRouter(prefix="/test", dependencies=[PUBLIC])

    @router.get("/now")
    async def _route(moment: Annotated[str, Depends(now)]) -> str:
        return moment

    app.include_router(router)
    app.dependency_overrides[now] = lambda: "then"
    serve_app(app)
    found = TestClient(app).get("/test/now").json() if client == "TestClient" else call("GET", "/test/now").json
    assert found == "then"


@pytest.mark.parametrize("client", ["TestClient", "handler"])
def test_the_session_can_be_overridden(client: str, serve_app: Serve, database: Any) -> None:
    """As FastAPI's documentation does in tests: with one session, whose transaction the test rolls back."""
    app = make_app()
    serve_app(app)
    with Session(engine, expire_on_commit=False) as session:
        app.dependency_overrides[get_session] = app.dependency_overrides[get_read_session] = lambda: session
        if client == "TestClient":
            created = TestClient(app).post("/probes/", json={"name": "Lamp"}).json()
            found = TestClient(app).get(f"/probes/{created['id']}").json()
        else:
            created = create_probe("Lamp")
            found = call("GET", f"/probes/{created['id']}").json
        assert found == created
        assert probe_names(database) == []
        session.rollback()
    assert probe_names(database) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_authorizer_can_be_overridden(method: str) -> None:
    app = make_app(auth_mode="jwt")
    app.dependency_overrides[authorizer] = lambda: {"sub": "ann"}
    response = TestClient(app).request(method, "/probes/", json={"name": "Lamp"} if method == "POST" else None)
    assert response.status_code == (201 if method == "POST" else 200)


# FastAPI's TestClient


def test_the_test_client_reads_and_writes_as_the_handler_does(database: Any) -> None:
    with TestClient(make_app()) as client:
        created = client.post("/probes/", json={"name": "Lamp"}, headers={"Idempotency-Key": "a"})
        assert created.status_code == 201
        assert created.headers["location"] == probe_path(1)
        assert (
            client.post("/probes/", json={"name": "Lamp"}, headers={"Idempotency-Key": "a"}).content == created.content
        )
        assert client.get(probe_path(1), headers={"If-None-Match": created.headers["etag"]}).status_code == 304
        assert client.get("/probes", params={"limit": "1"}).json()[ELEMENTS] == [created.json()], (
            "TestClient follows the redirect"
        )
        assert client.patch(probe_path(1), json={"name": "Desk"}, headers={"If-Match": '"1"'}).json()["version"] == 2
        assert client.put(probe_path(1), json={"name": "Chair"}).json()["name"] == "Chair"
        assert client.delete(probe_path(1)).status_code == 204
        assert client.get("/health/ready").json() == {"status": "ok"}
    assert probe_names(database) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it


def test_the_test_client_is_sent_the_errors_of_the_handler(authors: Any) -> None:
    app = make_app()
    router = APIRouter(prefix="/test", dependencies=[PUBLIC])

    @router.post("/authors")
    async def _duplicate(session: SessionDep) -> None:
        session.add(Author(name="ann"))

    @router.post("/broken")
    async def _broken(session: SessionDep) -> None:
        session.add(Probe(name="lost"))
        raise RuntimeError("boom")

    app.include_router(router)
    client = TestClient(app, raise_server_exceptions=False)
    assert_problem(client.get(probe_path(9)), 404)
    assert_problem(client.get("/nowhere"), 404)
    assert_problem(client.post("/probes/", json={"name": ""}), 422)
    assert_problem(client.get("/probes/", params={"limt": "1"}), 422)
    assert_problem(client.post("/probes/", content="{", headers={"content-type": "application/json"}), 400)
    assert_problem(client.post("/probes/", content="x", headers={"content-type": "text/plain"}), 415)
    assert_problem(client.put("/probes/", json={"name": "Lamp"}), 405)
    assert_problem(client.post("/test/authors"), 409)
    assert_problem(client.post("/test/broken"), 500)
    with pytest.raises(RuntimeError, match="boom"):
        TestClient(app).post("/test/broken")  # FastAPI documentation, "Testing": the test sees the exception itself
    assert probe_names(authors) == []


def test_the_test_client_passes_no_authorizer() -> None:
    """Headers cannot contain an authorizer context. A test that needs a caller overrides the authorizer."""
    client = TestClient(make_app(auth_mode="jwt"))
    for method, path in [("GET", "/probes/"), ("POST", "/probes/"), ("GET", probe_path(1)), ("GET", "/health/ready")]:
        response = client.request(method, path, headers={"Authorization": "Bearer x"})
        assert_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")


# A plain APIRouter


def things() -> APIRouter:
    router = APIRouter(prefix="/things", tags=["things"])

    @router.get("/{thing_id}", dependencies=[requires_scopes("things:read")])
    async def read_thing(thing_id: int, session: ReadSessionDep) -> int:
        return thing_id + (session.scalar(select(func.count()).select_from(Probe)) or 0)

    return router


def test_a_plain_router_with_a_prefix_is_served_and_logged_by_its_whole_path(
    serve_app: Serve, logged_requests: Lines
) -> None:
    app, shop = make_app(), APIRouter(prefix="/shop")
    shop.include_router(things())
    app.include_router(shop, prefix="/v1")
    serve_app(app)
    assert call("GET", "/v1/shop/things/7").json == 7
    assert_problem(call("GET", "/v1/shop/things/x"), 422)
    assert_problem(call("GET", "/things/7"), 404)
    assert [line["route"] for line in logged_requests] == [*["/v1/shop/things/{thing_id}"] * 2, "other"]
    assert "/v1/shop/things/{thing_id}" in app.openapi()["paths"]


def test_a_plain_router_has_the_authorization_that_it_declares(serve_app: Serve) -> None:
    app = make_app(auth_mode="jwt")
    app.include_router(things(), prefix="/shop")
    serve_app(app)
    assert_problem(call("GET", "/shop/things/7"), 401)
    assert_problem(with_claims("GET", "/shop/things/7", "probes:read"), 403)
    assert with_claims("GET", "/shop/things/7", "probes:read things:read").json == 7


@pytest.mark.parametrize("mode", ["none", "jwt", "iam"])
def test_a_router_without_authorization_does_not_start_and_says_what_is_missing(mode: str, serve_app: Serve) -> None:
    app, router = make_app(auth_mode=mode), APIRouter(prefix="/things")

    @router.get("/{thing_id}")
    async def _forgotten(thing_id: int) -> int:
        return thing_id

    app.include_router(router, prefix="/shop")
    with pytest.raises(TypeError, match=r"/shop/things/\{thing_id\} declares no authorization: add dependencies="):
        serve_app(app)


def test_authorization_may_be_declared_where_a_router_is_included(serve_app: Serve) -> None:
    app, router = make_app(auth_mode="jwt"), APIRouter(route_class=ApiRoute)

    @router.post("/things")
    async def _create(name: Annotated[str, Body(embed=True)]) -> str:
        return name

    app.include_router(router, dependencies=[requires_scopes("things:write")])
    serve_app(app)
    assert_problem(call("POST", "/things", {"name": "x"}), 401)
    assert_problem(with_claims("POST", "/things", "things:read"), 403)


# Middleware


def test_middleware_wraps_every_request(serve_app: Serve, database: Any, logged_requests: Lines) -> None:
    app, seen = make_app(), []

    @app.middleware("http")
    async def _tag(request: Request, call_next: Callable[[Request], Any]) -> Any:
        seen.append(request.url.path)
        response = await call_next(request)
        response.headers["X-Tag"] = "1"
        return response

    app.add_middleware(GZipMiddleware, minimum_size=100)
    serve_app(app)
    created = call("POST", "/probes/", {"name": "x" * 200}, headers=[("accept-encoding", "gzip")])
    assert (created.status, created.headers["x-tag"], created.headers["content-encoding"]) == (201, "1", "gzip")
    assert b"x" * 200 in gzip.decompress(created.body)
    assert_problem(call("GET", probe_path(9)), 404)
    assert call("GET", probe_path(9)).headers["x-tag"] == "1"
    assert seen == ["/probes/", probe_path(9), probe_path(9)]
    assert [line["route"] for line in logged_requests] == ["/probes/", "/probes/{probe_id}", "/probes/{probe_id}"]
    assert probe_names(database) == ["x" * 200]


def test_middleware_changes_nothing_of_commits_and_repeats(
    serve_app: Serve, database: Any, logged_requests: Lines
) -> None:
    """`call_next` runs the application in a separate task. A request that loses a race there is run again too."""
    app = make_app()
    app.middleware("http")(lambda request, call_next: call_next(request))
    router, attempts = APIRouter(prefix="/test", route_class=RepeatableRoute, dependencies=[PUBLIC]), []

    @router.post("/race")
    async def _race(session: SessionDep) -> None:
        attempts.append(1)
        session.add(Probe(name="x"))
        session.flush()
        if len(attempts) < 3:
            session.connection().exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$")

    @router.post("/broken")
    async def _broken(session: SessionDep) -> None:
        session.add(Probe(name="lost"))
        raise RuntimeError("boom")

    app.include_router(router)
    serve_app(app)
    assert call("POST", "/test/race").status == 200
    assert_problem(call("POST", "/test/broken"), 500)
    assert [(line["status"], line["repeats"]) for line in logged_requests] == [(200, 2), (500, 0)]
    assert probe_names(database) == ["x"]


def test_middleware_that_comes_too_late_says_so() -> None:
    from handler.main import app

    with pytest.raises(RuntimeError, match="Cannot add middleware after an application has started"):
        app.add_middleware(GZipMiddleware)


# Background tasks


def test_background_tasks_are_done_before_the_environment_can_freeze(app: FastAPI, database: Any) -> None:
    seen: list[Any] = []

    def task(name: str) -> None:
        seen.append((name, probe_names(database), engine.pool.checkedout()))  # type: ignore[attr-defined] # QueuePool has it
        with Session(engine) as session, session.begin():
            session.add(Probe(name=name))

    async def async_task() -> None:
        await asyncio.sleep(0.01)
        seen.append("async")

    @app.post("/test/tasks")
    async def _route(session: SessionDep, tasks: BackgroundTasks) -> str:
        session.add(Probe(name="of the request"))
        tasks.add_task(task, "of the task")
        tasks.add_task(async_task)
        return "sent"

    assert call("POST", "/test/tasks").json == "sent"
    assert seen == [("of the task", ["of the request"], 0), "async"], (
        "after the commit, with the connection in the pool"
    )
    assert probe_names(database) == ["of the request", "of the task"]


def test_background_tasks_of_a_request_that_failed_do_not_run(app: FastAPI) -> None:
    ran: list[int] = []

    @app.post("/test/tasks")
    async def _route(session: SessionDep, tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, 1)
        session.add(Probe(name=""))  # the database refuses this at the commit

    assert_problem(call("POST", "/test/tasks"), 422)
    assert ran == []


@pytest.mark.parametrize("session_dep", [SessionDep, ReadSessionDep], ids=["SessionDep", "ReadSessionDep"])
@pytest.mark.parametrize(
    "use",
    [lambda session: session.scalars(select(Probe)).all(), lambda session: session.add(Probe(name="lost"))],
    ids=["read", "add"],
)
def test_the_request_s_session_refuses_to_be_used_by_a_background_task(
    use: Callable[[Session], Any], session_dep: Any, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """It would begin a transaction that no code commits, on a connection that no code returns."""

    @app.post("/test/tasks")
    async def _route(session: session_dep, tasks: BackgroundTasks) -> None:
        tasks.add_task(use, session)

    call("POST", "/test/tasks")
    assert "This Session has been permanently closed" in caplog.text
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it
    assert create_probe("after")["name"] == "after"


# Lifespan


def test_a_lifespan_runs_once_before_the_first_request_on_its_event_loop(serve_app: Serve) -> None:
    events = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        events.append("started")
        yield {"client": "a client", "loop": loop}
        events.append("stopped")

    app = make_app()
    # As FastAPI(lifespan=...) in create_app(), or as the lifespan of a resource.
    router = APIRouter(prefix="/test", lifespan=lifespan, dependencies=[PUBLIC])

    @router.get("/state")
    async def _route(request: Request) -> list[Any]:
        events.append("request")
        changed, request.state.client = request.state.client, "changed"
        return [changed, request.state.loop is asyncio.get_running_loop()]

    app.include_router(router)
    assert events == []
    serve_app(app)
    assert events == ["started"]
    assert call("GET", "/test/state").json == call("GET", "/test/state").json == ["a client", True]
    assert events == ["started", "request", "request"]


def test_on_event_runs_too(serve_app: Serve) -> None:
    started: list[int] = []
    app = make_app()
    app.router.on_startup.append(lambda: started.append(1))
    serve_app(app)
    assert call("GET", "/health/live").status == 200
    assert started == [1]


def test_a_lifespan_may_use_the_database(serve_app: Serve, database: Any) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with Session(engine) as session, session.begin():
            session.add(Probe(name="of the lifespan"))
        yield

    app = make_app()
    app.include_router(APIRouter(lifespan=lifespan))
    serve_app(app)
    assert probe_names(database) == ["of the lifespan"]


def test_a_lifespan_that_fails_fails_the_import_with_its_message(serve_app: Serve) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not os.environ.get("CACHE"):
            raise RuntimeError("the cache is not there")
        yield

    app = make_app()
    app.include_router(APIRouter(lifespan=lifespan))
    with pytest.raises(RuntimeError, match="the cache is not there"):
        serve_app(app)


# Uploads


@pytest.mark.parametrize("route_class", [None, ApiRoute], ids=["a plain router", "ApiRoute"])
def test_a_raw_body_is_read_as_it_was_sent(route_class: Any, app: FastAPI) -> None:
    router = APIRouter(prefix="/test", **({"route_class": route_class} if route_class else {}))

    @router.post("/stream")
    async def _stream(request: Request) -> PlainResponse:
        return PlainResponse(b"".join([chunk async for chunk in request.stream()]), media_type="image/png")

    @router.post("/bytes")
    async def _bytes(body: Annotated[bytes, Body(media_type="image/png")]) -> PlainResponse:
        return PlainResponse(body, media_type="image/png")

    app.include_router(router)
    sent = bytes(range(256)) * (MAX_BODY_BYTES // 256)
    for path in ("/test/stream", "/test/bytes"):
        response = call("POST", path, sent, content_type="image/png")
        assert (response.status, response.body) == (200, sent)
        too_large = call("POST", path, sent + b"x", content_type="image/png")
        assert_problem(too_large, 413)
        assert str(MAX_BODY_BYTES) in too_large.json["detail"]


@pytest.mark.skipif(importlib.util.find_spec("python_multipart") is not None, reason="python-multipart is installed")
def test_a_model_of_pydantic_1_is_refused_when_the_route_is_declared(app: FastAPI) -> None:
    class Order(v1.BaseModel):
        name: str

    async def create(order: Order) -> None: ...

    with pytest.raises(PydanticV1NotSupportedError, match="no longer supported by FastAPI"):
        app.add_api_route("/orders", create, methods=["POST"], dependencies=[PUBLIC])


@pytest.mark.parametrize("parameter", [Annotated[str, Form()], Annotated[bytes, File()], UploadFile])
def test_a_form_without_python_multipart_says_what_to_install(parameter: Any, app: FastAPI) -> None:
    with pytest.raises(RuntimeError, match="pip install python-multipart"):

        @app.post("/test/form")
        async def _route(value: parameter) -> None: ...


# The user's own settings


class ShopSettings(BaseModel):
    """Settings as with pydantic-settings, which is not a dependency of this project."""

    currency: str = "EUR"
    database_url: str  # the service's own settings have this name too


@lru_cache
def get_shop_settings() -> ShopSettings:
    return ShopSettings.model_validate({name.lower(): value for name, value in os.environ.items()})


def test_the_user_s_own_settings_work_beside_the_settings_of_the_service(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURRENCY", "CHF")
    get_shop_settings.cache_clear()

    @app.get("/test/settings")
    async def _route(shop: Annotated[ShopSettings, Depends(get_shop_settings)]) -> list[Any]:
        return [shop.currency, shop.database_url == os.environ["DATABASE_URL"]]

    assert call("GET", "/test/settings").json == ["CHF", True]
    assert call("GET", "/probes/").status == 200


# Dependencies with yield


def test_a_dependency_with_yield_uses_the_route_s_session_before_and_after(
    app: FastAPI, database: Any, logged_requests: Lines
) -> None:
    async def audit(session: SessionDep) -> AsyncIterator[Probe]:
        probe = Probe(name="before")
        session.add(probe)
        session.flush()
        yield probe
        session.add(Probe(name=f"after {probe.note}"))

    @app.post("/test/audit")
    async def _route(probe: Annotated[Probe, Depends(audit, scope="function")], session: SessionDep) -> None:
        assert probe in session
        probe.note = "the route"

    assert call("POST", "/test/audit").status == 200
    assert probe_names(database) == ["before", "after the route"]
    assert [line["connections"] for line in logged_requests] == [0]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_dependency_with_yield_sees_the_error_of_the_route_and_may_return_a_response(
    kind: str, app: FastAPI, database: Any
) -> None:
    async def translate(session: SessionDep) -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            assert session.new
            raise HTTPException(409, "translated") from error

    def translate_sync(session: SessionDep) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            assert session.new
            raise HTTPException(409, "translated") from error

    dependency = Depends(translate if kind == "async" else translate_sync, scope="function")

    @app.post("/test/error", dependencies=[dependency])
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="lost"))
        raise ValueError("boom")

    response = call("POST", "/test/error")
    assert_problem(response, 409)
    assert response.json["detail"] == "translated"
    assert probe_names(database) == []


# The ORM in routes


def list_authors(app: FastAPI, session_dep: Any, *options: Any) -> None:
    @app.get("/test/authors", response_model=list[AuthorRead])
    async def _route(session: session_dep) -> Any:
        return session.scalars(select(Author).options(*options).order_by(Author.id)).unique().all()


@pytest.mark.parametrize(
    ("options", "statements"),
    [((), 3), ((selectinload(Author.books),), 2), ((joinedload(Author.books),), 1)],
    ids=["lazy", "selectinload", "joinedload"],
)
@pytest.mark.usefixtures("authors")
def test_relationships_are_loaded_as_they_are_serialized(
    options: Any, statements: int, app: FastAPI, logged_requests: Lines
) -> None:
    for session_dep in (ReadSessionDep, SessionDep):
        before = list(app.router.routes)
        list_authors(app, session_dep, *options)
        assert call("GET", "/test/authors").json == [
            {"name": "ann", "version": 1, "books": [{"title": "a"}, {"title": "b"}]},
            {"name": "bob", "version": 1, "books": [{"title": "c"}, {"title": "d"}]},
        ]
        app.router.routes[:] = before
    assert [line["RoundTrips"] for line in logged_requests] == [statements, statements + 1], "and a COMMIT"


@pytest.mark.usefixtures("authors")
def test_a_response_model_reads_properties_that_load_relationships(app: FastAPI) -> None:
    @app.get("/test/authors/{author_id}", response_model=AuthorTitles)
    async def _route(author_id: int, session: ReadSessionDep) -> Any:
        return session.get(Author, author_id)

    assert call("GET", "/test/authors/2").json == {"name": "bob", "titles": ["c", "d"]}


def test_an_object_graph_is_stored_by_its_root(app: FastAPI, authors: Any) -> None:
    @app.post("/test/authors", response_model=AuthorRead, status_code=201)
    async def _route(session: SessionDep) -> Any:
        author = Author(name="cat", books=[Book(title="e"), Book(title="f")])
        session.add(author)
        session.flush()
        return author

    response = call("POST", "/test/authors")
    assert (response.status, response.json) == (
        201,
        {"name": "cat", "version": 1, "books": [{"title": "e"}, {"title": "f"}]},
    )
    assert authors.run("SELECT count(*) FROM habit_books WHERE author_id = 3") == [[2]]


def test_an_object_that_was_not_flushed_has_no_id_yet_and_is_not_stored(
    app: FastAPI, authors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The tutorial calls commit() and refresh() before it returns. Here a route calls flush()."""

    @app.post("/test/authors", response_model=AuthorRead, status_code=201)
    async def _route(session: SessionDep) -> Any:
        author = Author(name="cat")
        session.add(author)
        return author

    assert_problem(call("POST", "/test/authors"), 500)
    assert "response.version int_type" in caplog.text
    assert authors.run("SELECT count(*) FROM habit_authors") == [[2]]


def test_version_id_col_counts_and_is_stored_with_the_change(app: FastAPI, authors: Any) -> None:
    @app.put("/test/authors/{author_id}", response_model=AuthorRead)
    async def _route(author_id: int, session: SessionDep) -> Any:
        author = session.get_one(Author, author_id)
        author.name = "new"
        session.flush()
        return author

    assert call("PUT", "/test/authors/1").json["version"] == 2
    assert authors.run("SELECT name, version FROM habit_authors WHERE id = 1") == [["new", 2]]


# Sync routes and dependencies


def test_sync_routes_and_dependencies_use_the_session(app: FastAPI, database: Any, logged_requests: Lines) -> None:
    threads = []

    def dependency(session: SessionDep) -> Iterator[Session]:
        threads.append(threading.current_thread())
        session.add(Probe(name="of the dependency"))
        yield session
        session.add(Probe(name="after the route"))

    @app.post("/test/sync")
    def _write(
        session: SessionDep, other: Annotated[Session, Depends(dependency, scope="function")], tasks: BackgroundTasks
    ) -> bool:
        threads.append(threading.current_thread())
        session.add(Probe(name="of the route"))
        tasks.add_task(threads.append, threading.current_thread())
        return session is other

    @app.get("/test/sync")
    def _read(session: ReadSessionDep) -> int:
        return session.scalar(select(func.count()).select_from(Probe)) or 0

    assert call("POST", "/test/sync").json is True
    assert probe_names(database) == ["of the dependency", "of the route", "after the route"]
    assert call("GET", "/test/sync").json == 3
    assert threading.main_thread() not in threads
    assert [line["connections"] for line in logged_requests] == [0, 0]
    assert logged_requests[1]["RoundTrips"] == 1


def test_an_error_of_a_sync_route_rolls_back(app: FastAPI, database: Any) -> None:
    @app.post("/test/sync")
    def _route(session: SessionDep) -> None:
        session.add(Probe(name="lost"))
        session.flush()
        raise HTTPException(409)

    @app.get("/test/sync")
    def _read(session: ReadSessionDep) -> None:
        session.add(Probe(name="lost"))

    assert_problem(call("POST", "/test/sync"), 409)
    assert_problem(call("GET", "/test/sync"), 500)
    assert probe_names(database) == []
    assert create_probe("after")["name"] == "after"


# Streams: an event source accepts only whole responses, so a stream is collected before it is returned.


def test_a_streaming_response_is_returned_as_a_whole(app: FastAPI) -> None:
    create_probe("a")
    create_probe("b")

    @app.get("/test/stream")
    async def _route(session: ReadSessionDep) -> StreamingResponse:
        found = session.scalars(select(Probe.name).order_by(Probe.id)).all()
        return StreamingResponse((f"{name}\n" for name in found), media_type="text/plain")

    response = call("GET", "/test/stream")
    assert (response.status, response.body) == (200, b"a\nb\n")


def test_the_items_of_a_route_that_yields_are_returned_as_a_whole(app: FastAPI) -> None:
    create_probe("a")
    create_probe("b")

    async def found(session: ReadSessionDep) -> list[str]:
        return list(session.scalars(select(Probe.name).order_by(Probe.id)))

    @app.get("/test/lines")
    async def _route(names: Annotated[list[str], Depends(found)]) -> AsyncIterable[str]:
        for name in names:
            yield name

    response = call("GET", "/test/lines")
    assert (response.status, response.body) == (200, b'"a"\n"b"\n')


def generate_probes(session: Session) -> Iterator[Probe]:
    yield from session.scalars(select(Probe))


@pytest.mark.parametrize("kind", ["StreamingResponse", "yield"])
@pytest.mark.parametrize("session_dep", [SessionDep, ReadSessionDep], ids=["SessionDep", "ReadSessionDep"])
def test_a_stream_cannot_use_the_request_s_session_and_says_why(
    session_dep: Any, kind: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit comes before the response, so the session has ended. A stream reads first, or opens a session."""
    create_probe("a")

    if kind == "yield":

        @app.get("/test/stream")
        async def _yields(session: session_dep) -> AsyncIterable[str]:
            for name in session.scalars(select(Probe.name)):
                yield name
    else:

        @app.get("/test/stream")
        async def _streams(session: session_dep) -> StreamingResponse:
            return StreamingResponse(f"{probe.name}\n" for probe in generate_probes(session))

    assert_problem(call("GET", "/test/stream"), 500)
    assert "This Session has been permanently closed" in caplog.text
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it
    assert create_probe("after")["name"] == "after"


def test_a_stream_may_open_a_session(app: FastAPI) -> None:
    create_probe("a")
    create_probe("b")

    @app.get("/test/lines")
    async def _route() -> AsyncIterable[str]:
        with Session(engine) as session:
            for name in session.scalars(select(Probe.name).order_by(Probe.id).execution_options(yield_per=1)):
                yield name

    assert call("GET", "/test/lines").body == b'"a"\n"b"\n'
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it
