"""Keys of clients. Floor: control."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ipybox.control.db.rows import checked_fields, record_of, values_of
from ipybox.control.db.tables import api_keys
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import ConflictError, RecordNotFoundError
from ipybox.control.records import ApiKey

_USE_PERIOD = timedelta(minutes=1)
_FIXED = ("id", "owner", "created_at")


class Keys:
    """Keys, without their secrets. Those that were revoked stay."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._used: dict[str, datetime] = {}

    async def add(self, key: ApiKey) -> None:
        """Adds one.

        Raises:
            ConflictError: Its id is taken.
        """
        try:
            await self._transactions.write(lambda connection: _insert(connection, key))
        except IntegrityError as error:
            raise ConflictError(f"there is a key {key.id!r} already") from error

    async def get(self, id: str) -> ApiKey:
        """Gives one.

        Raises:
            RecordNotFoundError: There is none.
        """
        row = await self._transactions.read(
            lambda connection: connection.execute(select(api_keys).where(api_keys.c.id == id)).one_or_none()
        )
        if row is None:
            raise RecordNotFoundError("key", id)
        return record_of(ApiKey, row)

    async def list(self, owner: str | None = None) -> tuple[ApiKey, ...]:
        """Gives all, of one owner or of everybody, oldest first."""
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if owner is not None:
            statement = statement.where(api_keys.c.owner == owner)
        rows = await self._transactions.read(lambda connection: connection.execute(statement).all())
        return tuple(record_of(ApiKey, row) for row in rows)

    async def change(self, id: str, **fields: Any) -> ApiKey:
        """Changes fields of one, and gives what it is now.

        Raises:
            RecordNotFoundError: There is none.
        """
        checked_fields(ApiKey, fields, fixed=_FIXED)
        if not fields:
            return await self.get(id)
        statement = update(api_keys).where(api_keys.c.id == id).values(fields).returning(api_keys)
        row = await self._transactions.write(lambda connection: connection.execute(statement).one_or_none())
        if row is None:
            raise RecordNotFoundError("key", id)
        return record_of(ApiKey, row)

    async def rotate(self, id: str, new: ApiKey, at: datetime) -> None:
        """Revokes one and adds another in its place, in one step.

        Raises:
            RecordNotFoundError: There is none.
            ConflictError: It was revoked before, or the id of the new one is taken.
        """
        revoke = (
            update(api_keys)
            .where(api_keys.c.id == id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=at)
            .returning(api_keys.c.id)
        )

        def work(connection: Connection) -> None:
            if connection.execute(revoke).one_or_none() is None:
                if connection.execute(select(api_keys.c.id).where(api_keys.c.id == id)).one_or_none() is None:
                    raise RecordNotFoundError("key", id)
                raise ConflictError("the key was revoked; make a new one")
            _insert(connection, new)

        try:
            await self._transactions.write(work)
        except IntegrityError as error:
            raise ConflictError(f"there is a key {new.id!r} already") from error

    async def used(self, id: str, at: datetime) -> None:
        """Notes that it was used, at most once a minute; to be called with each request."""
        last = self._used.get(id)
        if last is not None and at - last < _USE_PERIOD:
            return
        self._used[id] = at
        statement = (
            update(api_keys)
            .where(
                api_keys.c.id == id,
                or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= at - _USE_PERIOD),
            )
            .values(last_used_at=at)
        )
        try:
            await self._transactions.write(lambda connection: connection.execute(statement))
        except BaseException:
            self._used.pop(id, None)
            raise


def _insert(connection: Connection, key: ApiKey) -> None:
    connection.execute(insert(api_keys), values_of(key))
