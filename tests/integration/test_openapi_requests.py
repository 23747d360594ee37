"""Requests that the committed OpenAPI allows, and that it does not, made up by Schemathesis, through the handler."""

import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as limits

from handler.main import handler
from local.gateway import Gateway
from local.openapi import PATH

gateway = Gateway(handler)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The local gateway; Schemathesis starts and stops an application, which it does not need."""
    if scope["type"] == "http":
        await gateway(scope, receive, send)
        return
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


# OpenAPI cannot say which strings are cursors (400) and which versions there are (412).
ACCEPTED = ["2xx", "304", "400", "404", "412"]
config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}})
schema = schemathesis.openapi.from_dict(json.loads(PATH.read_text()), config=config)
schema.app = app
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


@schema.parametrize()
@limits(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
def test_every_request_gets_an_answer_that_openapi_describes(case: Any) -> None:
    # A key that was used for another body is 422, which no schema can tell: test_idempotency.py has them.
    (case.headers or {}).pop("Idempotency-Key", None)
    case.call_and_validate()
