"""The Lambda entry: `handler.main.handler`."""

import asyncio
import json
import logging
from typing import Any

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

from handler.app import create_app
from handler.database.deadline import within
from handler.errors import PROBLEM_JSON, problem
from handler.settings import settings

# Above the longest valid body: 10,200 characters, each of them twelve bytes as an escaped surrogate pair.
MAX_BODY = 256 * 1024
TIME_TO_ANSWER = 0.5  # seconds of the invocation that the database does not get

logging.getLogger().setLevel(settings().log_level)
logging.getLogger("mangum").setLevel(logging.WARNING)  # it has a line for every request
logger = logging.getLogger(__name__)

_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)  # before Mangum, which makes one where there is none

app = create_app()
# Mangum runs startup and shutdown on every invocation unless lifespan is off, and sends what it does not know
# to be text as base64.
_adapter = Mangum(app, lifespan="off", text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, PROBLEM_JSON])


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer one API Gateway event (HTTP API, payload 2.0) with the dict that API Gateway expects.

    Never raises for a request: what cannot be turned into one is answered 400.
    """
    # Mangum takes the thread's current loop, and a new thread has none.
    asyncio.set_event_loop(_loop)
    try:
        if len(event.get("body") or "") > MAX_BODY:
            answer = _refuse(context, 413, f"The body is larger than {MAX_BODY} bytes")
        else:
            with within(context.get_remaining_time_in_millis() / 1000 - TIME_TO_ANSWER):
                answer = _adapter(event, context)
    except Exception:  # the application's own errors are answered inside Mangum; this is the event's
        logger.info("the event is no request that can be read", exc_info=True)
        answer = _refuse(context, 400, "The request cannot be read")
    answer["headers"]["x-request-id"] = context.aws_request_id
    return answer


def _refuse(context: Any, status: int, detail: str) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": PROBLEM_JSON},
        "body": json.dumps(problem(status, detail, context.aws_request_id)),
        "isBase64Encoded": False,
    }
