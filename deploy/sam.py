"""Run `sam local` with the built function and a database: `python -m deploy.sam start-api`.

`python -m deploy.sam invoke ApiFunction -e events/health-ready.json` runs one invocation. The database is the embedded
one or the one in DATABASE_URL. It is migrated first. This needs a Docker engine, and the build of `make sam-local`.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import quote

from deploy.relay import relay
from handler.settings import SettingsError, read_database_settings
from local.postgres import PostgresError, database_url
from local.run import migrate, stop, stop_on_signals

ROOT = Path(__file__).parents[1]
SAM = ROOT / ".venv-sam" / "bin" / "sam"
TEMPLATE = ROOT / ".local" / "sam" / "build" / "template.yaml"
HOST = "host.docker.internal"  # the name of this machine in a container
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# The values here of variables that the template sets for the function.
ENVIRONMENT = {"AUTH_MODE": "none", "DATABASE_IAM_AUTH": "false", "DATABASE_SECRET_ARN": ""}
# As on Lambda, the process stays between requests. SAM cannot read an authorizer that depends on a condition.
START_API = ["--warm-containers", "EAGER", "--disable-authorizer"]


class SamError(Exception):
    """`sam local` cannot be started. The message is one line with the reason."""


@contextmanager
def reachable(url: str) -> Iterator[str]:
    """Yield a URL of the database at `url` for a container during the block. Raises SettingsError and SamError.

    A database on this machine is reached through a relay: the embedded one does not listen on TCP, and others often
    listen only on 127.0.0.1, which in a container is the container. Every process of this machine and every container
    can use the relay, so the database must require a password, as the embedded one does.
    """
    database = read_database_settings({"DATABASE_URL": url})
    host, port = database.host or "localhost", database.port or 5432
    if not host.startswith("/") and host not in THIS_MACHINE:
        yield url
        return
    if not database.password:
        raise SamError("DATABASE_URL must have a password: other containers can reach the database through the relay")
    login = f"{quote(database.user or '', safe='')}:{quote(database.password, safe='')}"
    upstream = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else ("127.0.0.1", port)
    with relay(upstream, _relay_address()) as relay_port:
        yield f"postgresql://{login}@{HOST}:{relay_port}/{quote(database.database or '', safe='')}?sslmode=disable"


def _relay_address() -> str:
    """The address of this machine that `host-gateway` means. Containers of Docker Desktop can reach 127.0.0.1."""
    if sys.platform == "linux":
        command = ["docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"]
        (network,) = json.loads(subprocess.check_output(command))[:1]
        # Without a configured gateway, the engine uses the first address, and may not report it.
        gateway: str = network.get("Gateway") or str(ip_network(network["Subnet"])[1])
        with suppress(OSError), socket.create_server((gateway, 0)):
            return gateway
        # The engine of Docker Desktop runs in a virtual machine, so its gateway is not an address of this machine.
    return "127.0.0.1"


@contextmanager
def sam_local(arguments: list[str], url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `sam local` with `arguments` and the database at `url` during the block."""
    if sys.platform == "linux":  # on other systems Docker defines the name
        arguments = [*arguments, "--add-host", f"{HOST}:host-gateway"]
    architecture = "arm64" if os.uname().machine in ("arm64", "aarch64") else "x86_64"
    command = [str(SAM), "local", *arguments, "--template", str(TEMPLATE)]
    command += ["--parameter-overrides", f"Architecture={architecture} AuthMode=none Release=local"]
    environment = os.environ | ENVIRONMENT | {"DATABASE_URL": url, "SAM_CLI_TELEMETRY": "0"}
    # In a separate session, so that Ctrl-C ends only this process. SAM removes its containers on SIGTERM.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def run(arguments: list[str]) -> int:
    if arguments[0] == "start-api":
        arguments += [*START_API, "--port", os.environ.get("PORT") or "3000"]
    with ExitStack() as stack:
        url = stack.enter_context(database_url())
        if migrate(os.environ | {"DATABASE_URL": url}):
            return 1
        inside = stack.enter_context(reachable(url))
        return stack.enter_context(sam_local(arguments, inside)).wait()


def main() -> None:
    stop_on_signals()
    try:
        sys.exit(run(sys.argv[1:]))
    except (PostgresError, SettingsError, SamError) as error:
        sys.exit(f"sam-local: {error}")
    except KeyboardInterrupt:
        print("sam-local: stopped", flush=True)


if __name__ == "__main__":
    main()
