"""`make seed`: store the examples of the OpenAPI document through the API.

For each resource, its POST is called in this process with the example of its request body. A resource that refers to
another one is tried again after the others.
"""

import json
import os
import subprocess
import sys

from local import examples
from local.events import Context, http_event, http_response
from local.postgres import PostgresError, database

JSON = [("content-type", "application/json")]


def seed() -> int:
    """Store every example, and return how many could not be stored. DATABASE_URL and AUTH_MODE are set."""
    from handler.main import app, handler  # noqa: PLC0415 - it connects to the database of the environment

    waiting = list(examples.creations(app.openapi()))
    if not waiting:
        print("seed: no resource has a POST with a body")
    responses = {}
    while waiting:
        for path, body in waiting:
            event = http_event("POST", path, "", JSON, json.dumps(body).encode())
            responses[path] = http_response(handler(event, Context()))
        left = [(path, body) for path, body in waiting if responses[path].status >= 300]
        if len(left) == len(waiting):
            break
        waiting = left
    for path, response in responses.items():
        print(f"seed: POST {path} {response.status} {response.body.decode()}")
    # 409: the example is stored already.
    return sum(response.status >= 300 and response.status != 409 for response in responses.values())


def main() -> None:
    # No authorization, because only the examples are stored.
    os.environ |= {"AUTH_MODE": "none"}
    try:
        with database() as found:
            os.environ |= {"DATABASE_URL": found.url}
            failed = subprocess.call([sys.executable, "-m", "handler.migrate"], stdout=subprocess.DEVNULL)
            sys.exit(1 if failed or seed() else 0)
    except PostgresError as error:
        sys.exit(f"seed: {error}")


if __name__ == "__main__":
    main()
