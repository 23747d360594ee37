"""Run a request again after a lost race, or with fewer items where a page is too large for the event source."""

import logging
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from handler.adapter.requests import Request
from handler.adapter.responses import ResponseTooLarge, format_response, problem_response
from handler.adapter.runner import Runner
from handler.database.deadline import sleep
from handler.database.session import IS_ENDED

MAX_REPEATS = 8  # of a request that lost a race
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds before a repeat; the pauses double and have jitter

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """A formatted response, the endpoint that returned it, and how often the request was repeated."""

    response: dict[str, Any]
    endpoint: Any = None
    repeats: int = 0


def run_with_retries(runner: Runner, request: Request, context: Any) -> Outcome:
    """Run a request until it has a response that can be returned. Raises nothing: an exception becomes a 500."""
    max_items = None
    while True:
        try:
            return _repeat_lost_races(runner, request, context, max_items)
        except ResponseTooLarge as error:
            if error.max_items is None:
                logger.error(error.detail)  # noqa: TRY400 - the traceback adds no information
                return Outcome(_server_error(request, error.detail, error.headers))
            max_items = error.max_items
        except Exception:  # the application's own exceptions are responses already
            logger.exception("the response cannot be formatted")
            return Outcome(_server_error(request, None, {}))


def _repeat_lost_races(runner: Runner, request: Request, context: Any, max_items: int | None) -> Outcome:
    """Repeat a request that lost a race, where the rollback of its session undid everything that the route did.

    This is the case for a RepeatableRoute whose session has not committed (docs/adr/0031).
    """
    for repeats, pause in enumerate(_pauses()):
        response, scope = runner.run(request, context, max_items)
        is_repeatable = getattr(scope.get("route"), "repeatable", False)
        is_ended = scope.get(IS_ENDED)
        if is_ended is False and 200 <= response["statusCode"] < 300:
            logger.error("%s: the response was a 2xx, but the session was not committed", scope.get("path"))
            response = _server_error(request, None, {})
        lost_race = "lost_race" in scope and is_ended is False
        if not (lost_race and is_repeatable) or pause is None or not sleep(pause):
            return Outcome(response, scope.get("endpoint"), repeats)
    raise AssertionError("the last attempt returns")


def _pauses() -> Iterator[float | None]:
    """The seconds to wait after each attempt that lost a race; None after the last attempt."""
    for number in range(MAX_REPEATS):
        yield min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - jitter
    yield None


def _server_error(request: Request, detail: str | None, headers: dict[str, str]) -> dict[str, Any]:
    problem = problem_response(500, detail, request.request_id)
    response = problem._replace(headers=problem.headers | headers)
    return format_response(request.source, request.method, response, request.request_id)
