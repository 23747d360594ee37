"""`make bench-connect`: the first connection of a process, TLS with SCRAM, ours beside stock pg8000.

Each sample is a new process that imports the driver and its dialect first, and then is timed from `create_engine` to
the answer of `SELECT 1`: what a cold start pays for its first statement. Stock pg8000 is as it comes: TLS where the
server has it, and nothing verified. Ours verifies, and reads the system's authorities and the test's for it.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from local.postgres import server
from tests.certificates import authority, issue
from tests.database import connect, free_port, required_program

SAMPLES = 30
TIMED = """
import sys, time
from sqlalchemy import create_engine, text
{imports}
started = time.perf_counter()
engine = {engine}
with engine.connect() as connection:
    connection.execute(text("SELECT 1")).scalar_one()
print(time.perf_counter() - started)
engine.dispose()
"""
OURS = {
    "imports": "from handler.database.connection import make_engine\n"
    "from handler.settings import read_database_settings as read",
    "engine": "make_engine(read({{'DATABASE_URL': {url!r} + '?sslmode=verify-full&sslrootcert={ca}'}}))",
}
STOCK = {
    "imports": "import pg8000\nimport sqlalchemy.dialects.postgresql.pg8000",
    "engine": "create_engine('postgresql+pg8000' + {url!r}.removeprefix('postgresql'))",
}


def sample(kind: dict[str, str], url: str, ca: str) -> float:
    code = TIMED.format(imports=kind["imports"], engine=kind["engine"].format(url=url, ca=ca))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        options = ("-c", "listen_addresses=127.0.0.1", "-c", f"port={port}")
        programs = required_program("postgres").parent
        with server(folder / "data", *options, programs=programs) as admin_url, connect(admin_url) as admin:
            (folder / "data" / "pg_hba.conf").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
            issue(authority(folder / "ca.pem"), folder / "data", "127.0.0.1")
            admin.run("CREATE ROLE ann LOGIN PASSWORD 'secret'")
            admin.run("ALTER SYSTEM SET ssl = on")
            admin.run("SELECT pg_reload_conf()")
            url, ca = f"postgresql://ann:secret@127.0.0.1:{port}/postgres", str(folder / "ca.pem")
            times: dict[str, list[float]] = {"ours": [], "stock pg8000": []}
            for number in range(SAMPLES):
                print(f"\r{number + 1}/{SAMPLES}", end="", file=sys.stderr, flush=True)
                times["ours"].append(sample(OURS, url, ca))
                times["stock pg8000"].append(sample(STOCK, url, ca))
    print(file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(json.dumps(medians | {"ratio": medians["ours"] / medians["stock pg8000"]}, indent=2))


if __name__ == "__main__":
    main()
