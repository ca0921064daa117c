"""Records to rows and back, and lists in pages. Floor: control."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, Table, case, func, select, tuple_, type_coerce

from ipybox.control.db.cursors import cursor as cursor_of
from ipybox.control.db.cursors import position
from ipybox.control.records import Page

T = TypeVar("T")
LISTED = 100_000
"""Characters of the largest value that is read for a list: all of them in memory could be more than there is."""
_MOST = 2**31 - 2  # PostgreSQL takes no larger ones here
_NAMED_AT_ONCE = 500  # SQLite takes some thousands


def values_of(record: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The columns of a record."""
    return {each.name: getattr(record, each.name) for each in fields(record) if each.name not in without}


def record_of(kind: type[T], row: Row[Any]) -> T:
    """The record of a row that has its columns and no others."""
    return kind(**row._mapping)


def checked_fields(kind: type[Any], changes: dict[str, Any], *, fixed: Collection[str]) -> None:
    """Raises :class:`TypeError` for fields that a record does not have, or that never change."""
    known = {each.name for each in fields(kind)} - set(fixed)
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise TypeError(f"{kind.__name__} has no {', '.join(unknown)} that can be changed")


def bounded(number: int) -> int:
    """A limit, an offset or a number of an event, of which requests may ask for any."""
    return max(0, min(number, _MOST))


def in_parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many values at a time as one statement may name."""
    for begin in range(0, len(values), _NAMED_AT_ONCE):
        yield values[begin : begin + _NAMED_AT_ONCE]


def short(column: Column[Any]) -> ColumnElement[Any]:
    """What a column has, and nothing if that is long."""
    return type_coerce(case((func.length(column) <= LISTED, column)), column.type).label(column.name)


def newest_first(
    connection: Connection,
    table: Table,
    kind: type[T],
    conditions: Collection[ColumnElement[bool]],
    *,
    limit: int,
    offset: int = 0,
    cursor: str | None = None,
    columns: Select[Any] | None = None,
) -> Page[T]:
    """A page of a table with ``created_at`` and ``id``; stable, as no two rows are equal in both.

    Args:
        columns: What to select, if not just the columns of the table.

    Raises:
        RequestRefusedError: It is no cursor.
    """
    order = (table.c.created_at, table.c.id)
    rows = (select(table) if columns is None else columns).where(*conditions)
    if cursor is not None:
        at, id = position(cursor)
        rows = rows.where(tuple_(*order) < tuple_(at, id, types=[each.type for each in order]))
    else:
        rows = rows.offset(bounded(offset))
    rows = rows.order_by(*(each.desc() for each in order)).limit(bounded(limit) + 1)
    total = connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    found = connection.execute(rows).all()
    shown = found[:limit]
    more = shown and len(found) > limit
    return Page(
        tuple(record_of(kind, row) for row in shown),
        total,
        cursor_of(shown[-1].created_at, shown[-1].id) if more else None,
    )
