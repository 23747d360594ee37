"""One invocation: detect the event source, parse the request, run the application, log the request."""

import logging
import math
import uuid
from time import perf_counter
from typing import Any

from fastapi import FastAPI

from handler.adapter.detection import NotHttpEvent, describe_event, detect_event_source, is_warmup
from handler.adapter.event_source import EventSource
from handler.adapter.http_api import HTTP_API_2
from handler.adapter.request_log import log_request
from handler.adapter.requests import method_of, parse_request
from handler.adapter.responses import format_response, problem_response
from handler.adapter.retries import Outcome, run_with_retries
from handler.adapter.runner import Runner, outside_running_loop
from handler.api.route_table import path_templates
from handler.database.deadline import timeout_after
from handler.database.usage import track_usage
from handler.settings import Settings

TIME_TO_RESPOND = 0.5  # seconds at the end of the invocation that are reserved for the response

logger = logging.getLogger(__name__)


class Adapter:
    """Handles Lambda events with an application that `create_app(settings)` created."""

    def __init__(self, app: FastAPI) -> None:
        """Start the lifespan of `app`. Raises the exceptions of its startup."""
        self._settings: Settings = app.state.settings
        self._runner = Runner(app)
        self._path_templates = path_templates(app)

    def handle(self, event: Any, context: Any) -> dict[str, Any] | None:
        """The response to an HTTP request, in the format of its event source; None for a warm-up.

        Raises NotHttpEvent for every other event.
        """
        source = detect_event_source(event)
        if source is None:
            if is_warmup(event):
                return None
            raise NotHttpEvent(describe_event(event))
        response: dict[str, Any] = outside_running_loop(self._handle_request, source, event, context)
        return response

    def prime(self) -> None:
        """Run one request that needs no database.

        The first request imports, compiles and caches what all other requests use. During init, Lambda provides a whole
        processor for it, and with SnapStart it is done before the snapshot.
        """
        http = {"method": "GET", "path": "/health/live"}
        authorizer = {"jwt": {"claims": {"sub": "prime"}}, "iam": {"userArn": "prime"}}  # for every AUTH_MODE
        context = {"http": http, "authorizer": authorizer}
        event = {"version": "2.0", "rawPath": http["path"], "requestContext": context}
        run_with_retries(self._runner, parse_request(HTTP_API_2, event, None, "prime", self._settings), None)

    def close(self) -> None:
        """Shut down the lifespan and close the event loop. The adapter cannot handle events afterwards.

        For tests and for programs that embed the handler. Lambda does not announce the end of an environment.
        """
        self._runner.close()

    def _handle_request(self, source: EventSource, event: Any, context: Any) -> dict[str, Any]:
        started, usage, request_id = perf_counter(), track_usage(), _request_id(context)
        try:
            request = parse_request(source, event, context, request_id, self._settings)
        except Exception as error:  # noqa: BLE001 - a malformed event may raise any exception, and must get a response
            logger.info("the event cannot be parsed as a request: %s", type(error).__name__)
            method = method_of(source, event)
            problem = problem_response(400, "The request cannot be parsed", request_id)
            outcome = Outcome(format_response(source, method or "GET", problem, request_id))
        else:
            method = request.method
            with timeout_after(_time_left(context) - TIME_TO_RESPOND):
                outcome = run_with_retries(self._runner, request, context)
        response, endpoint, repeats = outcome
        log_request(
            context,
            request_id,
            method=method,
            route=self._path_templates.get(endpoint),
            status=response["statusCode"],
            seconds=perf_counter() - started,
            usage=usage,
            repeats=repeats,
        )
        return response


def _request_id(context: Any) -> str:
    return getattr(context, "aws_request_id", None) or str(uuid.uuid4())


def _time_left(context: Any) -> float:
    """Seconds until Lambda ends the invocation; infinite where the context does not say."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return left() / 1000 if left else math.inf
