"""A stand-in for the Lambda runtime: imports a function from an artifact, and handles events, a line of JSON each.

`python -I -S -B runtime.py FOLDER MODULE`: the process can import only FOLDER and the standard library, and writes no
bytecode, as on Lambda, where /var/task is read-only. Each response has a report: time.monotonic() in seconds, a clock
that all processes share; processor time in seconds; peak memory in bytes.
"""

import json
import sys
import time
from importlib import import_module


class Context:
    """The parts of Lambda's context that the handlers read."""

    aws_request_id = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"

    def get_remaining_time_in_millis(self) -> int:
        return 10_000


def main() -> None:
    folder, module = sys.argv[1:]
    sys.path.insert(0, folder)
    handler = import_module(module).handler
    imported = time.monotonic()
    for line in sys.stdin:
        response = handler(json.loads(line), Context())
        report = {"clock": time.monotonic(), "cpu": time.process_time(), "imported": imported}
        report |= {"status": response["statusCode"], "body": response["body"], "memory": peak_memory()}
        print(json.dumps(report), flush=True)


def peak_memory() -> int:
    """Return the peak memory in bytes of this program. getrusage() includes that of the parent before exec."""
    try:
        with open("/proc/self/status") as status:  # noqa: PTH123 - what is not imported here, the function pays for
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:
        import resource  # noqa: PLC0415

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


main()
