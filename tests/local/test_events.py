"""The local gateway's events are API Gateway's."""

import base64

import pytest

from local.events import Context, http_event, http_response


def test_headers_are_lowered_and_joined_and_cookies_apart() -> None:
    event = http_event("GET", "/", "", [("X-A", "1"), ("x-a", "2"), ("Cookie", "a=1; b=2")], b"")
    assert event["headers"] == {"x-a": "1,2", "host": "localhost"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert "body" not in event


def test_repeated_query_parameters_are_joined() -> None:
    event = http_event("GET", "/", "a=1&a=2&b=&c=%20", [], b"")
    assert event["rawQueryString"] == "a=1&a=2&b=&c=%20"
    assert event["queryStringParameters"] == {"a": "1,2", "b": "", "c": " "}


@pytest.mark.parametrize(
    ("content_type", "body", "is_text"),
    [
        ("application/json; charset=utf-8", '{"a": "é"}'.encode(), True),
        ("text/plain", b"x", True),
        ("application/json", b"\xff", False),
        ("application/octet-stream", b"x", False),
        ("", b"x", False),
    ],
)
def test_only_text_travels_as_text(content_type: str, body: bytes, is_text: bool) -> None:
    event = http_event("POST", "/", "", [("content-type", content_type)], body)
    assert event["isBase64Encoded"] is not is_text
    assert (event["body"].encode() if is_text else base64.b64decode(event["body"])) == body


def test_the_body_headers_and_cookies_become_http() -> None:
    response = http_response(
        {"statusCode": 200, "headers": {"a": "b"}, "cookies": ["c=d"], "body": "AQI=", "isBase64Encoded": True}
    )
    assert response == (200, [("a", "b"), ("set-cookie", "c=d")], b"\x01\x02")
    assert http_response({"statusCode": 204}) == (204, [], b"")


def test_the_remaining_time_counts_down_to_zero() -> None:
    context = Context(timeout=0.01)
    first = context.get_remaining_time_in_millis()
    assert first <= 10
    while context.get_remaining_time_in_millis():
        pass
    assert Context().get_remaining_time_in_millis() > 9000
