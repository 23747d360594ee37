"""The format of every error response: problem+json (RFC 9457), with the request's id."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

PROBLEM_JSON = "application/problem+json"
# RFC 9110's names. http.HTTPStatus before Python 3.13 has older ones.
PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


class InvalidPart(BaseModel):
    """An invalid part of a request (docs/adr/0036)."""

    detail: Annotated[str, Field(examples=["String should have at least 1 character"])]
    location: Annotated[
        Literal["body", "query", "path", "header", "cookie"],
        Field(alias="in", description="Where the part is: in the body, or the `in` of the parameter in OpenAPI"),
    ]
    pointer: Annotated[
        str | None,
        Field(examples=["#/name"], description="In the body: a JSON pointer as a URI fragment (RFC 6901, 6)"),
    ] = None
    name: Annotated[
        str | None,
        Field(examples=["limit"], description="The name of the parameter; absent for an undeclared parameter"),
    ] = None


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str | None, Field(examples=["Item not found"])] = None
    request_id: Annotated[str | None, Field(examples=["c6af9ac6-7b61-11e6-9a41-93e8deadbeef"])] = None
    errors: list[InvalidPart] | None = None
    constraint: Annotated[str | None, Field(description="The name of the violated database constraint")] = None


def phrase(status: int) -> str:
    """The reason phrase of a status (RFC 9110)."""
    return PHRASES.get(status) or HTTPStatus(status).phrase


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses with these statuses and a Problem as body, for `responses=` of a route or router."""
    return {
        status: {
            "description": phrase(status),
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def describe_responses(operation: dict[str, Any], *statuses: int) -> None:
    """Add these statuses to an operation of an OpenAPI document, unless it declares them itself."""
    for status, response in problem_responses(*statuses).items():
        operation["responses"].setdefault(str(status), response)


def problem(status: int, detail: str | None, request_id: str | None, **extensions: Any) -> dict[str, Any]:
    """The members of a Problem. `type` is about:blank, so the title is that of the status (RFC 9457, 4.2.1)."""
    members = {"type": "about:blank", "title": phrase(status), "status": status, "detail": detail}
    members |= {"request_id": request_id, **extensions}
    return {name: value for name, value in members.items() if value is not None}


def too_large(request_id: str, limit: int) -> Response:
    """The response to a body of more than `limit` bytes."""
    detail = f"The body is larger than {limit} bytes"
    return JSONResponse(problem(413, detail, request_id), 413, media_type=PROBLEM_JSON)


def describe_problems(openapi: dict[str, Any]) -> None:
    """Add the schemas that `problem_responses` refers to. FastAPI adds only those of application/json."""
    _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    openapi["components"]["schemas"] |= schemas["$defs"]
