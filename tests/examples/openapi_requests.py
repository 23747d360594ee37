"""Send generated requests to the example's operations: `python -m tests.examples.openapi_requests`.

It prints each operation that it has tested, and fails if a response differs from the OpenAPI document.
"""

import sys
from typing import Any

from hypothesis import given

from handler import resources

resources.RESOURCES = ("examples.orders",)

from handler import main  # noqa: E402 - after the registration
from tests.support.openapi_requests import examples, load_schema, send  # noqa: E402

document = main.app.openapi()
schema = load_schema(document, main.handler)
for operation in [schema[path][method] for path, methods in document["paths"].items() for method in methods]:

    @examples(30)
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        send(case)

    check()
    sys.stdout.write(f"{operation.label}\n")
