"""What was answered to requests with an idempotency key. Floor: control."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ipybox.control.db.rows import record_of, values_of
from ipybox.control.db.tables import idempotent_answers
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import NoCapacityError, RecordNotFoundError
from ipybox.control.records import IdempotentAnswer, Json

_ATTEMPTS = 10


class Answers:
    """Answers by owner and key. One whose ``status`` is None is being worked on."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def reserve(
        self, owner: str, key: str, route: str, request_hash: str, at: datetime
    ) -> IdempotentAnswer | None:
        """Begins with a request: of all that come with this key, one gets None and goes on, the others what is there.

        Raises:
            NoCapacityError: Others keep reserving and releasing it.
        """
        answer = IdempotentAnswer(
            owner=owner, key=key, route=route, request_hash=request_hash, status=None, body=None, created_at=at
        )
        dialect: Any = sqlite if self._transactions.dialect == "sqlite" else postgresql
        insert = dialect.insert(idempotent_answers).values(values_of(answer)).on_conflict_do_nothing()
        insert = insert.returning(idempotent_answers.c.key)
        earlier = select(idempotent_answers).where(_of(owner, key))

        def work(connection: Connection) -> IdempotentAnswer | None:
            for _ in range(_ATTEMPTS):
                if connection.execute(insert).one_or_none() is not None:
                    return None
                row = connection.execute(earlier).one_or_none()
                if row is not None:
                    return record_of(IdempotentAnswer, row)  # else it was released in between
            raise NoCapacityError(f"the idempotency key {key!r} is in use")

        return await self._transactions.write(work)

    async def complete(self, owner: str, key: str, status: int, body: Json) -> None:
        """Keeps the answer for those that come later; the first one counts.

        Raises:
            RecordNotFoundError: It was not reserved.
        """
        statement = (
            update(idempotent_answers)
            .where(_of(owner, key), idempotent_answers.c.status.is_(None))
            .values(status=status, body=body)
        )
        known = select(idempotent_answers.c.key).where(_of(owner, key))

        def work(connection: Connection) -> None:
            if not connection.execute(statement).rowcount and connection.execute(known).one_or_none() is None:
                raise RecordNotFoundError("idempotency key", key)

        await self._transactions.write(work)

    async def release(self, owner: str, key: str) -> None:
        """Forgets a reservation, as nothing was done; an answer stays."""
        await self._forget(and_(_of(owner, key), idempotent_answers.c.status.is_(None)))

    async def forget_before(self, when: datetime) -> int:
        """Forgets what was reserved before that moment, answered or not, and gives how many these were."""
        return await self._forget(idempotent_answers.c.created_at < when)

    async def forget_unfinished(self, when: datetime) -> int:
        """Forgets reservations before that moment which nobody works on, as the server has ended; gives how many."""
        return await self._forget(and_(idempotent_answers.c.created_at < when, idempotent_answers.c.status.is_(None)))

    async def _forget(self, condition: ColumnElement[bool]) -> int:
        statement = delete(idempotent_answers).where(condition)
        return await self._transactions.write(lambda connection: connection.execute(statement).rowcount)


def _of(owner: str, key: str) -> ColumnElement[bool]:
    return and_(idempotent_answers.c.owner == owner, idempotent_answers.c.key == key)
