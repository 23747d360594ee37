"""The engine: one for each Lambda environment, made at import without connecting, alive across invocations."""

from sqlalchemy import URL, create_engine

from handler.database.connection import connect_arguments
from handler.settings import settings

engine = create_engine(
    URL.create("postgresql+pg8000"),  # names the dialect; the password stays out of the URL, and of its repr
    connect_args=connect_arguments(settings().database),
    pool_size=1,  # an environment serves one request at a time
    max_overflow=0,
    pool_timeout=5,
    pool_pre_ping=True,
)
