"""Optimistic concurrency: ETag, If-Match, If-None-Match."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request

from handler.api.conditional import update_if_match
from handler.database.session import SessionDep
from tests.support.client import Response, call, create_probe, probe_id, probe_path
from tests.support.probe.models import Probe

CHANGES: list[tuple[str, Any]] = [("PATCH", {"name": "x"}), ("PATCH", {}), ("PUT", {"name": "x"}), ("DELETE", None)]


OTHER_TAGS = [
    '"2"',
    '"0"',
    '"other"',
    'W/"1"',
    '"01"',
    '"1.0"',
    '"+1"',
    '"2147483648"',
    '"9999999999"',
    '"99999999999"',
]
NO_TAGS = ['"1 "', '""', "1", "", '"1', "nonsense", 'w/"1"', 'W/ "1"', 'W/x"1"', 'x"1"', 'a "1" b', '"1";x', '*,"1"']
NO_TAGS += ['"1" "2"', '"1""2"', '"1", 2']


def conditional(method: str, path: str, body: Any = None, **headers: str) -> Response:
    return call(method, path, body, headers=[(name.replace("_", "-"), value) for name, value in headers.items()])


def test_every_response_with_one_probe_has_its_version_as_a_strong_etag() -> None:
    assert call("POST", "/probes/", {"name": "Lamp"}).headers["etag"] == '"1"'
    assert call("PATCH", probe_path(1), {"name": "Torch"}).headers["etag"] == '"2"'
    assert call("PUT", probe_path(1), {"name": "Torch"}).headers["etag"] == '"3"'
    assert call("GET", probe_path(1)).headers["etag"] == '"3"'


@pytest.mark.parametrize(("method", "body"), CHANGES)
@pytest.mark.parametrize("tags", ['"1"', '"7", "1"', '"other","1"', "*", ' "1" ', ',"7",, "1" ,', 'W/"7"\t,"1"'])
def test_a_change_to_the_expected_version_succeeds(method: str, body: Any, tags: str) -> None:
    create_probe()
    assert conditional(method, probe_path(1), body, if_match=tags).status in (200, 204)


@pytest.mark.parametrize(("method", "body"), CHANGES)
@pytest.mark.parametrize("tags", [*OTHER_TAGS, *NO_TAGS])
def test_a_change_to_another_version_is_412_and_changes_nothing(method: str, body: Any, tags: str) -> None:
    probe = create_probe()
    assert conditional(method, probe_path(1), body, if_match=tags).status == 412
    assert call("GET", probe_path(1)).json == probe


@pytest.mark.parametrize(("method", "body"), CHANGES)
def test_a_condition_on_a_missing_probe_is_404(method: str, body: Any) -> None:
    assert conditional(method, probe_path(1), body, if_match='"1"').status == 404


@pytest.mark.parametrize("tags", ['"1"', 'W/"1"', '"7", W/"1"', "*"])
def test_a_version_that_the_client_has_is_304_without_a_body(tags: str) -> None:
    create_probe()
    response = conditional("GET", probe_path(1), if_none_match=tags)
    assert (response.status, response.body, response.headers["etag"]) == (304, b"", '"1"')


def test_a_version_that_the_client_lacks_is_returned() -> None:
    probe = create_probe()
    for tags in ('"2"', "1", "", "nonsense", 'w/"1"', 'x"1"', '"1" "2"'):
        assert conditional("GET", probe_path(1), if_none_match=tags).json == probe


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tags", [*OTHER_TAGS, *NO_TAGS])
def test_a_read_of_another_version_than_in_if_match_is_412(method: str, tags: str) -> None:
    create_probe()
    response = conditional(method, probe_path(1), if_match=tags)
    assert response.status == 412
    assert response.headers["content-type"] == "application/problem+json"
    assert b"Lamp" not in response.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tags", ['"1"', '"7", "1"', "*", ',"7",, "1" ,'])
def test_a_read_of_the_version_in_if_match_succeeds(method: str, tags: str) -> None:
    create_probe()
    assert conditional(method, probe_path(1), if_match=tags).status == 200


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "status"),
    [
        *(('"2"', '"1"', 412), ('"2"', "*", 412), ('"2"', '"2"', 412), ('W/"1"', 'W/"1"', 412)),
        *(('"1"', '"1"', 304), ("*", "*", 304), ('"1"', '"2"', 200), ("*", '"2"', 200)),
    ],
)
def test_if_match_is_evaluated_before_if_none_match(if_match: str, if_none_match: str, status: int) -> None:
    """RFC 9110, 13.2.2."""
    create_probe()
    assert conditional("GET", probe_path(1), if_match=if_match, if_none_match=if_none_match).status == status


@pytest.mark.parametrize("headers", [{"if_match": '"1"'}, {"if_match": "*"}, {"if_none_match": "*"}])
def test_a_condition_on_a_read_of_a_missing_probe_is_404(headers: dict[str, str]) -> None:
    """The conditions are evaluated only where the response would be a success without them (RFC 9110, 13.2.1)."""
    assert conditional("GET", probe_path(1), **headers).status == 404


@pytest.mark.parametrize("headers", [{"if_none_match": "*"}, {"if_match": "*"}, {"if_match": '"7"'}])
def test_a_post_ignores_preconditions_since_a_new_probe_has_no_earlier_version(headers: dict[str, str]) -> None:
    create_probe()
    assert conditional("POST", "/probes/", {"name": "Torch"}, **headers).status == 201


@pytest.mark.parametrize("headers", [{"if_match": '"7"'}, {"if_none_match": "*"}])
def test_a_list_ignores_preconditions_since_it_has_no_version(headers: dict[str, str]) -> None:
    create_probe()
    response = conditional("GET", "/probes/", **headers)
    assert response.status == 200
    assert "etag" not in response.headers


@pytest.mark.parametrize(("method", "body"), CHANGES)
@pytest.mark.parametrize("tags", ['"1"', 'W/"1"', '"7", "1"', "*"])
def test_a_change_to_a_version_in_if_none_match_is_412_and_changes_nothing(method: str, body: Any, tags: str) -> None:
    probe = create_probe()
    assert conditional(method, probe_path(1), body, if_none_match=tags).status == 412
    assert conditional(method, probe_path(1), body, if_match='"1"', if_none_match=tags).status == 412
    assert call("GET", probe_path(1)).json == probe
    assert conditional(method, probe_path(2), body, if_none_match=tags).status == 404


@pytest.mark.parametrize(("method", "body"), CHANGES)
@pytest.mark.parametrize("tags", ['"2"', "nonsense"])
def test_a_change_to_a_version_outside_if_none_match_succeeds(method: str, body: Any, tags: str) -> None:
    create_probe()
    assert conditional(method, probe_path(1), body, if_match='"3"', if_none_match=tags).status == 412
    assert conditional(method, probe_path(1), body, if_none_match=tags).status in (200, 204)


@pytest.mark.parametrize(("method", "body"), CHANGES)
def test_if_match_can_be_required(method: str, body: Any, serve: Callable[..., object]) -> None:
    serve(require_if_match=True)
    probe = create_probe()
    assert call(method, probe_path(1), body).status == 428
    assert call("GET", probe_path(1)).json == probe
    assert conditional(method, probe_path(1), body, if_match='"1"').status in (200, 204)


RACE = """
import sys
from tests.support.client import call, probe_path
wins = 0
for version in range(1, 21):
    while call("GET", probe_path(1)).json["version"] < version:
        pass
    response = call("PATCH", probe_path(1), {"name": sys.argv[1]}, headers=[("if-match", f'"{version}"')])
    assert response.status in (200, 412), response
    wins += response.status == 200
print(wins)
"""


def test_one_of_many_concurrent_changes_to_a_version_succeeds() -> None:
    create_probe()
    command = [sys.executable, "-c", RACE]
    racers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, env=os.environ) for n in range(4)]
    wins = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(wins) == 20
    assert call("GET", probe_path(1)).json["version"] == 21


def test_an_entity_that_was_loaded_is_read_again_after_an_update(app: FastAPI) -> None:
    create_probe("before")

    @app.post("/test/update")
    async def _route(session: SessionDep, request: Request) -> list[Any]:
        probe = session.get(Probe, probe_id(1))
        assert probe is not None
        update_if_match(session, Probe, probe_id(1), {"name": "after"}, request)
        return [probe.name, probe.version]

    assert call("POST", "/test/update").json == ["after", 2]
