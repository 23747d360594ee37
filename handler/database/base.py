"""The base of every model: one metadata, with constraint names that are the same in every database."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

# Without a convention PostgreSQL invents names, and neither a migration nor an error can refer to them.
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
