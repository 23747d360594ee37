"""Test a deployed service: `python3 -m deploy.smoke URL`. Needs only Python.

An entity of the first resource of docs/openapi.json is created from its example, read and deleted. If the example
conflicts with a stored row, the response is 409: the API, its authorization and the database work, and the test ends
there. If no resource can be created, read and deleted, only the health checks are tested.

SMOKE_TOKEN is an access token with the scopes of the first resource. Without a token, the test of a service that
requires one ends at its 401 or 403.
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
PATIENCE = 60  # seconds until the name of a new API resolves, and until a paused database has resumed
CLOSED = (401, 403)


class SmokeError(Exception):
    """The service does not work. The message names the request and what is wrong with its response."""


class Response(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Creation(NamedTuple):
    """A path that creates an entity, and a body that it accepts."""

    path: str
    body: Any


def ask(url: str, method: str, path: str, body: Any = None, *, token: str | None = None) -> Response:
    """Send one request, and print its status. Raises SmokeError if there is no response."""
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
        text = response.body[:500].decode(errors="replace")
        raise SmokeError(f"{what}: expected {status}, got {response.status}: {text}")
    return response


def begin(url: str, patience: float = PATIENCE) -> None:
    """Wait until the service responds, or requires authorization. Raises SmokeError."""
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
    """The path and the body of the first resource whose entities can be created, read and deleted; None without one."""
    for path, body in creations(openapi):
        methods = [set(one) for of_one, one in openapi["paths"].items() if re.fullmatch(f"{path}{{\\w+}}", of_one)]
        if any({"get", "delete"} <= one for one in methods):
            return Creation(path, body)
    return None


def smoke(url: str, token: str | None, example: Creation | None, patience: float = PATIENCE) -> None:
    """Test the service at `url`: create and delete `example`, or check only its health. Raises SmokeError."""
    begin(url, patience)
    if not token and ask(url, "GET", "/health/ready").status in CLOSED:
        print("smoke: the service requires authorization. Set SMOKE_TOKEN to test its resources")
        return
    deadline = time.monotonic() + patience
    while ask(url, "GET", "/health/ready", token=token).status == 503 and time.monotonic() < deadline:
        time.sleep(1)
    if example is None:
        expect(200, ask(url, "GET", "/health/ready", token=token), "readiness")
        return
    created = ask(url, "POST", example.path, example.body, token=token)
    if created.status == 409 and "constraint" in json.loads(created.body):  # the row violates a constraint
        print(f"smoke: the example of {example.path} is stored already: reading and deleting are not tested")
        return
    expect(201, created, "create")
    path = urlsplit(created.headers["location"]).path.removeprefix(urlsplit(url).path.rstrip("/"))
    try:
        read = expect(200, ask(url, "GET", path, token=token), "read the created entity")
        if json.loads(read.body) != json.loads(created.body):
            raise SmokeError("the response to GET differs from the response to POST")
    finally:
        deleted = ask(url, "DELETE", path, token=token)
    expect(204, deleted, "delete")
    expect(404, ask(url, "GET", path, token=token), "read the deleted entity")


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].startswith(("https://", "http://")):
        sys.exit("smoke: the URL of the service is missing: python3 -m deploy.smoke https://…")
    try:
        smoke(sys.argv[1].rstrip("/"), os.environ.get("SMOKE_TOKEN") or None, creation(json.loads(OPENAPI.read_text())))
    except SmokeError as error:
        sys.exit(f"smoke: {error}")


if __name__ == "__main__":
    main()
