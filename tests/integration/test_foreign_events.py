"""Events that are not HTTP: a warm-up is quiet, and every other one raises, so that its sender keeps or retries it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event as database_event

from handler.adapter import request_log
from handler.adapter.detection import NotHttpEvent
from handler.database.engine import engine
from handler.main import handler
from local.events import Context
from tests.support.client import create_probe, probe_id, probe_path
from tests.support.event_kinds import KINDS, Request

EVENTS = Path(__file__).parents[2] / "events"
CONTENT = "CONTENT"  # in every value that a log must not repeat
ARN = "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3/prod/DELETE/probes/1"

# As the Lambda developer guide shows them, shortened, by what the message must name.
FOREIGN: dict[str, tuple[str, Any]] = {
    "SNS": (
        "aws:sns",
        {
            "Records": [
                {"EventVersion": "1.0", "EventSource": "aws:sns", "Sns": {"Message": CONTENT, "Subject": CONTENT}}
            ]
        },
    ),
    "S3": (
        "aws:s3",
        {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {"object": {"key": CONTENT}}}]},
    ),
    "SQS": ("aws:sqs", {"Records": [{"messageId": "059f36b4", "eventSource": "aws:sqs", "body": CONTENT}] * 2}),
    "Kinesis": ("aws:kinesis", {"Records": [{"eventSource": "aws:kinesis", "kinesis": {"data": CONTENT}}]}),
    "DynamoDB": (
        "aws:dynamodb",
        {"Records": [{"eventSource": "aws:dynamodb", "dynamodb": {"NewImage": {"name": {"S": CONTENT}}}}]},
    ),
    "SES": ("aws:ses", {"Records": [{"eventSource": "aws:ses", "ses": {"mail": {"source": CONTENT}}}]}),
    "Kafka": ("aws:kafka", {"eventSource": "aws:kafka", "records": {"topic-0": [{"value": CONTENT}]}}),
    "EventBridge": (
        "aws.ec2",
        {"version": "0", "source": "aws.ec2", "detail-type": "EC2 Instance State-change", "detail": {"x": CONTENT}},
    ),
    "EventBridge, own bus": ("com.example.orders", {"source": "com.example.orders", "detail": {"x": CONTENT}}),
    "Cognito": (
        "PreSignUp_SignUp",
        {"version": "1", "triggerSource": "PreSignUp_SignUp", "userName": CONTENT, "request": {}, "response": {}},
    ),
    "CloudWatch Logs": ("type dict", {"awslogs": {"data": CONTENT}}),
    "CloudFormation": ("type dict", {"RequestType": "Create", "ResponseURL": CONTENT, "ResourceProperties": {}}),
    "Lambda authorizer, TOKEN": ("type dict", {"type": "TOKEN", "methodArn": ARN, "authorizationToken": CONTENT}),
    "Lambda authorizer, REST API": (
        "type dict",
        KINDS["REST API"](Request("DELETE", probe_path(1), CONTENT)) | {"type": "REQUEST", "methodArn": ARN},
    ),
    "Lambda authorizer, HTTP API": (
        "type dict",
        KINDS["HTTP API 2.0"](Request("DELETE", probe_path(1), CONTENT)) | {"type": "REQUEST", "routeArn": ARN},
    ),
    "WebSocket": (
        "type dict",
        {"requestContext": {"eventType": "MESSAGE", "routeKey": "$default", "connectionId": "x"}, "body": CONTENT},
    ),
    "console's test event": ("type dict", {"key1": CONTENT}),
    "warm-up that is text": ("type dict", {"warmup": "true"}),
    "warm-up that is a number": ("type dict", {"warmup": 1}),
    "no warm-up": ("type dict", {"warmup": False}),
    "source that is no name": ("type dict", {"source": f"{CONTENT} and more"}),
    "source of another type": ("type dict", {"source": [CONTENT]}),
    "no records": ("type dict", {"Records": []}),
    "records of another type": ("type dict", {"Records": CONTENT}),
    "odd records": ("type dict", {"Records": [1, {}]}),
    "empty": ("type dict", {}),
    "null": ("type NoneType", None),
    "list": ("type list", [CONTENT]),
    "empty list": ("type list", []),
    "string": ("type str", CONTENT),
    "number": ("type int", 0),
    "boolean": ("type bool", True),
}
WARM_UPS: dict[str, Any] = {
    "rule": json.loads((EVENTS / "scheduled.json").read_text()),
    "rule, shortest": {"source": "aws.events"},
    "schedule": {"warmup": True},
    "schedule with more": {"warmup": True, "concurrency": 3},
}


@pytest.fixture
def checkouts() -> Iterator[list[int]]:
    """One entry for each connection that was taken from the pool."""
    taken: list[int] = []

    def count(*_: Any) -> None:
        taken.append(1)

    database_event.listen(engine, "checkout", count)
    yield taken
    database_event.remove(engine, "checkout", count)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(request_log, "sinks", [found.append])
    return found


@pytest.mark.parametrize("name", FOREIGN)
def test_an_event_that_is_not_http_raises_one_exception_that_names_its_source_and_no_content(
    name: str, checkouts: list[int], lines: list[Any], caplog: pytest.LogCaptureFixture, database: Any
) -> None:
    source, event = FOREIGN[name]
    probe = create_probe()
    checkouts.clear()
    lines.clear()
    with pytest.raises(NotHttpEvent) as raised:
        handler(event, Context())
    message = str(raised.value)
    assert f"an event of {source}" in message
    assert message.endswith("is not an HTTP request and was not handled: connect its source to a function of its own")
    assert CONTENT not in message + caplog.text
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert (checkouts, lines, caplog.records) == ([], [], [])
    assert [[str(one)] for (one,) in database.run("SELECT id FROM probes")] == [[probe["id"]]]
    assert create_probe()["id"] == str(probe_id(2))


@pytest.mark.parametrize("name", WARM_UPS)
def test_a_warm_up_is_answered_quietly_and_without_a_connection(
    name: str, checkouts: list[int], lines: list[Any], caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert handler(WARM_UPS[name], Context()) is None
        assert handler(WARM_UPS[name], None) is None
    assert (checkouts, lines) == ([], [])
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("path", ["sqs", "migration-create"])
def test_the_files_of_events_that_are_not_http_raise(path: str) -> None:
    with pytest.raises(NotHttpEvent):
        handler(json.loads((EVENTS / f"{path}.json").read_text()), Context())


def test_a_warm_up_in_an_http_request_is_a_request() -> None:
    event = KINDS["HTTP API 2.0"](Request("GET", "/health/live")) | {"warmup": True, "source": "aws.events"}
    response = handler(event, None)
    assert response is not None
    assert response["statusCode"] == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text().map(lambda text: f"{text} {CONTENT}"),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=4), values, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["Records", "source", "eventSource", "EventSource", "triggerSource", "warmup", "detail", "x"])


@settings(max_examples=300, deadline=None)
@given(event=VALUES | st.dictionaries(NAMES, VALUES | st.lists(st.dictionaries(NAMES, VALUES), max_size=2)))
def test_no_value_of_an_event_is_in_the_message(event: Any) -> None:
    if isinstance(event, dict) and event.get("warmup") is True:
        assert handler(event, None) is None
        return
    with pytest.raises(NotHttpEvent) as raised:
        handler(event, None)
    assert CONTENT not in str(raised.value)
