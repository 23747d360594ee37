"""Forks and snapshots: two processes never use the same socket."""

import os
import subprocess
import sys

FORK = """
import os
from sqlalchemy import text
from handler.database.engine import engine
from tests.support.client import call, create_probe, listed, probe_path

def backend():
    with engine.connect() as connection:
        return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()

create_probe()
parents = backend()
with engine.connect() as held:  # the parent forks during a transaction
    held.execute(text("INSERT INTO probes (name) VALUES ('of the parent')"))
    pid = os.fork()
    if pid == 0:
        held.close()
        assert backend() != parents
        assert call("GET", probe_path(1)).status == 200
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    held.commit()
assert backend() == parents
assert len(listed(call("GET", "/probes/"))) == 2
"""

SNAPSHOT = """
import sys, types
hooks = []
sys.modules["snapshot_restore_py"] = types.SimpleNamespace(register_before_snapshot=hooks.append)
from sqlalchemy import text
from handler.database.engine import engine
from tests.support.client import call, create_probe, listed, probe_path

create_probe()
assert engine.pool.checkedin() == 1
[hook] = hooks
hook()
assert engine.pool.checkedin() == 0
assert call("GET", probe_path(1)).status == 200
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=os.environ, timeout=60)


def test_a_forked_process_opens_a_connection_and_does_not_use_that_of_its_parent() -> None:
    run(FORK)


def test_no_connection_goes_into_a_snapshot_and_the_first_request_after_it_works() -> None:
    run(SNAPSHOT)


def test_a_runtime_without_snapshots_does_no_harm() -> None:
    run("import sys; sys.modules['snapshot_restore_py'] = None; import handler.main")
