"""PostgreSQL, by asyncpg. Floor: control."""

from __future__ import annotations

from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ipybox.control.db.transactions import Work
from ipybox.control.errors import ControlError, NoCapacityError, ServerSettingsError, StorageFullError
from ipybox.process.teardown import to_the_end

T = TypeVar("T")

_CONNECTIONS = 10
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 1800
_DISK_FULL = "53100"
_REFUSED = ("28", "3D", "42501")
"""SQLSTATEs of a user or a database that is not there or not allowed."""
_AWAY = ("08", "53", "57P")
"""SQLSTATEs of a server that is gone, going, coming, or full."""


class PostgresqlTransactions:
    """A server.

    Args:
        dsn: As libpq takes it; asyncpg reads it, so that nothing of it is lost in between.
        timeout: Seconds for a statement.
    """

    def __init__(self, dsn: str, timeout: float) -> None:
        async def connect(*args: Any, **options: Any) -> Any:
            return await asyncpg.connect(dsn, timeout=min(timeout, _CONNECT_SECONDS), command_timeout=timeout)

        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=timeout,
            pool_pre_ping=True,  # after a restart of the server
            pool_recycle=_IDLE_SECONDS,
        )
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def dialect(self) -> str:
        return "postgresql"

    async def read(self, work: Work[T]) -> T:
        return await to_the_end(_run(self._reading, work))

    async def write(self, work: Work[T]) -> T:
        return await to_the_end(_run(self._engine, work))  # also of who is cancelled: no half-done protocol, no doubt

    async def migrate(self, work: Work[bool]) -> None:
        try:
            await self.write(work)
        except (DBAPIError, asyncpg.PostgresError) as error:
            if _sqlstate(error).startswith(_REFUSED):
                raise ServerSettingsError("database_url", f"the database refuses: {_said(error)}") from None
            raise
        except ValueError as error:
            raise ServerSettingsError("database_url", f"can't be used: {error}") from None

    async def close(self) -> None:
        await to_the_end(self._engine.dispose())


async def _run(engine: AsyncEngine, work: Work[T]) -> T:
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, PoolTimeoutError) as error:
        failure = _failure(error)
        if failure is None:
            raise
        raise failure from error


def _failure(error: Exception) -> ControlError | None:
    """What it means, if it is the server's fault and not that of the statement."""
    state = _sqlstate(error)
    if state == _DISK_FULL:
        return StorageFullError("no room is left for the database")
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, OSError | PoolTimeoutError) or state.startswith(_AWAY):
        return NoCapacityError("the database does not answer")
    return None


def _sqlstate(error: Exception) -> str:
    source = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(source, "sqlstate", None) or "")


def _said(error: Exception) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error).splitlines()[0]
