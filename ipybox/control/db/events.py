"""What executions say. Floor: control."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from ipybox.control.db.rows import bounded, in_parts, record_of, values_of
from ipybox.control.db.tables import execution_events, executions
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import ConflictError, RecordNotFoundError
from ipybox.control.json_text import plain
from ipybox.control.records import ExecutionEvent

_STREAMS = ("stdout", "stderr")


class Events:
    """Events of executions, in the order of their numbers."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def append(self, execution_id: str, events: Sequence[ExecutionEvent]) -> None:
        """Adds events of one execution, all or none.

        Raises:
            RecordNotFoundError: There is no such execution.
            ConflictError: It has finished, or one of the numbers is there already.
        """
        if not events:
            return
        # Held, so that it does not finish meanwhile: nothing follows the end.
        status = select(executions.c.status).where(executions.c.id == execution_id).with_for_update(read=True)

        def work(connection: Connection) -> None:
            found = connection.execute(status).scalar_one_or_none()
            if found is None:
                raise RecordNotFoundError("execution", execution_id)
            if found.is_final:
                raise ConflictError(f"the execution is {found}, and says nothing any more")
            insert_events(connection, execution_id, events)

        await self._transactions.write(work)

    async def after(self, execution_id: str, seq: int, limit: int = 1000) -> tuple[ExecutionEvent, ...]:
        """Gives those that follow a number, at most so many."""
        statement = (
            select(execution_events)
            .where(execution_events.c.execution_id == execution_id, execution_events.c.seq > bounded(seq))
            .order_by(execution_events.c.seq)
            .limit(bounded(limit))
        )
        rows = await self._transactions.read(lambda connection: connection.execute(statement).all())
        return tuple(record_of(ExecutionEvent, row) for row in rows)

    async def output(self, execution_ids: Collection[str]) -> Mapping[str, tuple[str, str]]:
        """Gives stdout and stderr of each, as far as they are there; empty for one that has said nothing."""
        parts: dict[str, tuple[list[str], list[str]]] = {id: ([], []) for id in execution_ids}

        def work(connection: Connection) -> None:
            for ids in in_parts(list(parts)):
                statement = (
                    select(execution_events.c.execution_id, execution_events.c.kind, execution_events.c.data)
                    .where(execution_events.c.execution_id.in_(ids), execution_events.c.kind.in_(_STREAMS))
                    .order_by(execution_events.c.execution_id, execution_events.c.seq)
                )
                for id, kind, data in connection.execute(statement):
                    parts[id][_STREAMS.index(kind)].append(plain(data)["text"])

        await self._transactions.read(work)
        return {id: ("".join(stdout), "".join(stderr)) for id, (stdout, stderr) in parts.items()}


def insert_events(connection: Connection, execution_id: str, events: Sequence[ExecutionEvent]) -> None:
    """Part of a transaction.

    Raises:
        ConflictError: One of the numbers is there already.
        ValueError: One of them is of another execution.
    """
    if any(event.execution_id != execution_id for event in events):
        raise ValueError(f"events of another execution than {execution_id!r}")
    if events:
        try:
            connection.execute(insert(execution_events), [values_of(event) for event in events])
        except IntegrityError as error:
            raise ConflictError(f"the execution {execution_id!r} has an event of that number already") from error
