"""SQLite: one thread that writes and a few that read. Floor: control.

A transaction is one step into a thread and back, rather than one per statement, and the event loop does none of it. One
connection writes, so that nobody in this process waits for a lock; other processes wait for each other.

A commit outlives this process, however that ends. If the machine loses power the last ones may be gone, each as a
whole: a commit does not wait for the disk, which can take many milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from ipybox.control.db.transactions import Work
from ipybox.control.errors import NoCapacityError, ServerSettingsError, StorageFullError
from ipybox.process.teardown import to_the_end

T = TypeVar("T")

_READERS = 4
_BUSY_SECONDS = 5.0
_UNUSABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}


class SqliteTransactions:
    """A file. Made with the first transaction; nobody but its owner may read it.

    Args:
        path: The file, in a directory that exists.
        timeout: Seconds to wait for another process that writes; five at most.

    Raises:
        ServerSettingsError: SQLite is too old.
    """

    def __init__(self, path: str, timeout: float) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise ServerSettingsError("database_url", f"needs SQLite 3.35, this Python has {sqlite3.sqlite_version}")
        self._path = path
        self._busy = min(timeout, _BUSY_SECONDS)
        self._writing = ThreadPoolExecutor(1, "ipybox-db-write")
        self._reading = ThreadPoolExecutor(_READERS, "ipybox-db-read")
        self._writer = _engine(path, 1, self._busy, "BEGIN IMMEDIATE")
        self._reader = _engine(path, _READERS, self._busy, "BEGIN", "query_only=ON")

    @property
    def dialect(self) -> str:
        return "sqlite"

    async def read(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, _run, self._reader, work)

    async def write(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, _run, self._writer, work)

    async def migrate(self, work: Work[bool]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writing, self._migrate, work)

    def _migrate(self, work: Work[bool]) -> None:
        with suppress(OSError):  # opening says it better
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        # A table that is copied and dropped would take with it what refers to it, and a transaction can't change that.
        engine = _engine(self._path, 1, self._busy, "BEGIN IMMEDIATE", "foreign_keys=OFF")

        def checked(connection: Connection) -> None:
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first() if work(connection) else None
            if broken is not None:
                raise ServerSettingsError("database_url", f"the migration left references to nothing in {broken[0]}")

        try:
            _run(engine, checked)
        except DBAPIError as error:
            if _code(error) in _UNUSABLE:
                raise ServerSettingsError("database_url", f"{self._path} can't be used: {error.orig}") from error
            raise
        finally:
            engine.dispose()

    async def close(self) -> None:
        await to_the_end(asyncio.to_thread(self._close))

    def _close(self) -> None:
        self._reading.shutdown()
        self._writing.shutdown()
        self._reader.dispose()
        self._writer.dispose()


def _engine(path: str, size: int, busy: float, begin: str, *pragmas: str) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=path),
        pool_size=size,
        max_overflow=0,
        connect_args={"isolation_level": None, "timeout": busy, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        _write_ahead(connection, busy)
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)  # the module's own BEGIN comes after the first SELECT, too late for it

    return engine


def _write_ahead(connection: sqlite3.Connection, busy: float) -> None:
    """Two that open a new file at once: for this step SQLite does not wait for the other one."""
    until = time.monotonic() + busy
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.005)


def _run(engine: Engine, work: Work[T]) -> T:
    try:
        with engine.begin() as connection:
            return work(connection)
    except DBAPIError as error:
        code = _code(error)
        if code == sqlite3.SQLITE_FULL:
            raise StorageFullError("no room is left for the database") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise NoCapacityError("the database is busy") from error
        if code == sqlite3.SQLITE_IOERR:
            raise NoCapacityError("the database does not answer") from error
        raise


def _code(error: DBAPIError) -> int:
    """The primary one; 0 if there is none."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF
