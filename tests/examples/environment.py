"""A Lambda environment that serves the resource of examples/: `python -m tests.examples.environment`.

It is a separate process, because no migration of the service creates the example's tables. It reads a request from each
line of its input, and writes each response as a line.
"""

import json
import sys

from handler import resources

resources.RESOURCES = ("examples.orders",)

from tests.support.client import call  # noqa: E402 - it imports the handler, which imports the resources

for line in sys.stdin:
    method, path, body, query, headers = json.loads(line)
    response = call(method, path, body, query=query, headers=headers)
    sys.stdout.write(json.dumps([response.status, response.headers, response.body.decode()]) + "\n")
    sys.stdout.flush()
