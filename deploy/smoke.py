"""`python3 -m deploy.smoke URL`: whether a deployed service answers. Needs Python and nothing else.

SMOKE_TOKEN is an access token with the scopes of the first resource. Without one, a service that asks for tokens is
only tested for asking. The first resource of docs/openapi.json is created from its example, read, deleted and gone;
nothing stays. If the example conflicts with what is stored, the response is 409: the API, its authorization and the
database work, and the test ends there. A service without a resource that can be created, read and deleted is only asked
for its health.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

from local.examples import creations

OPENAPI = Path(__file__).parents[1] / "docs" / "openapi.json"
TIMEOUT = 30  # seconds, the longest that API Gateway waits
PATIENCE = 60  # seconds until a new API's name resolves, and a database that sleeps is awake
CLOSED = (401, 403)


class SmokeError(Exception):
    """The service does not do what it should; the message is for whoever deploys."""


class Response(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Creation(NamedTuple):
    """A path that creates an entity, and a body that it accepts."""

    path: str
    body: Any


def ask(url: str, method: str, path: str, body: Any = None, *, token: str | None = None) -> Response:
    """One request, and a line that says how it went. Raises SmokeError when there is no response."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = Request(urljoin(f"{url}/", path.lstrip("/")), data, headers, method=method)  # noqa: S310 - main looked
    try:
        with urlopen(request, timeout=TIMEOUT) as found:  # noqa: S310
            response = Response(found.status, found.headers, found.read())
    except HTTPError as error:
        with error:
            response = Response(error.code, error.headers, error.read())
    except (URLError, OSError) as error:
        raise SmokeError(f"{method} {path}: {error}") from error
    print(f"smoke: {method} {path} {response.status}", flush=True)
    return response


def expect(status: int, response: Response, what: str) -> Response:
    if response.status != status:
        said = response.body[:500].decode(errors="replace")
        raise SmokeError(f"{what}: {status} was expected, {response.status} came: {said}")
    return response


def begin(url: str, patience: float = PATIENCE) -> None:
    """Wait until the process answers, or asks who we are. Raises SmokeError."""
    deadline = time.monotonic() + patience
    while True:
        try:
            response = ask(url, "GET", "/health/live")
        except SmokeError:
            if time.monotonic() > deadline:
                raise
        else:
            if response.status in (200, *CLOSED):
                return
            if time.monotonic() > deadline:
                expect(200, response, "liveness")
        time.sleep(1)


def creation(openapi: Any) -> Creation | None:
    """What the smoke test creates: the first resource whose entities can be created, read and deleted."""
    for path, body in creations(openapi):
        methods = [set(one) for of_one, one in openapi["paths"].items() if re.fullmatch(f"{path}{{\\w+}}", of_one)]
        if any({"get", "delete"} <= one for one in methods):
            return Creation(path, body)
    return None


def smoke(url: str, token: str | None, example: Creation | None, patience: float = PATIENCE) -> None:
    """Raises SmokeError. `example` is created and deleted; without one, only the health is asked for."""
    begin(url, patience)
    if not token and ask(url, "GET", "/health/ready").status in CLOSED:
        print("smoke: it is closed to strangers. Set SMOKE_TOKEN to test what is behind")
        return
    deadline = time.monotonic() + patience
    while ask(url, "GET", "/health/ready", token=token).status == 503 and time.monotonic() < deadline:
        time.sleep(1)
    if example is None:
        expect(200, ask(url, "GET", "/health/ready", token=token), "readiness")
        return
    created = ask(url, "POST", example.path, example.body, token=token)
    if created.status == 409 and "constraint" in json.loads(created.body):  # PostgreSQL has refused the row
        print(f"smoke: the example of {example.path} is stored already: reading and deleting are not tested")
        return
    expect(201, created, "to create")
    path = urlsplit(created.headers["location"]).path.removeprefix(urlsplit(url).path.rstrip("/"))
    try:
        read = expect(200, ask(url, "GET", path, token=token), "to read what was created")
        if json.loads(read.body) != json.loads(created.body):
            raise SmokeError("what was read is not what was created")
    finally:
        deleted = ask(url, "DELETE", path, token=token)
    expect(204, deleted, "to delete")
    expect(404, ask(url, "GET", path, token=token), "to read what was deleted")


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].startswith(("https://", "http://")):
        sys.exit("smoke: say which service: python3 -m deploy.smoke https://…")
    try:
        smoke(sys.argv[1].rstrip("/"), os.environ.get("SMOKE_TOKEN") or None, creation(json.loads(OPENAPI.read_text())))
    except SmokeError as error:
        sys.exit(f"smoke: {error}")


if __name__ == "__main__":
    main()
