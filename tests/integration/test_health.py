"""A service without resources: health checks, and problem responses for all other paths."""

import re

from tests.support.client import call

PROBLEM = "application/problem+json"


def test_an_unknown_path_is_404_and_a_wrong_method_405() -> None:
    for response, status in [(call("GET", "/nothing"), 404), (call("PUT", "/health/live", {}), 405)]:
        assert response.status == status
        assert response.headers["content-type"] == PROBLEM


def test_health_responds() -> None:
    for path in ("/health/live", "/health/ready"):
        response = call("GET", path)
        assert (response.status, response.json) == (200, {"status": "ok"})


def test_every_response_carries_the_id_of_its_invocation() -> None:
    for response in (
        call("GET", "/health/live"),
        call("GET", "/nothing"),
        call("POST", "/health/live", b"x" * 300_000),
    ):
        assert re.fullmatch(r"[0-9a-f-]{36}", response.headers["x-request-id"])
        if response.status >= 400:
            assert response.json["request_id"] == response.headers["x-request-id"]
