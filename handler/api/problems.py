"""The format of every error response: problem+json (RFC 9457), with the request's id."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

PROBLEM_JSON = "application/problem+json"
# RFC 9110's names, where http.HTTPStatus before Python 3.13 has older ones.
PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


class Invalid(BaseModel):
    """One thing that is wrong with a request."""

    where: Annotated[str, Field(examples=["body.name"])]
    detail: Annotated[str, Field(examples=["String should have at least 1 character"])]


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str | None, Field(examples=["Item not found"])] = None
    request_id: Annotated[str | None, Field(examples=["c6af9ac6-7b61-11e6-9a41-93e8deadbeef"])] = None
    errors: list[Invalid] | None = None
    constraint: Annotated[str | None, Field(description="The database constraint that refused")] = None


def phrase(status: int) -> str:
    return PHRASES.get(status) or HTTPStatus(status).phrase


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: that these statuses answer with a Problem. Goes into `responses=` of a route or router."""
    return {
        status: {
            "description": phrase(status),
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def describe_responses(operation: dict[str, Any], *statuses: int) -> None:
    """Add these statuses to an operation of an OpenAPI document, where it does not declare them itself."""
    for status, response in problem_responses(*statuses).items():
        operation["responses"].setdefault(str(status), response)


def problem(status: int, detail: str | None, request_id: str | None, **extensions: Any) -> dict[str, Any]:
    """The members of an answer. `type` is about:blank: the title says what the status says (RFC 9457, 4.2.1)."""
    members = {"type": "about:blank", "title": phrase(status), "status": status, "detail": detail}
    members |= {"request_id": request_id, **extensions}
    return {name: value for name, value in members.items() if value is not None}


def too_large(request_id: str, limit: int) -> Response:
    detail = f"The body is larger than {limit} bytes"
    return JSONResponse(problem(413, detail, request_id), 413, media_type=PROBLEM_JSON)


def describe_problems(openapi: dict[str, Any]) -> None:
    """Add what `problem_responses` refers to: FastAPI describes by itself only answers that are application/json."""
    _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    openapi["components"]["schemas"] |= schemas["$defs"]
