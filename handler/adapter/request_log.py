"""One line for each request: what it was, how it ended, what it cost. The metrics behind the alarms are in it.

The line is a log event and a document in CloudWatch's embedded metric format at once: one write to standard output,
no call, no library (docs/adr/0018). Its root has the members that the document names, and no text of a client's:
neither path nor query, no header, no body.

CloudWatch user guide, "Specification: Embedded metric format". Lambda developer guide, "Log-level filtering": a line
that is JSON, with `level` and `timestamp`, is taken as it is.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from handler.api.methods import METHODS
from handler.database.usage import DatabaseUsage
from handler.settings import settings

RequestLog = dict[str, Any]

# The template's alarms and dashboard name these.
METRICS = {
    "Requests": "Count",
    "ServerErrors": "Count",
    "ColdStarts": "Count",
    "Duration": "Milliseconds",
    "DatabaseTime": "Milliseconds",
    "RoundTrips": "Count",
}
DIRECTIVE = {
    "Namespace": settings().service_name,
    "Dimensions": [["function"]],
    "Metrics": [{"Name": name, "Unit": unit} for name, unit in METRICS.items()],
}
FUNCTION = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
VERSION = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")  # during a rollout there are two
OTHER = "other"  # there is no end of the methods and paths that clients make up

_encode = json.JSONEncoder(separators=(",", ":")).encode
_METRICS_OF_LINE = _encode({"CloudWatchMetrics": [DIRECTIVE]})[1:]  # written once: it is half of each line
_first = iter([True])


def print_line(line: RequestLog) -> None:
    """To CloudWatch. Whatever LOG_LEVEL says: alarms that hear nothing are silent."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    metrics = f'"_aws":{{"Timestamp":{now * 1000:.0f},{_METRICS_OF_LINE}'
    sys.stdout.write(f'{{{metrics},"timestamp":"{stamp}",{_encode(line)[1:]}\n')


# Who is told of each request. Where nobody is, the handler is quiet: in a program that calls it, in a benchmark.
sinks: list[Callable[[RequestLog], None]] = [print_line] if FUNCTION else []


def log_request(  # noqa: PLR0913 - what there is to say of a request
    context: Any,
    request_id: str,
    *,
    method: str | None,
    route: Any,
    status: int,
    seconds: float,
    usage: DatabaseUsage,
    repeats: int,
) -> None:
    """Log a request that took so many `seconds`, and was run again `repeats` times because it lost a race.

    `method` and `route`, a path template, are None where the request has none. A request that the service failed is an
    ERROR; what a client got wrong is not.
    """
    if not sinks:
        return
    is_cold = next(_first, False)
    # Set by the runtime for each invocation: X-Ray developer guide, "Tracing header".
    trace = re.search(r"Root=([0-9a-f-]+)", os.environ.get("_X_AMZN_TRACE_ID", ""))
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    line: RequestLog = {
        "level": "ERROR" if status >= 500 else "INFO",
        "function": FUNCTION or "local",
        "version": VERSION,
        "requestId": request_id,
        "traceId": trace and trace[1],
        "method": method if method in METHODS else OTHER,
        "route": route or OTHER,
        "status": status,
        "coldStart": is_cold,
        "remainingTime": remaining and remaining(),
        "connections": usage.connections,
        "repeats": repeats,
        "Requests": 1,
        "ServerErrors": int(status >= 500),
        "ColdStarts": int(is_cold),
        "Duration": round(seconds * 1000, 3),
        "DatabaseTime": round(usage.seconds * 1000, 3),
        "RoundTrips": usage.round_trips,
    }
    for sink in sinks:
        sink(line)
