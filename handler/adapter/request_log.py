"""One log line for each request, which also carries the metrics of the alarms.

The line is both a log event and a document in CloudWatch's embedded metric format. It is written to standard output
without a library (docs/adr/0018). It contains no text of a client: no path, query, header or body.

CloudWatch user guide, "Specification: Embedded metric format". Lambda developer guide, "Log-level filtering": Lambda
passes on a line of JSON with `level` and `timestamp` unchanged.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from handler.api.route_table import METHODS
from handler.database.usage import DatabaseUsage

RequestLog = dict[str, Any]

# The template's alarms and dashboard use these names.
METRICS = {
    "Requests": "Count",
    "ServerErrors": "Count",
    "ColdStarts": "Count",
    "Duration": "Milliseconds",
    "DatabaseTime": "Milliseconds",
    "RoundTrips": "Count",
}
OTHER = "other"  # for unknown methods and paths: clients can send any number of them

Sink = Callable[[RequestLog], None]
# Each sink gets the record of each request. Empty where the handler runs in another program, such as a test.
sinks: list[Sink] = []

_encode = json.JSONEncoder(separators=(",", ":")).encode
_first = iter([True])


def cloudwatch_sink(namespace: str) -> Sink:
    """Write to standard output, with metrics in `namespace`. Independent of LOG_LEVEL: alarms need every request."""
    directive = {
        "Namespace": namespace,
        "Dimensions": [["function"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in METRICS.items()],
    }
    # During a rollout a function has two versions.
    names = {"function": "AWS_LAMBDA_FUNCTION_NAME", "version": "AWS_LAMBDA_FUNCTION_VERSION"}
    function = {member: os.environ.get(variable, "local") for member, variable in names.items()}
    # Encoded once, because it is half of each line.
    constant = f"{_encode({'CloudWatchMetrics': [directive]})[1:]},{_encode(function)[1:-1]}"

    def write(line: RequestLog) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        metrics = f'"_aws":{{"Timestamp":{now * 1000:.0f},{constant}'
        sys.stdout.write(f'{{{metrics},"timestamp":"{stamp}",{_encode(line)[1:]}\n')

    return write


def log_request(  # noqa: PLR0913 - the members of a line
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
    """Pass the record of a request to the sinks. `repeats` is how often it was run again after a lost race.

    `method` and `route`, a path template, are None where the request has none. A 5xx response has level ERROR, a
    4xx has level INFO.
    """
    if not sinks:
        return
    is_cold = next(_first, False)
    # Set by the runtime for each invocation: X-Ray developer guide, "Tracing header".
    trace = re.search(r"Root=([0-9a-f-]+)", os.environ.get("_X_AMZN_TRACE_ID", ""))
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    line: RequestLog = {
        "level": "ERROR" if status >= 500 else "INFO",
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
