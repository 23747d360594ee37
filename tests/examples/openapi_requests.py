"""Send the example requests that its OpenAPI document allows, and that it does not: `python -m ...openapi_requests`.

Prints the operations that were tested; fails where a response is another than the document says.
"""

import sys
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as limits

from handler import resources

resources.RESOURCES = ("examples.orders",)

from handler import main  # noqa: E402 - after the registration
from local.gateway import Gateway  # noqa: E402

# OpenAPI cannot say which strings are cursors (400), what is stored (404, 409) and which versions there are (412).
ACCEPTED = ["2xx", "304", "400", "404", "409", "412"]
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]

gateway = Gateway(main.handler)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The local gateway; Schemathesis starts and stops an application, which it does not need."""
    if scope["type"] == "http":
        await gateway(scope, receive, send)
        return
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}})
document = main.app.openapi()
schema = schemathesis.openapi.from_dict(document, config=config)
schema.app = app
for operation in [schema[path][method] for path, methods in document["paths"].items() for method in methods]:

    @limits(max_examples=30, deadline=None, derandomize=True, suppress_health_check=SLOW)
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        (case.headers or {}).pop("Idempotency-Key", None)
        case.call_and_validate()

    check()
    sys.stdout.write(f"{operation.label}\n")
