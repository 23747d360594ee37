"""The engine: one for each Lambda environment, made at import without connecting, alive across invocations."""

import logging

from sqlalchemy import QueuePool

from handler.database import snapstart
from handler.database.connection import make_engine
from handler.database.credentials import logins
from handler.database.deadline import remaining
from handler.settings import settings


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

engine = make_engine(
    settings().database,
    poolclass=DeadlinePool,
    pool_size=settings().database.pool_size,
    max_overflow=0,
    pool_timeout=settings().database.checkout_timeout,
    pool_recycle=settings().database.recycle,
    pool_use_lifo=True,
    pool_pre_ping=True,  # costs a round trip only after an idle time: Connection.is_alive
)

logins.preload(settings().database)
snapstart.register(engine)
