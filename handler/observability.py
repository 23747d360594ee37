"""One line for each request: what it was, how it ended, what it cost. The metrics behind the alarms are in it.

The line is a log event and a document in CloudWatch's embedded metric format at once, so it costs one write and no
call (docs/adr/0018). Lambda's JSON formatter makes members of the root of what is in `extra` (awslambdaric,
lambda_runtime_log_utils.py), and the root is where CloudWatch looks for `_aws` and for the members that it names
(CloudWatch user guide, "Specification: Embedded metric format"). Nothing that a client wrote is in it: neither path
nor query, no header, no body.
"""

import logging
import os
import re
import time
from typing import Any

from handler.database.spent import Spent
from handler.errors import METHODS

# The template's alarms and dashboard name these.
NAMESPACE = "Items"
METRICS = {
    "Requests": "Count",
    "ServerErrors": "Count",
    "ColdStarts": "Count",
    "Duration": "Milliseconds",
    "DatabaseTime": "Milliseconds",
    "RoundTrips": "Count",
}
DIRECTIVE = {
    "Namespace": NAMESPACE,
    "Dimensions": [["function"]],
    "Metrics": [{"Name": name, "Unit": unit} for name, unit in METRICS.items()],
}
FUNCTION = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "local")
NO_ROUTE = "unmatched"  # the path is the client's own text, and there is no end of them

logger = logging.getLogger(__name__)
# Whatever LOG_LEVEL says: alarms that hear nothing are silent.
logger.setLevel(logging.INFO)
_first = iter([True])


def log_request(  # noqa: PLR0913 - what there is to say of a request
    context: Any, request_id: str, *, method: str | None, route: Any, status: int, seconds: float, spent: Spent
) -> None:
    """Write the line. `method` and `route` are None where the request came to none; times are in seconds.

    A request that the service failed is an ERROR, whoever noticed; what a client got wrong is not.
    """
    method = method if method in METHODS else "OTHER"
    route = getattr(route, "path", NO_ROUTE)
    is_cold = next(_first, False)
    # The runtime sets it for each invocation: X-Ray developer guide, "Tracing header".
    trace = re.search(r"Root=([0-9a-f-]+)", os.environ.get("_X_AMZN_TRACE_ID", ""))
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    line = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [DIRECTIVE]},
        "function": FUNCTION,
        "method": method,
        "route": route,
        "status": status,
        "coldStart": is_cold,
        "remainingTime": remaining() if remaining else None,
        "connections": spent.connections,
        "traceId": trace[1] if trace else None,
        "aws_request_id": request_id,  # which the formatter calls requestId
        "Requests": 1,
        "ServerErrors": int(status >= 500),
        "ColdStarts": int(is_cold),
        "Duration": round(seconds * 1000, 3),
        "DatabaseTime": round(spent.seconds * 1000, 3),
        "RoundTrips": spent.round_trips,
    }
    logger.log(logging.ERROR if status >= 500 else logging.INFO, "%s %s %s", method, route, status, extra=line)
