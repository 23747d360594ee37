"""Detect which event source sent an event, and describe an event that is not an HTTP request."""

import re
from typing import Any

from handler.adapter.event_source import EventSource, domain_name, request_context
from handler.adapter.function_url import FUNCTION_URL
from handler.adapter.http_api import HTTP_API_1, HTTP_API_2
from handler.adapter.load_balancer import ALB, ALB_MULTI_VALUE
from handler.adapter.rest_api import REST_API

# The members in which events name their source: Lambda developer guide, "Invoking Lambda with events from other AWS
# services".
SOURCE_MEMBERS = ("eventSource", "EventSource", "source", "triggerSource")


class NotHttpEvent(Exception):
    """The event is not an HTTP request. The function handles only HTTP requests."""


def detect_event_source(event: Any) -> EventSource | None:
    """The event source that sent `event`; None for an event that is not an HTTP request.

    A request is read as payload 2.0 of an HTTP API where no other event source is detected. The event of a Lambda
    authorizer describes a request that is not authorized yet, and the event of a WebSocket API has the same members as
    a request. Neither is an HTTP request (API Gateway developer guide, "Input to an API Gateway Lambda authorizer",
    "$context variables").
    """
    if not isinstance(event, dict) or event.keys().isdisjoint(("requestContext", "httpMethod", "rawPath")):
        return None
    context = request_context(event)
    if "connectionId" in context or not event.keys().isdisjoint(("methodArn", "routeArn")):
        return None
    if "elb" in context:
        return ALB_MULTI_VALUE if "multiValueHeaders" in event else ALB
    if "httpMethod" in event:
        return HTTP_API_1 if event.get("version") == "1.0" else REST_API
    return FUNCTION_URL if ".lambda-url." in domain_name(event) else HTTP_API_2


def is_warmup(event: Any) -> bool:
    """Whether an event only keeps the environment warm: a scheduled rule's, or a schedule's payload {"warmup": true}.

    EventBridge user guide, "Creating a scheduled rule". The events of EventBridge Scheduler are written by its users.
    """
    return isinstance(event, dict) and (event.get("source") == "aws.events" or event.get("warmup") is True)


def describe_event(event: Any) -> str:
    """The message of NotHttpEvent. It names the source of the event, but not its contents, which may be secret."""
    records = event.get("Records") if isinstance(event, dict) else None
    record = records[0] if isinstance(records, list) and records else event
    found = [record.get(name) for name in SOURCE_MEMBERS] if isinstance(record, dict) else []
    source = next((text for text in found if isinstance(text, str) and re.fullmatch(r"[\w.:/-]{1,256}", text)), None)
    sender = f"an event of {source}" if source else f"an event of type {type(event).__name__} without a known source"
    return f"{sender} is not an HTTP request and was not handled: connect its source to a function of its own"
