"""The engine: one for each Lambda environment, made at import without connecting, alive across invocations."""

import logging
import os
from typing import Any

from sqlalchemy import QueuePool

from handler.database import snapstart
from handler.database.connection import connect, make_engine
from handler.database.credentials import logins
from handler.database.deadline import remaining
from handler.settings import DatabaseSettings, read_database_settings


class DeadlinePool(QueuePool):
    """Waits for a connection no longer than the invocation can."""

    @property
    def _timeout(self) -> float:
        try:
            return min(self._limit, remaining() or self._limit)
        except TimeoutError:
            return 0.0

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._limit = seconds


# SQLAlchemy names a pool's logger after its class; only its own classes are quiet about connections that come and go.
logging.getLogger(f"{DeadlinePool.__module__}.{DeadlinePool.__name__}").setLevel(logging.WARNING)


class Connector:
    """Makes the connections of the engine.

    A test that needs other settings sets `connector.settings`, and calls `engine.dispose()` so that no connection with
    the previous settings is used. The size and the times of the pool stay as they are.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings

    def __call__(self) -> Any:
        return connect(self.settings)


connector = Connector(read_database_settings(os.environ))
engine = make_engine(
    connector.settings,
    creator=connector,
    poolclass=DeadlinePool,
    pool_size=connector.settings.pool_size,
    max_overflow=0,
    pool_timeout=connector.settings.checkout_timeout,
    pool_recycle=connector.settings.recycle,
    pool_use_lifo=True,
    pool_pre_ping=True,  # costs a round trip only after an idle time: Connection.is_alive
)

logins.preload(connector.settings)
snapstart.register(engine)
