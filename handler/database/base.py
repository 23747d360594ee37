"""The base class of all models. Its metadata gives constraints the same names in every database."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

# Without a convention PostgreSQL chooses the names, and migrations and error handlers cannot refer to them.
NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
