from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Identity, Index, Integer, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from handler.database.base import Base

NAME_LENGTH = 200
DESCRIPTION_LENGTH = 10_000
# Python's datetime and RFC 3339 have the years 1 to 9999, and no infinity.
SHOWN = "{0} >= '0001-01-01 00:00:00+00' AND {0} < '10000-01-01 00:00:00+00'"


class Item(Base):
    __tablename__ = "items"
    __table_args__ = (
        # The API checks these first, with better messages. The constraints are for programs that write to the table
        # directly.
        CheckConstraint(f"char_length(name) BETWEEN 1 AND {NAME_LENGTH}", name="name_length"),
        CheckConstraint(r"name ~ '\S'", name="name_not_blank"),
        CheckConstraint(f"char_length(description) <= {DESCRIPTION_LENGTH}", name="description_length"),
        # Without these, a row could exist that the API cannot return, and each list that contains it would fail.
        CheckConstraint("id >= 1", name="id_positive"),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint(SHOWN.format("created_at"), name="created_at_shown"),
        CheckConstraint(SHOWN.format("updated_at"), name="updated_at_shown"),
        Index("ix_items_name_id", "name", "id"),  # for the list by name
        # Substrings of three characters and more, in either column (PostgreSQL manual, F.35 "pg_trgm").
        Index(
            "ix_items_search",
            "name",
            "description",
            postgresql_using="gin",
            postgresql_ops={"name": "gin_trgm_ops", "description": "gin_trgm_ops"},
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
