"""Requests that the committed OpenAPI allows, and that it does not, made up by Schemathesis, through the handler."""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as limits
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import ignored_auth

from handler import main
from local.gateway import Gateway
from local.openapi import PATH
from tests.support.event_sources import AUTHORIZER_CONTEXTS

TOKEN = "Bearer of-a-caller-that-the-gateway-knows"
OPENAPI = json.loads(PATH.read_text())
SCOPES = {
    scope
    for operations in OPENAPI["paths"].values()
    for operation in operations.values()
    for way in operation["security"]
    for scope in way.get("jwt", [])
}
CLAIMS = {"sub": "ann", "scope": " ".join(sorted(SCOPES))}


def behind_an_authorizer(event: dict[str, Any], context: Any) -> Any:
    """The handler behind a gateway that adds claims to requests with the token, and passes on the others too."""
    if event["headers"].get("authorization") == TOKEN:
        AUTHORIZER_CONTEXTS["jwt"]["HTTP API 2.0"](event, CLAIMS)
    return main.handler(event, context)


gateway = Gateway(behind_an_authorizer)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The local gateway; Schemathesis starts and stops an application, which it does not need."""
    if scope["type"] == "http":
        await gateway(scope, receive, send)
        return
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


# OpenAPI cannot say which strings are cursors (400), which unique values are stored (409) and which versions there are
# (412).
ACCEPTED = ["2xx", "304", "400", "404", "409", "412"]
config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}})
schema = schemathesis.openapi.from_dict(OPENAPI, config=config)
open_schema = schemathesis.openapi.from_dict(
    main.app.openapi(), config=config
)  # of AUTH_MODE=none, as the tests have it
schema.app = open_schema.app = app
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


@pytest.fixture
def _jwt(authorize: Any) -> None:
    authorize("jwt")


@pytest.mark.usefixtures("_jwt")
@schema.parametrize()
@limits(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
def test_every_request_gets_a_response_that_openapi_describes(case: Any) -> None:
    # A key that was used for another body is 422, which no schema can tell: test_idempotency.py has them.
    (case.headers or {}).pop("Idempotency-Key", None)
    # Schemathesis, which sees the header, asks once more without it and with others: none may be authorized.
    case.call_and_validate(headers={"Authorization": TOKEN})


@open_schema.parametrize()
@limits(max_examples=20, deadline=None, derandomize=True, suppress_health_check=SLOW)
def test_without_authorization_no_operation_claims_any(case: Any) -> None:
    (case.headers or {}).pop("Idempotency-Key", None)
    case.call_and_validate()
    case.call_and_validate(headers={"Authorization": TOKEN})


def test_schemathesis_sees_an_operation_that_claims_authorization_and_ignores_it() -> None:
    """What the test above would report."""
    case = schema["/health/ready"]["GET"].Case()
    response = case.call(headers={"Authorization": TOKEN})
    with pytest.raises(FailureGroup) as raised:
        case.validate_response(response, checks=[ignored_auth])
    assert [type(one).__name__ for one in raised.value.exceptions] == ["IgnoredAuth"]
