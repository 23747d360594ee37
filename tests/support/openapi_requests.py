"""Requests that Schemathesis generates from an OpenAPI document, and sends through the local gateway."""

from collections.abc import Awaitable, Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.schemas import OpenApiSchema

from local.gateway import Gateway

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

# An OpenAPI document cannot tell which strings are cursors (400), which entities and unique values are stored (404,
# 409), and which versions the entities have (412).
ACCEPTED = ["2xx", "304", "400", "404", "409", "412"]
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


def examples(count: int) -> settings:
    """Hypothesis's settings for `count` requests of an operation, the same ones in each run."""
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=SLOW)


def load_schema(document: Any, handler: Callable[[Any, Any], Any]) -> OpenApiSchema:
    """Schemathesis's schema of an OpenAPI document, whose requests go to the Lambda function `handler`."""
    config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}})
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app = _with_lifespan(Gateway(handler))
    return schema


def send(case: Any, **options: Any) -> None:
    """Send a request without an Idempotency-Key, and compare the response with the document.

    A key that was used for another body gets 422, which no schema can describe: test_idempotency.py tests keys.
    """
    (case.headers or {}).pop("Idempotency-Key", None)
    case.call_and_validate(**options)


def _with_lifespan(gateway: Gateway) -> Asgi:
    """`gateway`, which also accepts the startup and shutdown that Schemathesis sends to an application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await gateway(scope, receive, send)
            return
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    return app
