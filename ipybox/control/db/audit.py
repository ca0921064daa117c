"""The audit trail: who did what. Floor: control."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from ipybox.control.db.cursors import cursor as cursor_of
from ipybox.control.db.cursors import position
from ipybox.control.db.rows import bounded, record_of, values_of
from ipybox.control.db.tables import audit_entries
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import RequestRefusedError
from ipybox.control.records import AuditEntry, Page

_FORGOTTEN_AT_ONCE = 5000
"""Others wait to write meanwhile."""


class Audit:
    """Entries, which are added, and forgotten when they are old; never changed."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Adds entries, all or none; their ids are given here."""
        if not entries:
            return
        rows = [values_of(entry, without=("id",)) for entry in entries]

        def work(connection: Connection) -> None:
            connection.execute(insert(audit_entries), rows)

        await self._transactions.write(work)

    async def forget_before(self, when: datetime) -> int:
        """Forgets entries from before that moment, the oldest first, and gives how many; not all of them at once."""
        oldest = select(audit_entries.c.id).where(audit_entries.c.at < when).order_by(audit_entries.c.at)
        statement = delete(audit_entries).where(audit_entries.c.id.in_(oldest.limit(_FORGOTTEN_AT_ONCE)))
        return await self._transactions.write(lambda connection: connection.execute(statement).rowcount)

    async def list(
        self,
        *,
        owner: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: datetime | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        """Gives a part of those that match all that is given, newest first.

        Raises:
            RequestRefusedError: It is no cursor.
        """
        wanted = {"owner": owner, "actor": actor, "action": action, "target": target}
        conditions: list[ColumnElement[bool]] = [
            audit_entries.c[name] == value for name, value in wanted.items() if value is not None
        ]
        if since is not None:
            conditions.append(audit_entries.c.at >= since)
        count = select(func.count()).select_from(audit_entries).where(*conditions)
        rows = select(audit_entries).where(*conditions).order_by(audit_entries.c.id.desc()).limit(bounded(limit) + 1)
        if cursor is not None:
            rows = rows.where(audit_entries.c.id < _number(cursor))

        def work(connection: Connection) -> Page[AuditEntry]:
            total = connection.execute(count).scalar_one()
            found = tuple(record_of(AuditEntry, row) for row in connection.execute(rows))
            shown = found[:limit]
            more = shown and len(found) > limit
            return Page(shown, total, cursor_of(shown[-1].at, str(shown[-1].id)) if more else None)

        return await self._transactions.read(work)


def _number(cursor: str) -> int:
    _, id = position(cursor)
    if not id.isascii() or not id.isdecimal() or len(id) > 18:
        raise RequestRefusedError("is no cursor of this list; use the next_cursor of the page before", "cursor")
    return int(id)
