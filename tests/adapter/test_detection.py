"""The event source of an event. A warm-up logs nothing, and other events that are not HTTP raise an exception."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.adapter.detection import NotHttpEvent, detect_event_source
from handler.adapter.event_source import EventSource
from handler.adapter.function_url import FUNCTION_URL
from handler.adapter.http_api import HTTP_API_1, HTTP_API_2
from handler.adapter.load_balancer import ALB, ALB_MULTI_VALUE
from handler.adapter.rest_api import REST_API
from handler.main import handler
from local.events import Context
from tests.support.client import create_probe, probe_id, probe_path
from tests.support.event_sources import EVENT_SOURCES, Request

EVENTS = Path(__file__).parents[2] / "events"
CONTENT = "CONTENT"  # part of every value that must not be logged
ARN = "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3/prod/DELETE/probes/1"

# Events of the Lambda developer guide, shortened, each with the source that the message must name.
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
        EVENT_SOURCES["REST API"](Request("DELETE", probe_path(1), CONTENT)) | {"type": "REQUEST", "methodArn": ARN},
    ),
    "Lambda authorizer, HTTP API": (
        "type dict",
        EVENT_SOURCES["HTTP API 2.0"](Request("DELETE", probe_path(1), CONTENT)) | {"type": "REQUEST", "routeArn": ARN},
    ),
    "WebSocket": (
        "type dict",
        {"requestContext": {"eventType": "MESSAGE", "routeKey": "$default", "connectionId": "x"}, "body": CONTENT},
    ),
    "console's test event": ("type dict", {"key1": CONTENT}),
    "warm-up that is text": ("type dict", {"warmup": "true"}),
    "warm-up that is a number": ("type dict", {"warmup": 1}),
    "warm-up that is false": ("type dict", {"warmup": False}),
    "source with spaces": ("type dict", {"source": f"{CONTENT} and more"}),
    "source of another type": ("type dict", {"source": [CONTENT]}),
    "empty records": ("type dict", {"Records": []}),
    "records of another type": ("type dict", {"Records": CONTENT}),
    "records of several types": ("type dict", {"Records": [1, {}]}),
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


@pytest.mark.parametrize("name", FOREIGN)
def test_an_event_that_is_not_http_raises_an_exception_that_names_its_source_without_its_contents(
    name: str, checkouts: list[Any], logged_requests: list[Any], caplog: pytest.LogCaptureFixture, database: Any
) -> None:
    source, event = FOREIGN[name]
    probe = create_probe()
    checkouts.clear()
    logged_requests.clear()
    with pytest.raises(NotHttpEvent) as raised:
        handler(event, Context())
    message = str(raised.value)
    assert f"an event of {source}" in message
    assert message.endswith("is not an HTTP request and was not handled: connect its source to a function of its own")
    assert CONTENT not in message + caplog.text
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert (checkouts, logged_requests, caplog.records) == ([], [], [])
    assert [[str(one)] for (one,) in database.run("SELECT id FROM probes")] == [[probe["id"]]]
    assert create_probe()["id"] == str(probe_id(2))


@pytest.mark.parametrize("name", WARM_UPS)
def test_a_warm_up_logs_nothing_and_takes_no_connection(
    name: str, checkouts: list[Any], logged_requests: list[Any], caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert handler(WARM_UPS[name], Context()) is None
        assert handler(WARM_UPS[name], None) is None
    assert (checkouts, logged_requests) == ([], [])
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("path", ["sqs", "migration-create"])
def test_the_files_of_events_that_are_not_http_raise(path: str) -> None:
    with pytest.raises(NotHttpEvent):
        handler(json.loads((EVENTS / f"{path}.json").read_text()), Context())


def test_an_http_request_with_the_members_of_a_warm_up_is_a_request() -> None:
    event = EVENT_SOURCES["HTTP API 2.0"](Request("GET", "/health/live")) | {"warmup": True, "source": "aws.events"}
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
def test_the_message_has_no_value_of_the_event(event: Any) -> None:
    if isinstance(event, dict) and event.get("warmup") is True:
        assert handler(event, None) is None
        return
    with pytest.raises(NotHttpEvent) as raised:
        handler(event, None)
    assert CONTENT not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("HTTP API 2.0", HTTP_API_2),
        ("HTTP API 1.0", HTTP_API_1),
        ("REST API", REST_API),
        ("function URL", FUNCTION_URL),
        ("ALB", ALB),
        ("ALB, multi-value", ALB_MULTI_VALUE),
    ],
)
def test_each_event_source_is_detected(name: str, source: EventSource) -> None:
    assert detect_event_source(EVENT_SOURCES[name](Request("GET", "/health/live"))) is source
