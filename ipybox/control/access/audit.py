"""Who did what: a log that is kept in the database, beside the lines that go to the server's own. Floor: control.

Entries are written in batches, after the answer. What is done to keys is written before it. Neither code, nor values of
environments, nor secrets are in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol

from ipybox.control.access.redaction import printable, redacted
from ipybox.control.access.scopes import Principal
from ipybox.control.errors import ControlError
from ipybox.control.records import AuditEntry
from ipybox.process.teardown import to_the_end

log = logging.getLogger("ipybox.audit")

BATCH_SECONDS = 0.2
"""For how long an entry waits for others."""
AT_ONCE = "key."
"""How actions begin that are written before they are answered."""

_BATCH = 500
_MOST_WAITING = 50_000
_LONGEST = 300
_MOST_DETAILS = 20
_RETRY_SECONDS = (0.2, 1.0, 5.0)
_LAST_SECONDS = 10.0


class AuditTable(Protocol):
    """Where entries are kept."""

    async def append(self, entries: Sequence[AuditEntry]) -> None: ...


class AuditLog:
    """The audit log of a server. An async context manager: leaving it writes all that waits.

    Args:
        table: Where entries are kept.
        batch_seconds: For how long an entry may wait for others.
    """

    def __init__(self, table: AuditTable, *, batch_seconds: float = BATCH_SECONDS) -> None:
        self._table = table
        self._batch_seconds = batch_seconds
        self._waiting: deque[AuditEntry] = deque()
        self._lost = 0
        self._failed = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AuditLog:
        self._task = asyncio.create_task(self._write_batches(), name="ipybox audit")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing = True
        self._wake.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                for pause in (*_RETRY_SECONDS, 0.0):
                    if await self._flushed():
                        break
                    await asyncio.sleep(pause)
        if self._waiting:
            log.error("%d entries of the audit log could not be written; they are in these logs only", self.waiting)

    @property
    def waiting(self) -> int:
        """How many entries are not written yet."""
        return len(self._waiting)

    def note(self, entry: AuditEntry) -> None:
        """Takes an entry, which is written within a moment. Never waits.

        Raises:
            ValueError: It is about a key; use :meth:`write`.
        """
        if entry.action.startswith(AT_ONCE):
            raise ValueError(f"{entry.action!r} has to be written before it is answered: await write()")
        self._take(entry)

    async def write(self, entry: AuditEntry) -> None:
        """Takes an entry, and returns when it is written; raises what the database raises."""
        self._take(entry)
        await self.flush()

    async def flush(self) -> None:
        """Writes all that waits now."""
        async with self._writing:
            while self._waiting:
                # One that was begun is brought to its end, or nobody would know whether it was written.
                await to_the_end(self._write_batch())

    async def _write_batch(self) -> None:
        batch = list(islice(self._waiting, _BATCH))
        await self._table.append(batch)
        for _ in batch:
            self._waiting.popleft()

    def _take(self, entry: AuditEntry) -> None:
        entry = _clean(entry)
        log.info(
            "audit",
            extra={
                "action": entry.action,
                "target": entry.target,
                "actor": entry.actor,
                "owner": entry.owner,
                "outcome": entry.outcome,
                "address": entry.address,
                "detail": dict(entry.detail),
                "audit_request_id": entry.request_id,
            },
        )
        if len(self._waiting) >= _MOST_WAITING:
            # The database has been away for long. The line above is still there, memory is not without end.
            self._lost += 1
            if self._lost == 1 or self._lost % 1000 == 0:
                log.error("the audit log has not been written for long; %d entries are in these logs only", self._lost)
            return
        self._waiting.append(entry)
        self._wake.set()

    async def _write_batches(self) -> None:
        failures = 0
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._batch_seconds)
            if await self._flushed():
                failures = 0
                continue
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1
            self._wake.set()

    async def _flushed(self) -> bool:
        try:
            await self.flush()
        except Exception as error:
            is_known = isinstance(error, ControlError)  # the database does not answer, or is full
            # Once with all that is known about it; it is tried again every few seconds.
            log.warning("the audit log is not written down yet: %s", error, exc_info=not is_known and not self._failed)
            self._failed = True
            return False
        self._failed = False
        return True


def entry_of(
    principal: Principal,
    action: str,
    target: str,
    outcome: int,
    *,
    address: str = "",
    request_id: str = "",
    detail: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> AuditEntry:
    """An entry about what somebody did now.

    Args:
        action: Such as ``session.create``.
        target: Id of what it was done to.
        outcome: HTTP status of the answer.
        detail: More facts. Neither code nor values of environments; what is named so is hidden.
    """
    return AuditEntry(
        at=at or datetime.now(UTC),
        actor=principal.key_id,
        owner=principal.owner,
        action=action,
        target=target,
        outcome=outcome,
        address=address,
        request_id=request_id,
        detail=detail or {},
    )


def _clean(entry: AuditEntry) -> AuditEntry:
    detail = redacted(dict(list(entry.detail.items())[:_MOST_DETAILS]))
    return replace(
        entry,
        action=_short(entry.action),
        target=_short(entry.target),
        address=_short(entry.address),
        request_id=_short(entry.request_id),
        detail={name: _short(value) if isinstance(value, str) else value for name, value in detail.items()},
    )


def _short(text: str) -> str:
    return printable(redacted(text[:_LONGEST]))
