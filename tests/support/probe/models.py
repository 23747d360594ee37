from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Numeric,
    Text,
    event,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from handler.database.base import Base


class State(StrEnum):
    IDLE = "idle"
    ACTIVE = "active"
    RETIRED = "retired"


class Probe(Base):
    __tablename__ = "probes"
    __table_args__ = (CheckConstraint(r"name ~ '\S'", name="name_not_blank"),)
    # UPDATE ... RETURNING, so that a response shows `updated_at` without another statement.
    __mapper_args__ = {"eager_defaults": True}

    # The keys ascend, as those of version 7 do, and tests know them in advance.
    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("lpad(to_hex(nextval('probes_id_seq')), 32, '0')::uuid")
    )
    name: Mapped[str] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    serial: Mapped[str | None] = mapped_column(Text, unique=True)
    state: Mapped[State] = mapped_column(server_default=State.IDLE.name)
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2), server_default=text("0"))
    installed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    readings: Mapped[list["Reading"]] = relationship(
        back_populates="probe", cascade="all, delete-orphan", passive_deletes=True, order_by="Reading.id"
    )


class Reading(Base):
    __tablename__ = "probe_readings"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    probe_id: Mapped[UUID] = mapped_column(ForeignKey("probes.id", ondelete="CASCADE"), index=True)
    value: Mapped[Decimal] = mapped_column(Numeric(12, 3))
    probe: Mapped[Probe] = relationship(back_populates="readings")


event.listen(Probe.__table__, "before_create", DDL("CREATE SEQUENCE probes_id_seq"))  # type: ignore[no-untyped-call]
event.listen(
    Probe.__table__,
    "after_create",
    DDL("ALTER SEQUENCE probes_id_seq OWNED BY probes.id"),  # type: ignore[no-untyped-call]
)
