"""Sessions. Floor: control."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ipybox.control.db.rows import checked_fields, in_parts, newest_first, record_of, short, values_of
from ipybox.control.db.tables import session_tags, sessions
from ipybox.control.db.transactions import Transactions, lock
from ipybox.control.errors import ConflictError, NoCapacityError, QuotaExceededError, RecordNotFoundError
from ipybox.control.records import Page, Session
from ipybox.control.states import SESSION_STEPS, InstallStatus, SessionMode, SessionStatus

ALIVE = tuple(status for status in SessionStatus if not status.is_final)
FINAL = tuple(status for status in SessionStatus if status.is_final)
_FIXED = ("id", "owner", "created_at")
_listed = select(*(short(each) if each.name == "event" else each for each in sessions.c))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions; None is any.

    Attributes:
        tags: All of them, with these values.
        created_after, created_before: Excluding that moment itself.
    """

    owner: str | None = None
    statuses: Collection[SessionStatus] | None = None
    template_id: str | None = None
    mode: SessionMode | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None


class Sessions:
    """Sandboxes that somebody works in, or has worked in."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def add(self, session: Session, *, per_owner: int | None = None, in_all: int | None = None) -> None:
        """Adds one if there is room for it.

        Args:
            session: The session.
            per_owner: How many its owner may have alive at once, with it; None for no limit.
            in_all: How many may be alive at once.

        Raises:
            QuotaExceededError: Its owner has as many already.
            NoCapacityError: There are as many already.
            ConflictError: Its id is taken.
        """

        def work(connection: Connection) -> None:
            if in_all is not None:
                lock(connection, "sessions")
                if _count(connection) >= in_all:
                    raise NoCapacityError(f"{in_all} sessions are alive, which is all that this server takes")
            if per_owner is not None:
                lock(connection, "sessions", session.owner)
                if _count(connection, session.owner) >= per_owner:
                    raise QuotaExceededError("sessions", per_owner)
            connection.execute(insert(sessions), values_of(session))
            _tag(connection, session.id, session.tags)

        try:
            await self._transactions.write(work)
        except IntegrityError as error:
            raise ConflictError(f"there is a session {session.id!r} already") from error

    async def get(self, id: str, *, owner: str | None = None) -> Session:
        """Gives one, of this owner or, without one, of anybody.

        Raises:
            RecordNotFoundError: There is none, or it is somebody else's.
        """
        found = await self._transactions.read(lambda connection: _find(connection, id))
        if found is None or owner not in (None, found.owner):
            raise RecordNotFoundError("session", id)
        return found

    async def known(self, ids: Collection[str]) -> frozenset[str]:
        """Gives those of these ids that are of a session, whatever became of it."""
        wanted = list(ids)

        def work(connection: Connection) -> frozenset[str]:
            found: set[str] = set()
            for some in in_parts(wanted):
                found.update(connection.execute(select(sessions.c.id).where(sessions.c.id.in_(some))).scalars())
            return frozenset(found)

        return await self._transactions.read(work)

    async def list(
        self, filter: SessionFilter | None = None, *, limit: int, offset: int = 0, cursor: str | None = None
    ) -> Page[Session]:
        """Gives a part of those that there are, newest first; ``offset`` counts only without a cursor.

        Events of more than :data:`~ipybox.control.db.rows.LISTED` characters are left out.

        Raises:
            RequestRefusedError: It is no cursor.
        """
        conditions = list(_conditions(filter or SessionFilter()))
        return await self._transactions.read(
            lambda connection: newest_first(
                connection, sessions, Session, conditions, limit=limit, offset=offset, cursor=cursor, columns=_listed
            )
        )

    async def change(
        self,
        id: str,
        *,
        expect: Collection[SessionStatus] | None = None,
        expect_install: Collection[InstallStatus] | None = None,
        unused_at: datetime | None = None,
        **fields: Any,
    ) -> Session | None:
        """Changes fields of one, if it is what one thinks that it is, in one step.

        ``updated_at`` is set, and ``completed_at`` when it ends, unless given.

        Args:
            id: Which one.
            expect: States that it must be in; None for any.
            expect_install: States that its dependencies must be in.
            unused_at: A moment at which it must have expired, so that it does not end under who has just used it.
            fields: New values.

        Returns:
            What it is now; None if it was not what was expected.

        Raises:
            RecordNotFoundError: There is none.
            ConflictError: It can't go from the state that it is in to the new one.
        """
        checked_fields(Session, fields, fixed=_FIXED)
        now = datetime.now(UTC)
        values = {"updated_at": now, **fields}
        to = SessionStatus(values["status"]) if "status" in values else None
        if to is not None and to.is_final:
            values.setdefault("completed_at", now)
        wanted = frozenset(SessionStatus if expect is None else expect)
        possible = wanted if to is None else frozenset(each for each in wanted if to in SESSION_STEPS[each])
        conditions = [sessions.c.id == id, sessions.c.status.in_(sorted(possible))]
        if expect_install is not None:
            conditions.append(sessions.c.install_status.in_(sorted(expect_install)))
        if unused_at is not None:
            conditions.append(sessions.c.expires_at <= unused_at)
        statement = update(sessions).where(*conditions).values(values).returning(sessions)

        def work(connection: Connection) -> Session | None:
            row = connection.execute(statement).one_or_none()
            if row is not None:
                if "tags" in fields:
                    connection.execute(delete(session_tags).where(session_tags.c.session_id == id))
                    _tag(connection, id, fields["tags"])
                return record_of(Session, row)
            found = _find(connection, id)
            if found is None:
                raise RecordNotFoundError("session", id)
            if to is not None and found.status in wanted and to not in SESSION_STEPS[found.status]:
                raise ConflictError(f"the session is {found.status}, and can't become {to}")
            return None

        return await self._transactions.write(work)

    async def touch(self, id: str, at: datetime, expires_at: datetime) -> bool:
        """Notes that it was used; False if it is over, gone, or was used later than that."""
        statement = (
            update(sessions)
            .where(sessions.c.id == id, sessions.c.status.in_(ALIVE), sessions.c.last_activity_at <= at)
            .values(last_activity_at=at, expires_at=expires_at)
        )
        return await self._transactions.write(lambda connection: connection.execute(statement).rowcount > 0)

    async def alive(self, node: str | None = None) -> tuple[Session, ...]:
        """Gives those that have not ended, of one node or of all, oldest first."""
        statement = select(sessions).where(sessions.c.status.in_(ALIVE))
        if node is not None:
            statement = statement.where(sessions.c.runtime_node == node)
        statement = statement.order_by(sessions.c.created_at, sessions.c.id)
        rows = await self._transactions.read(lambda connection: connection.execute(statement).all())
        return tuple(record_of(Session, row) for row in rows)

    async def expired(self, now: datetime, max_lifetime: timedelta | float | None = None) -> tuple[str, ...]:
        """Gives the ids of those that run and that nobody used until they expired, or that are as old as they may be.

        Args:
            now: The moment.
            max_lifetime: How old they may be, in seconds or as a duration; None for any age.
        """
        over = sessions.c.expires_at <= now
        if max_lifetime is not None:
            lifetime = max_lifetime if isinstance(max_lifetime, timedelta) else timedelta(seconds=max_lifetime)
            over = or_(over, sessions.c.created_at <= now - lifetime)
        return await self._ids(and_(sessions.c.status == SessionStatus.RUNNING, over))

    async def ended_before(self, when: datetime) -> tuple[str, ...]:
        """Gives the ids of those that ended before that moment."""
        return await self._ids(and_(sessions.c.status.in_(FINAL), sessions.c.completed_at < when))

    async def _ids(self, condition: ColumnElement[bool]) -> tuple[str, ...]:
        statement = select(sessions.c.id).where(condition).order_by(sessions.c.created_at, sessions.c.id)
        return tuple(await self._transactions.read(lambda connection: connection.execute(statement).scalars().all()))

    async def count_alive(self, owner: str | None = None) -> int:
        """Counts those that have not ended."""
        return await self._transactions.read(lambda connection: _count(connection, owner))

    async def count_by_status(self) -> Mapping[SessionStatus, int]:
        """How many there are in each state; states without any are there with 0."""
        counted = select(sessions.c.status, func.count()).group_by(sessions.c.status)

        def work(connection: Connection) -> dict[SessionStatus, int]:
            found = {SessionStatus(row[0]): row[1] for row in connection.execute(counted)}
            return {status: found.get(status, 0) for status in SessionStatus}

        return await self._transactions.read(work)

    async def remove(self, id: str) -> None:
        """Removes one with its executions and all that they said.

        Raises:
            RecordNotFoundError: There is none.
        """
        removed = await self._transactions.write(
            lambda connection: connection.execute(delete(sessions).where(sessions.c.id == id)).rowcount
        )
        if not removed:
            raise RecordNotFoundError("session", id)


def _find(connection: Connection, id: str) -> Session | None:
    row = connection.execute(select(sessions).where(sessions.c.id == id)).one_or_none()
    return None if row is None else record_of(Session, row)


def _count(connection: Connection, owner: str | None = None) -> int:
    statement = select(func.count()).select_from(sessions).where(sessions.c.status.in_(ALIVE))
    if owner is not None:
        statement = statement.where(sessions.c.owner == owner)
    return int(connection.execute(statement).scalar_one())


def _tag(connection: Connection, id: str, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [{"session_id": id, "digest": _digest(name, value)} for name, value in tags.items()]
        connection.execute(insert(session_tags), rows)


def _digest(name: str, value: str) -> bytes:
    return hashlib.sha256(repr((name, value)).encode("utf-8", "surrogatepass")).digest()


def _conditions(filter: SessionFilter) -> Iterable[ColumnElement[bool]]:
    if filter.owner is not None:
        yield sessions.c.owner == filter.owner
    if filter.statuses is not None:
        yield sessions.c.status.in_(sorted(filter.statuses))
    if filter.template_id is not None:
        yield sessions.c.template_id == filter.template_id
    if filter.mode is not None:
        yield sessions.c.mode == filter.mode
    for name, value in filter.tags.items():
        yield exists().where(session_tags.c.session_id == sessions.c.id, session_tags.c.digest == _digest(name, value))
    if filter.created_after is not None:
        yield sessions.c.created_at > filter.created_after
    if filter.created_before is not None:
        yield sessions.c.created_at < filter.created_before
