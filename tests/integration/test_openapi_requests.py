"""Generated requests, valid and invalid, get the responses that the committed OpenAPI document describes."""

import json
from typing import Any

import pytest
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import ignored_auth

from handler import main
from local.openapi import PATH
from tests.support.event_sources import AUTHORIZER_CONTEXTS
from tests.support.openapi_requests import examples, load_schema, send

TOKEN = "Bearer of-a-known-caller"
OPENAPI = json.loads(PATH.read_text())
SCOPES = {
    scope
    for operations in OPENAPI["paths"].values()
    for operation in operations.values()
    for requirement in operation["security"]
    for scope in requirement.get("jwt", [])
}
CLAIMS = {"sub": "ann", "scope": " ".join(sorted(SCOPES))}


def behind_an_authorizer(event: dict[str, Any], context: Any) -> Any:
    """The handler behind a gateway that adds claims to requests with the token, and passes on all requests."""
    if event["headers"].get("authorization") == TOKEN:
        AUTHORIZER_CONTEXTS["jwt"]["HTTP API 2.0"](event, CLAIMS)
    return main.handler(event, context)


schema = load_schema(OPENAPI, behind_an_authorizer)
open_schema = load_schema(main.app.openapi(), behind_an_authorizer)  # AUTH_MODE is none, as in all tests


@pytest.fixture
def _jwt(authorize: Any) -> None:
    authorize("jwt")


@pytest.mark.usefixtures("_jwt")
@schema.parametrize()
@examples(40)
def test_every_request_gets_a_response_that_openapi_describes(case: Any) -> None:
    # Schemathesis repeats a request that has the header, without it and with other tokens, and expects 401 each time.
    send(case, headers={"Authorization": TOKEN})


@open_schema.parametrize()
@examples(20)
def test_without_authorization_no_operation_claims_any(case: Any) -> None:
    send(case)
    send(case, headers={"Authorization": TOKEN})


def test_schemathesis_sees_an_operation_that_claims_authorization_and_ignores_it() -> None:
    """The test above would report this failure."""
    case = schema["/health/ready"]["GET"].Case()
    response = case.call(headers={"Authorization": TOKEN})
    with pytest.raises(FailureGroup) as raised:
        case.validate_response(response, checks=[ignored_auth])
    assert [type(one).__name__ for one in raised.value.exceptions] == ["IgnoredAuth"]
