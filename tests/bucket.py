"""Who stands in for S3, where CloudFormation waits for the answer of a custom resource."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

HANG = 0  # in place of a status: the connection stays open, and nothing comes


class Put(NamedTuple):
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Bucket:
    """`statuses` are the next answers, 200 after them; `puts` is what has come."""

    url: str
    statuses: list[int] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)

    @property
    def answer(self) -> dict[str, Any]:
        """What CloudFormation reads: the first that was taken."""
        (put,) = self.puts
        return json.loads(put.body)  # type: ignore[no-any-return]


@contextmanager
def bucket() -> Iterator[Bucket]:
    end = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = found.statuses.pop(0) if found.statuses else 200
            found.puts.append(Put(self.path, headers, body))
            if status == HANG:
                end.wait()
                return
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Bucket(f"http://127.0.0.1:{server.server_port}/arn%3Aaws%3A1%7CMigration?X-Amz-Signature=SECRET%2F")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        end.set()
        server.shutdown()
        thread.join()
        server.server_close()
