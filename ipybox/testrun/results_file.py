"""The SQLite file in which results are kept: opened with care, migrated, shared with other processes. Floor: testrun.

It is ours only if its application id says so; anything else is refused before a byte of it changes. Whoever can write
the file decides what it says, so it belongs where tests can't write.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from ipybox.errors import ResultsFileError, ResultsFileFormatError

APPLICATION_ID = 0x69_70_79_62  # "ipyb"
PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""

Migration = tuple[str, ...]

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            started_at TEXT NOT NULL,
            duration REAL NOT NULL,
            counts TEXT NOT NULL,
            flaky INTEGER NOT NULL,
            interrupted INTEGER NOT NULL,
            framework TEXT NOT NULL,
            isolation TEXT NOT NULL,
            workers INTEGER NOT NULL,
            python TEXT NOT NULL
        )""",
        # Ids are BLOBs, as they may have lone surrogates, which TEXT can't hold.
        """CREATE TABLE cases (
            id INTEGER PRIMARY KEY,
            name BLOB NOT NULL UNIQUE,
            file BLOB NOT NULL,
            outcome TEXT NOT NULL,
            run INTEGER NOT NULL,
            durations TEXT NOT NULL
        )""",
        """CREATE TABLE results (
            run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
            case_id INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            duration REAL NOT NULL,
            attempts INTEGER NOT NULL,
            flaky INTEGER NOT NULL,
            PRIMARY KEY (run, case_id)
        ) WITHOUT ROWID""",
        """CREATE TABLE changes (
            run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
            case_id INTEGER NOT NULL,
            is_fixed INTEGER NOT NULL,
            PRIMARY KEY (run, case_id)
        ) WITHOUT ROWID""",
    ),
    (
        "CREATE TABLE passed (key BLOB PRIMARY KEY, result TEXT NOT NULL, used_at REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX passed_by_use ON passed (used_at)",
        """CREATE TABLE contents (
            root BLOB NOT NULL,
            path BLOB NOT NULL,
            stat TEXT NOT NULL,
            digest BLOB NOT NULL,
            PRIMARY KEY (root, path)
        ) WITHOUT ROWID""",
    ),
)
"""What makes each version of the file from the one before it; the number of them is the version."""

_SMALLEST = 512
"""Bytes of the smallest database. SQLite takes a file with less for one that is empty, and overwrites it."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT}
_REASONS = {
    sqlite3.SQLITE_BUSY: "another process has been writing for too long",
    sqlite3.SQLITE_LOCKED: "another process has been writing for too long",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened; its directory must be writable",
    sqlite3.SQLITE_READONLY: "it can't be written",
    sqlite3.SQLITE_PERM: "it can't be written",
    sqlite3.SQLITE_FULL: "the disk is full",
}


class ResultsFile:
    """The file, open. Threads may share it; they take turns.

    Args:
        path: Where it is; it and its directory are made on :meth:`open`.
        migrations: What its versions consist of.
        patience: Seconds to wait for another process that is writing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        migrations: Sequence[Migration] = MIGRATIONS,
        patience: float = PATIENCE,
    ) -> None:
        self.path = Path(path)
        self._migrations = migrations
        self._patience = patience
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> Self:
        """Opens the file, and brings it to this version.

        Raises:
            ResultsFileError: It can't be read or written.
            ResultsFileFormatError: It is somebody else's, damaged, or of a later version. It is left as it is.
        """
        if self._connection is not None:
            raise ValueError(f"{self.path} is open already")
        self._make_room()
        with self._told():
            # Absolute, as some other names mean something else to SQLite.
            connection = sqlite3.connect(
                self.path.absolute(), timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute("PRAGMA foreign_keys = ON")
                self._connection = connection
                with self.reading() as reader:
                    version = self._version(reader)
                if version < len(self._migrations):
                    with self.writing() as writer:
                        self._migrate(writer)
                self._prefer_wal(connection)
            except BaseException:
                self._connection = None
                connection.close()
                raise
        return self

    def close(self) -> None:
        """Closes the file; once more is fine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._told():
                connection.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction in which everything is read as of one moment."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, all of which happens or nothing; other writers wait for its end."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            raise ValueError(f"{self.path} is not open")
        with self._turn, self._told():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def _make_room(self) -> None:
        """Makes the directory. The file itself is SQLite's alone: to open and close it would undo the locks that other
        connections of this process have on it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"its directory can't be made: {error.strerror or error}"
            raise ResultsFileError(str(self.path), reason) from error
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResultsFileError(str(self.path), f"it can't be read: {error.strerror or error}") from error
        if not stat.S_ISREG(there.st_mode):
            raise ResultsFileError(str(self.path), "it is no regular file")
        if 0 < there.st_size < _SMALLEST:
            raise ResultsFileFormatError(str(self.path), "it was not made by ipybox")

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of a file that is ours, 0 for one that is new; to be called within a transaction."""
        ((application,),) = connection.execute("PRAGMA application_id")
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        if application != APPLICATION_ID and (application, version, tables) != (0, 0, 0):
            raise ResultsFileFormatError(str(self.path), "it was not made by ipybox")
        if version > len(self._migrations):
            raise ResultsFileFormatError(
                str(self.path), f"its version is {version} and this ipybox knows {len(self._migrations)} at most"
            )
        return int(version)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)  # again, as another process may have been faster
        if version == len(self._migrations):
            return
        for migration in self._migrations[version:]:
            for statement in migration:
                connection.execute(statement)
        # A PRAGMA takes no parameters; both are numbers of ours.
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        connection.execute(f"PRAGMA user_version = {len(self._migrations):d}")

    def _prefer_wal(self, connection: sqlite3.Connection) -> None:
        """Lets readers and a writer work at the same time, where the file system can do that.

        While others use the file it may not be possible; it works without, and whoever opens it next tries again.
        """
        try:
            ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return
        if mode == "wal":  # which loses nothing but the latest runs in a power cut
            connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # what was read is no JSON, no UTF-8, or no outcome
            raise ResultsFileFormatError(str(self.path), f"it is damaged: {error}") from error
        except (sqlite3.Error, sqlite3.Warning) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code == sqlite3.SQLITE_NOTADB:
                raise ResultsFileFormatError(str(self.path), "it was not made by ipybox, or is damaged") from error
            if code in _DAMAGE:
                raise ResultsFileFormatError(str(self.path), f"it is damaged: {error}") from error
            raise ResultsFileError(str(self.path), _REASONS.get(code, str(error))) from error
