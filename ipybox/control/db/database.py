"""The database: opened, migrated, and asked through one attribute per kind of record. Floor: control."""

from __future__ import annotations

import time

from sqlalchemy import literal, select

from ipybox.control.db.answers import Answers
from ipybox.control.db.audit import Audit
from ipybox.control.db.events import Events
from ipybox.control.db.executions import Executions
from ipybox.control.db.keys import Keys
from ipybox.control.db.migration import upgrade
from ipybox.control.db.sessions import Sessions
from ipybox.control.db.sqlite import SqliteTransactions
from ipybox.control.db.templates import Templates
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import ServerSettingsError

_SQLITE = ("sqlite:///", "sqlite+aiosqlite:///")
_POSTGRESQL = ("postgresql://", "postgres://", "postgresql+asyncpg://")


class Database:
    """What the control plane remembers. A context manager: entering it brings the tables to their newest form.

    Args:
        url: ``sqlite:///PATH``, with a path that is absolute (four slashes) or not, or ``postgresql://...`` as libpq
            takes it, ``sslmode`` and a socket as ``host`` included.
        timeout: Seconds after which a statement is given up, or a lock of another process, or a server that does not
            answer; the last two are given up earlier if it is long.

    Raises:
        ServerSettingsError: It is no such URL, or the database can't be used, or a later version has written it.
        NoCapacityError: The database does not answer.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self._transactions = transactions_of(url, timeout)
        self.templates = Templates(self._transactions)
        self.sessions = Sessions(self._transactions)
        self.executions = Executions(self._transactions)
        self.events = Events(self._transactions)
        self.keys = Keys(self._transactions)
        self.audit = Audit(self._transactions)
        self.answers = Answers(self._transactions)

    async def __aenter__(self) -> Database:
        try:
            await self._transactions.migrate(upgrade)
        except BaseException:
            await self._transactions.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transactions.close()

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._transactions.dialect

    async def check(self) -> float:
        """Asks it for next to nothing, and gives the seconds that it took.

        Raises:
            NoCapacityError: The database does not answer.
        """
        began = time.perf_counter()
        await self._transactions.read(lambda connection: connection.execute(select(literal(1))).scalar_one())
        return time.perf_counter() - began


def transactions_of(url: str, timeout: float = 30.0) -> Transactions:
    """What :class:`Database` is made of, for who looks at tables; not open yet.

    Raises:
        ServerSettingsError: It is no such URL.
    """
    for prefix in _SQLITE:
        if url.startswith(prefix):
            path = url.removeprefix(prefix)
            if path in ("", ":memory:"):
                raise ServerSettingsError("database_url", "a database in memory forgets everything; name a file")
            return SqliteTransactions(path, timeout)
    for prefix in _POSTGRESQL:
        if url.startswith(prefix):
            from ipybox.control.db.postgresql import PostgresqlTransactions  # few use it

            return PostgresqlTransactions(f"postgresql://{url.removeprefix(prefix)}", timeout)
    raise ServerSettingsError("database_url", "must begin with postgresql:// or sqlite:///")
