"""Executions. Floor: control."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ipybox.control.db.events import insert_events
from ipybox.control.db.rows import newest_first, record_of, short, values_of
from ipybox.control.db.tables import execution_events, executions, sessions
from ipybox.control.db.transactions import Transactions, lock
from ipybox.control.errors import ConflictError, QuotaExceededError, RecordNotFoundError
from ipybox.control.records import Artifact, Execution, ExecutionEvent, Json, Metrics, Page
from ipybox.control.states import EXECUTION_STEPS, ExecutionStatus, Reason, SessionStatus

UNFINISHED = tuple(status for status in ExecutionStatus if not status.is_final)
_TAKING = (SessionStatus.RUNNING, SessionStatus.CREATING)
_LARGE = ("event", "return_value")

_said = (
    select(func.count())
    .select_from(execution_events)
    .where(execution_events.c.execution_id == executions.c.id)
    .scalar_subquery()
)
_current: Select[Any] = select(
    *(each for each in executions.c if each.name != "events"),
    case((executions.c.status.in_(UNFINISHED), _said), else_=executions.c.events).label("events"),
)
"""Of one that has not finished the events are counted, as they come without its row being written."""


_listed = _current.with_only_columns(
    *(short(executions.c[each.name]) if each.name in _LARGE else each for each in _current.selected_columns)
)


class Executions:
    """Runs of code."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def add(self, execution: Execution, *, per_session: int | None = None, per_owner: int | None = None) -> None:
        """Adds one if its session takes it.

        Args:
            execution: The execution.
            per_session: How many of its session may be unfinished, with it; None for no limit.
            per_owner: How many of its owner may be.

        Raises:
            RecordNotFoundError: There is no such session, or it is somebody else's.
            ConflictError: The session is over, or the id is taken.
            QuotaExceededError: There are as many already.
        """
        # The session's row is held, so that it does not end, nor take another execution, meanwhile.
        of_session = executions.c.session_id == execution.session_id
        session = select(sessions.c.status, sessions.c.owner).where(sessions.c.id == execution.session_id)

        def work(connection: Connection) -> None:
            found = connection.execute(session.with_for_update(key_share=True)).one_or_none()
            if found is None or found.owner != execution.owner:
                raise RecordNotFoundError("session", execution.session_id)
            if found.status not in _TAKING:
                raise ConflictError(f"the session is {found.status}, and runs nothing any more")
            if per_session is not None and _count(connection, of_session) >= per_session:
                raise QuotaExceededError("executions in the session", per_session)
            if per_owner is not None:
                lock(connection, "executions", execution.owner)
                if _count(connection, executions.c.owner == execution.owner) >= per_owner:
                    raise QuotaExceededError("executions", per_owner)
            connection.execute(insert(executions), values_of(execution))

        try:
            await self._transactions.write(work)
        except IntegrityError as error:
            raise ConflictError(f"there is an execution {execution.id!r} already") from error

    async def get(self, id: str, *, owner: str | None = None) -> Execution:
        """Gives one, of this owner or, without one, of anybody.

        Raises:
            RecordNotFoundError: There is none, or it is somebody else's.
        """
        row = await self._transactions.read(
            lambda connection: connection.execute(_current.where(executions.c.id == id)).one_or_none()
        )
        if row is None or owner not in (None, row.owner):
            raise RecordNotFoundError("execution", id)
        return record_of(Execution, row)

    async def list(self, session_id: str, *, limit: int, offset: int = 0, cursor: str | None = None) -> Page[Execution]:
        """Gives a part of a session's, newest first; ``offset`` counts only without a cursor.

        Events and return values of more than :data:`~ipybox.control.db.rows.LISTED` characters are left out.

        Raises:
            RequestRefusedError: It is no cursor.
        """
        conditions = [executions.c.session_id == session_id]
        return await self._transactions.read(
            lambda connection: newest_first(
                connection,
                executions,
                Execution,
                conditions,
                limit=limit,
                offset=offset,
                cursor=cursor,
                columns=_listed,
            )
        )

    async def start(self, id: str, at: datetime) -> Execution | None:
        """Takes one that waits: exactly one caller gets it, the others None.

        Raises:
            RecordNotFoundError: There is none.
        """
        statement = (
            update(executions)
            .where(executions.c.id == id, executions.c.status == ExecutionStatus.PENDING)
            .values(status=ExecutionStatus.RUNNING, started_at=at)
            .returning(executions)
        )

        def work(connection: Connection) -> Execution | None:
            row = connection.execute(statement).one_or_none()
            if row is None:
                _status(connection, id)
                return None
            return record_of(Execution, row)

        return await self._transactions.write(work)

    async def finish(
        self,
        id: str,
        *,
        completed_at: datetime,
        status: ExecutionStatus,
        expect: Collection[ExecutionStatus] = UNFINISHED,
        reason: Reason | None = None,
        exit_code: int | None = None,
        error_name: str | None = None,
        error_message: str | None = None,
        execution_time: float | None = None,
        return_value: Json = None,
        has_return_value: bool = False,
        metrics: Metrics | None = None,
        artifacts: Sequence[Artifact] = (),
        truncated: bool = False,
        last_events: Sequence[ExecutionEvent] = (),
    ) -> Execution | None:
        """Ends one, with the last that it said, in one step. Its environment is forgotten: it may hold secrets.

        Args:
            id: Which one.
            expect: States that it must be in.
            last_events: Those that were not appended yet.
            completed_at, status, reason, exit_code, error_name, error_message, execution_time, return_value,
                has_return_value, metrics, artifacts, truncated: As in :class:`Execution`.

        Returns:
            What it is now; None if it was in another state.

        Raises:
            RecordNotFoundError: There is none.
            ConflictError: It can't go from the state that it is in to the new one, or an event has a number twice.
        """
        possible = [each for each in expect if status in EXECUTION_STEPS[each]]
        guarded = (
            update(executions)
            .where(executions.c.id == id, executions.c.status.in_(possible))
            .values(
                completed_at=completed_at,
                status=status,
                reason=reason,
                exit_code=exit_code,
                error_name=error_name,
                error_message=error_message,
                execution_time=execution_time,
                return_value=return_value,
                has_return_value=has_return_value,
                metrics=metrics,
                artifacts=tuple(artifacts),
                truncated=truncated,
                env_vars={},
            )
            .returning(executions.c.id)
        )
        counted = update(executions).where(executions.c.id == id).values(events=_said).returning(executions)

        def work(connection: Connection) -> Execution | None:
            if connection.execute(guarded).one_or_none() is None:
                found = _status(connection, id)
                if found in expect and status not in EXECUTION_STEPS[found]:
                    raise ConflictError(f"the execution is {found}, and can't become {status}")
                return None
            insert_events(connection, id, last_events)
            return record_of(Execution, connection.execute(counted).one())  # a later look: it waited for an append

        return await self._transactions.write(work)

    async def unfinished(self, session_id: str | None = None) -> tuple[Execution, ...]:
        """Gives those that wait or run, of one session or of all, oldest first."""
        statement = _current.where(executions.c.status.in_(UNFINISHED))
        if session_id is not None:
            statement = statement.where(executions.c.session_id == session_id)
        statement = statement.order_by(executions.c.created_at, executions.c.id)
        rows = await self._transactions.read(lambda connection: connection.execute(statement).all())
        return tuple(record_of(Execution, row) for row in rows)

    async def count_unfinished(self, owner: str | None = None) -> int:
        """Counts those that wait or run."""
        conditions = () if owner is None else (executions.c.owner == owner,)
        return await self._transactions.read(lambda connection: _count(connection, *conditions))


def _count(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    statement = select(func.count()).select_from(executions).where(executions.c.status.in_(UNFINISHED), *conditions)
    return int(connection.execute(statement).scalar_one())


def _status(connection: Connection, id: str) -> ExecutionStatus:
    found: Any = connection.execute(select(executions.c.status).where(executions.c.id == id)).scalar_one_or_none()
    if found is None:
        raise RecordNotFoundError("execution", id)
    return ExecutionStatus(found)
