"""The engine: one per Lambda environment, created at import without connecting, and kept across invocations."""

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
    """SQLAlchemy's QueuePool, which waits for a free connection until the invocation's deadline at most."""

    @property
    def _timeout(self) -> float:
        try:
            return min(self._limit, remaining() or self._limit)
        except TimeoutError:
            return 0.0

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._limit = seconds


# SQLAlchemy names a pool's logger after its class. The loggers of its own classes do not log connects and checkins.
logging.getLogger(f"{DeadlinePool.__module__}.{DeadlinePool.__name__}").setLevel(logging.WARNING)


class Connector:
    """Opens the connections of the engine.

    A test that needs other settings sets `connector.settings` and calls `engine.dispose()`, which closes the open
    connections. The size and the timeouts of the pool do not change.
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
    pool_pre_ping=True,  # takes a round trip only if the connection was idle: Connection.is_alive
)

logins.preload(connector.settings)
snapstart.register(engine)
