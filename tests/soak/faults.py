"""The faults of the soak, one at a time."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import pg8000.native

from tests.soak.service import ENVIRONMENTS, Environment, Service, Window
from tests.support.environments import ROLE, connect, role_url

RECOVERY = 45.0  # seconds after a fault in which all environments must return a correct response
GONE = (pg8000.native.InterfaceError, pg8000.native.DatabaseError, OSError)
BACKENDS = f"SELECT pid FROM pg_stat_activity WHERE usename = '{ROLE}' ORDER BY pid"
END_ALL = f"SELECT pg_terminate_backend(pid, 5000) FROM ({BACKENDS}) AS backends"

# A function that injects a fault into the service and returns when the fault is over. Its extent is between 0 and 1.
Happen = Callable[[Service, list[Environment], float], None]


class Fault(NamedTuple):
    happen: Happen
    may_cost: int = 0  # requests of each environment that may be 503 after the fault
    holds_transactions: bool = False
    may_kill: bool = False


def on_network(name: str) -> Happen:
    return lambda service, _, __: service.network(name)


def end_one(service: Service, _: list[Environment], part: float) -> None:
    pids = service.admin(BACKENDS)
    if pids:
        service.admin(f"SELECT pg_terminate_backend({pids[int(part * len(pids))][0]}, 5000)")


def end_all(service: Service, _: list[Environment], __: float) -> None:
    service.admin(END_ALL)


def crash_one(service: Service, _: list[Environment], part: float) -> None:
    """Kill a server process. The server then ends all others and recovers."""
    pids = service.admin(BACKENDS)
    if not pids:
        return
    with suppress(*GONE), connect(service.url) as witness:
        os.kill(pids[int(part * len(pids))][0], signal.SIGKILL)
        while True:  # until the server has detected it
            witness.run("SELECT 1")
    while True:
        with suppress(*GONE), connect(role_url(service.url)):
            return
        time.sleep(0.02)


def restart(service: Service, _: list[Environment], part: float) -> None:
    service.stop_server()
    time.sleep(2 * part)
    service.start_server()


def cut(service: Service, _: list[Environment], part: float) -> None:
    service.network("cut_after", int(3000 * part))
    time.sleep(0.5)
    service.network("reset")  # connections that have sent fewer bytes


def black_hole(service: Service, _: list[Environment], part: float) -> None:
    service.network("black_hole")
    swallowed = [pid for (pid,) in service.admin(BACKENDS)]
    time.sleep(0.1 + 4 * part)
    service.network("restore")
    # Without this, the server would keep these processes until TCP keepalive detects the loss, after two hours. Their
    # locks are held until the next fault begins.
    service.before_next_fault = lambda: [
        service.admin(f"SELECT pg_terminate_backend({pid}, 5000)") for pid in swallowed
    ]


def refuse(service: Service, _: list[Environment], part: float) -> None:
    service.network("refuse")
    service.network("reset")
    time.sleep(0.1 + 2 * part)
    service.network("restore")


def freeze(service: Service, _: list[Environment], part: float) -> None:
    """Send no requests for a while, during which the network drops the connections."""
    service.awake.clear()
    held = [service.free.get() for _ in range(ENVIRONMENTS)]
    service.network("half_open")
    time.sleep(1.1 + 2 * part)
    for environment in held:
        service.free.put(environment)


def kill(_: Service, environments: list[Environment], part: float) -> None:
    environments[int(part * ENVIRONMENTS)].kill()


def lock(service: Service, _: list[Environment], part: float) -> None:
    with connect(service.url) as admin:
        admin.run("BEGIN")
        admin.run("LOCK TABLE items")
        time.sleep(0.1 + 4 * part)
        admin.run("ROLLBACK")


def leave_no_connection(service: Service, _: list[Environment], part: float) -> None:
    service.admin(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0", END_ALL)
    time.sleep(0.1 + 2 * part)
    service.admin(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


def demote(service: Service, _: list[Environment], part: float) -> None:
    """Fail over: the old primary accepts no more writes, and then stops."""
    service.admin("ALTER DATABASE postgres SET default_transaction_read_only = on", END_ALL)
    time.sleep(0.1 + 2 * part)
    reset = "ALTER DATABASE postgres RESET default_transaction_read_only"
    service.admin("SET default_transaction_read_only = off", reset, END_ALL)


def slow_down(service: Service, _: list[Environment], part: float) -> None:
    service.network("latency", 0.02 + 0.2 * part)
    time.sleep(2)
    service.network("latency", 0.0)


FAULTS = {
    "a server process is ended": Fault(end_one),
    "all server processes are ended": Fault(end_all),
    "a server process crashes": Fault(crash_one),
    "the server restarts": Fault(restart),
    "the server has no connection left": Fault(leave_no_connection),
    "the server is demoted": Fault(demote),
    "the table is locked": Fault(lock),
    "connections are reset": Fault(on_network("reset")),
    "connections are reset on the next write": Fault(on_network("reset_on_next_write")),
    "connections are cut in a reply": Fault(cut),
    "connections are refused": Fault(refuse),
    "the network is slow": Fault(slow_down),
    # A connection that becomes silent costs one request, which waits for its deadline and gets 503 (docs/adr/0019).
    "connections are half-open": Fault(on_network("half_open"), may_cost=1),
    "the network swallows everything": Fault(black_hole, may_cost=1, holds_transactions=True),
    "environments are frozen": Fault(freeze),
    "an environment is killed": Fault(kill, may_kill=True),
}


def inject_faults(service: Service, environments: list[Environment], seed: int, seconds: float) -> None:
    """Inject one fault after the other, all kinds equally often, until the time is over or the service has failed.

    Each kind occurs at least once. The seed determines the order, the extent and the pauses.
    """
    choice = random.Random(f"{seed} faults")
    end = time.monotonic() + seconds
    bag: list[str] = []
    while True:
        if not bag:
            bag = list(FAULTS)
            choice.shuffle(bag)
        name, part, pause = bag.pop(), choice.random(), choice.uniform(0.5, 2)
        if service.over.wait(pause) or (time.monotonic() > end and len(service.windows) >= len(FAULTS)):
            return
        fault = FAULTS[name]
        window = Window(name, part, fault.may_cost, fault.holds_transactions, fault.may_kill)
        service.windows.append(window)
        service.before_next_fault()
        service.before_next_fault = list
        fault.happen(service, environments, part)
        window.end = time.monotonic()
        service.awake.set()
        while len(window.recovered) < ENVIRONMENTS and not service.over.is_set():
            if time.monotonic() > window.end + RECOVERY:
                missing = sorted(set(range(ENVIRONMENTS)) - window.recovered)
                service.violate(f"no right response of {missing} {RECOVERY:g} s after {name} ({part:.2f})")
                break
            time.sleep(0.01)
