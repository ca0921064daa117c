"""What all queries need from a database, whichever it is. Floor: control.

A transaction is a plain function of a connection. On SQLite it runs in a thread, on PostgreSQL in the event loop, with
``await`` at the places where it waits; so it must not block in other ways, and it may be cancelled at no place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, func, select

T = TypeVar("T")
Work = Callable[[Connection], T]


class Transactions(Protocol):
    """A database that can be asked."""

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Runs queries that all see one state of the database.

        Raises:
            NoCapacityError: The database does not answer.
        """
        ...

    async def write(self, work: Work[T]) -> T:
        """Runs queries and commits; when this returns, no end of this process undoes it.

        Raises:
            NoCapacityError: The database does not answer; nothing was done, unless the answer to the commit was lost.
            StorageFullError: No room is left.
        """
        ...

    async def migrate(self, work: Work[bool]) -> None:
        """As :meth:`write`, and with tables that may refer for a while to what is not there.

        Args:
            work: Says whether it has changed tables.

        Raises:
            ServerSettingsError: The database can't be used.
        """
        ...

    async def close(self) -> None:
        """Waits for what runs, and closes all connections."""
        ...


def lock(connection: Connection, *parts: str) -> None:
    """Waits until no other transaction holds the lock of this name, and holds it until the end of this one.

    For what is decided by counting. On SQLite all writing transactions exclude each other anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_number(parts))))


def _number(parts: tuple[Any, ...]) -> int:
    digest = hashlib.blake2b(repr(("ipybox", *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
