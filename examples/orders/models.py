from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from handler.database.base import Base

NUMBER_LENGTH = 40
PRODUCT_LENGTH = 200
MAX_LINES = 100
MAX_QUANTITY = 1000
# Digits and decimal places. A total of MAX_LINES * MAX_QUANTITY of the highest price has 11 digits before the point.
PRICE = (8, 2)
TOTAL = (13, 2)


class OrderStatus(StrEnum):
    DRAFT = "draft"
    PLACED = "placed"
    SHIPPED = "shipped"
    CANCELLED = "cancelled"


NEXT_STATUSES = {
    OrderStatus.DRAFT: {OrderStatus.PLACED, OrderStatus.CANCELLED},
    OrderStatus.PLACED: {OrderStatus.SHIPPED, OrderStatus.CANCELLED},
    OrderStatus.SHIPPED: set(),
    OrderStatus.CANCELLED: set(),
}


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("total >= 0", name="total_not_negative"),
        CheckConstraint("version >= 1", name="version_positive"),
        Index("ix_orders_created_at_id", "created_at", "id"),  # the list, and its cursors
        Index("ix_orders_status_created_at_id", "status", "created_at", "id"),  # the list of one status
        Index("ix_orders_total_id", "total", "id"),  # the list by total
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    number: Mapped[str] = mapped_column(Text, unique=True)
    status: Mapped[OrderStatus] = mapped_column(
        # PostgreSQL has the values, and not Python's names of them.
        Enum(OrderStatus, name="order_status", values_callable=lambda statuses: [one.value for one in statuses]),
        server_default=OrderStatus.DRAFT,
    )
    deliver_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    total: Mapped[Decimal] = mapped_column(Numeric(*TOTAL))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    lines: Mapped[list["OrderLine"]] = relationship(
        back_populates="order", cascade="all, delete-orphan", order_by="OrderLine.id", lazy="raise"
    )

    __mapper_args__ = {
        "version_id_col": version,  # UPDATE ... WHERE version = the one that was read
        "eager_defaults": True,  # UPDATE ... RETURNING updated_at
    }


class OrderLine(Base):
    __tablename__ = "order_lines"
    __table_args__ = (
        CheckConstraint("quantity >= 1", name="quantity_positive"),
        CheckConstraint("unit_price >= 0", name="unit_price_not_negative"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), index=True)
    product: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int]
    unit_price: Mapped[Decimal] = mapped_column(Numeric(*PRICE))
    order: Mapped[Order] = relationship(back_populates="lines", lazy="raise")
