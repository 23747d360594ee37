"""`python -m tests.upstream.run`: pg8000's own DBAPI tests, run against `handler.database.driver.connection`.

pip downloads the source distribution of the pinned version. Exits with 0 if exactly the tests of expected.toml fail.
"""

import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from local.postgres import server
from tests.support.database import connect

HERE = Path(__file__).parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
# From pg8000's README, "Run Tests", without `gss`, which the embedded server does not support, and without `trust`.
AUTHENTICATION = """
local all all scram-sha-256
host pg8000_md5 all 127.0.0.1/32 md5
host pg8000_password all 127.0.0.1/32 password
host pg8000_scram_sha_256 all 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="upstream-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(folder / "tools")])}
        source = _download(folder, environment)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        options = ("-c", "max_prepared_transactions=10", "-c", "fsync=off")
        with server(folder / "postgres", *options, port=port) as url:
            _set_up(folder / "postgres" / "cluster", url)
            password = str(urlsplit(url).password)
            environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGPASSWORD": password}
            command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "tests.upstream.plugin"]
            command += ["-p", "no:cacheprovider", "--quiet", "--tb=no", "--no-summary", "test/dbapi"]
            return subprocess.run(command, cwd=source, env=environment, check=False).returncode


def _download(folder: Path, environment: dict[str, str]) -> Path:
    """Download and unpack the source distribution. pip runs its build backend with the pinned tools of this project."""
    install = ["install", "--target", str(folder / "tools"), "--only-binary", ":all:", "-r", str(HERE / "tools.txt")]
    download = ["download", "--dest", str(folder), "--no-binary", "pg8000", "--no-build-isolation"]
    download += ["-r", str(HERE / "requirements.txt")]
    for command in (install, download):
        subprocess.run([*PIP, *command, "--no-deps", "--require-hashes"], env=environment, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return source


def _set_up(cluster: Path, url: str) -> None:
    with connect(url) as admin:
        admin.run("CREATE EXTENSION hstore")
        (cluster / "pg_hba.conf").write_text(AUTHENTICATION)
        admin.run("SELECT pg_reload_conf()")


if __name__ == "__main__":
    sys.exit(main())
