"""Executions: from their taking to their result. Floor: control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from structlog.contextvars import bind_contextvars

from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.scopes import Principal
from ipybox.control.access.tracing import Tracing
from ipybox.control.db.database import Database
from ipybox.control.errors import (
    ConflictError,
    ControlError,
    NoCapacityError,
    RecordNotFoundError,
    RequestRefusedError,
    StorageError,
    StorageFullError,
)
from ipybox.control.records import Artifact, Execution, ExecutionEvent, Metrics, Page, Session
from ipybox.control.runtime.host import RunningSession, RunOutcome, RunRequest
from ipybox.control.service import ids
from ipybox.control.service.active import Active
from ipybox.control.service.event_log import FIRST_PAGE, EventLog, next_page
from ipybox.control.service.ids import now
from ipybox.control.service.requests import NewExecution
from ipybox.control.service.retries import NOT_NOW
from ipybox.control.service.sessions import Sessions
from ipybox.control.settings import ServerSettings
from ipybox.control.states import ExecutionKind, ExecutionStatus, Reason, SessionMode
from ipybox.control.storage.workspaces import Workspaces
from ipybox.process.teardown import to_the_end

log = logging.getLogger("ipybox.control")

_LAST_ROOM = 64 * 1024 * 1024
"""Bytes of disk below which no code is taken, which might make room, but would say something as well."""

_UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)
_KINDS = {"shell": ExecutionKind.SHELL, "javascript": ExecutionKind.JAVASCRIPT}
_LOOK_SECONDS = 0.05
_ELSEWHERE_SECONDS = 0.25
_STOP_SECONDS = 2.0


class Executions:
    """Takes code, has it run, keeps what came of it.

    Args:
        db: Where they are kept.
        sessions: What they run in.
        workspaces: Where files come and go meanwhile.
        tracing: Where spans of them are made.
    """

    def __init__(
        self,
        settings: ServerSettings,
        db: Database,
        sessions: Sessions,
        workspaces: Workspaces,
        meters: ServerMetrics,
        tracing: Tracing,
    ) -> None:
        self._settings, self._db, self._sessions = settings, db, sessions
        self._workspaces, self._meters, self._tracing = workspaces, meters, tracing
        self._active: dict[str, Active] = {}
        self._of_session: dict[str, set[str]] = {}
        self._last_cell: dict[str, asyncio.Event] = {}
        self._taking: dict[str, tuple[str, asyncio.Event]] = {}
        self._stopping = False
        self._hurry = asyncio.Event()
        self.in_doubt = False
        """Whether the database may have one that this server does not know of: the answer to a commit was lost."""

    # ---- what is asked for ----------------------------------------------------------------------------------------

    async def submit(self, principal: Principal, asked: NewExecution) -> Execution:
        """Takes code; it is kept when this returns, and runs as soon as its session can.

        Raises:
            RecordNotFoundError: There is no such session.
            ConflictError: The session has ended.
            RequestRefusedError: Such code can't run in it.
            QuotaExceededError, NoCapacityError, StorageFullError: Not now.
        """
        if self._stopping:
            raise NoCapacityError("the server is about to stop", retry_after=10.0)
        free = await self._workspaces.free_bytes()
        if free < min(self._settings.min_free_bytes // 2, _LAST_ROOM):  # for what runs, and for what it says
            raise StorageFullError(f"{free} bytes are free on the server's disk, and it keeps a reserve")
        session = await self._sessions.get(principal, asked.session_id)
        try:
            self._sessions.use(session)
        except ConflictError:
            if asked.is_planned and asked.id is not None:  # its answer may have been lost before the session's end
                with suppress(RecordNotFoundError):
                    return await self._db.executions.get(asked.id, owner=session.owner)
            raise
        execution = Execution(
            id=asked.id or ids.execution_id(),
            session_id=session.id,
            owner=session.owner,
            kind=_kind(asked, session),
            language=asked.language,
            status=ExecutionStatus.PENDING,
            code=asked.code,
            timeout=asked.timeout,
            event=asked.event,
            env_vars=asked.env_vars,
            created_at=now(),
        )
        most = self._settings.max_executions_per_key if principal.max_executions is None else principal.max_executions
        try:
            await to_the_end(self._take(execution, most))
        except ConflictError:
            if asked.is_planned:
                with suppress(RecordNotFoundError):  # then it is the session that has ended
                    return await self._db.executions.get(execution.id, owner=session.owner)
            raise
        return execution

    async def _take(self, execution: Execution, per_owner: int) -> None:
        """Not to be left half done: what is kept is run."""
        taken = asyncio.Event()
        self._taking[execution.id] = execution.session_id, taken
        try:
            await self._db.executions.add(
                execution, per_session=self._settings.max_executions_per_session, per_owner=per_owner
            )
            self.resume(execution)
        except NoCapacityError:
            self.in_doubt = True
            raise
        finally:
            self._taking.pop(execution.id, None)
            taken.set()

    async def get(self, principal: Principal, execution_id: str) -> Execution:
        """One of them."""
        return await self._db.executions.get(execution_id, owner=None if principal.sees_all else principal.owner)

    async def list(
        self, principal: Principal, session_id: str, *, limit: int, offset: int = 0, cursor: str | None = None
    ) -> Page[Execution]:
        """Those of a session, newest first."""
        await self._sessions.get(principal, session_id)
        return await self._db.executions.list(session_id, limit=limit, offset=offset, cursor=cursor)

    async def output(self, executions: tuple[Execution, ...]) -> Mapping[str, tuple[str, str]]:
        """Their stdout and stderr, by id."""
        return await self._db.events.output([each.id for each in executions])

    async def wait(self, execution_id: str, seconds: float) -> bool:
        """Waits until it is finished; False if it is not after so many seconds.

        Raises:
            NoCapacityError: It waits, and the server stops: the next one has it run.
        """
        active = self._active.get(execution_id)
        if active is not None:
            try:
                async with asyncio.timeout(seconds):
                    await active.done.wait()
            except TimeoutError:
                return False
        elif not self._stopping and not await self._wait_elsewhere(execution_id, seconds):
            return False
        is_left = active.is_left if active is not None else self._stopping
        if is_left and not (await self._db.executions.get(execution_id)).status.is_final:
            text = f"the server is about to stop; {execution_id} is kept, and runs after the restart"
            raise NoCapacityError(text, retry_after=10.0)
        return True

    async def _wait_elsewhere(self, execution_id: str, seconds: float) -> bool:
        """The same for one that this server does not run: another one does, or will."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    if self._stopping or await self._is_over(execution_id):
                        return True
                    await asyncio.sleep(_ELSEWHERE_SECONDS)
        return False

    async def _is_over(self, execution_id: str) -> bool:
        """Whether it is finished, so that all that it said is in the database, or was removed."""
        try:
            return (await self._db.executions.get(execution_id)).status.is_final
        except RecordNotFoundError:
            return True

    async def interrupt(self, principal: Principal, execution_id: str) -> bool:
        """What Ctrl-C does; False when it is finished.

        Raises:
            ConflictError: It runs on another server.
        """
        execution = await self.get(principal, execution_id)
        active = self._active.get(execution.id)
        if active is None:
            if not execution.status.is_final:
                self._sessions.refuse_elsewhere(await self._sessions.get(principal, execution.session_id))
            return False
        if active.running is None:
            active.ending = ExecutionStatus.FAILED, Reason.INTERRUPTED, "it was interrupted before it began"
            active.call_off()
            await active.done.wait()
            return True
        while not active.done.is_set():
            if await active.running.interrupt(execution.id):
                return True
            with suppress(TimeoutError):  # it is about to begin, or has ended and is being written down
                async with asyncio.timeout(_LOOK_SECONDS):
                    await active.done.wait()
        return False

    async def events(self, execution_id: str, after: int, limit: int) -> tuple[tuple[ExecutionEvent, ...], bool]:
        """Events after a number, and whether no more will come after these."""
        is_over = await self._is_over(execution_id)
        found = await self._db.events.after(execution_id, after, limit)
        is_end = bool(found) and found[-1].kind == "end"
        return found, is_end or (is_over and len(found) < limit and not self._stopping)

    async def follow(self, execution_id: str, after: int, quiet: float) -> AsyncIterator[ExecutionEvent | None]:
        """All events after a number, as they happen, to the last; None after so many seconds without any."""
        page = FIRST_PAGE
        while True:
            active = self._active.get(execution_id)
            progress = active.events.progress() if active is not None else None
            is_over = active is None and await self._is_over(execution_id)
            found = await self._db.events.after(execution_id, after, page)
            page = next_page(page, found)
            for event in found:
                after = event.seq
                yield event
                if event.kind == "end":
                    return
            if found:
                continue
            if is_over:
                return
            is_told = progress is not None
            if progress is None:  # another server runs it, and nobody tells
                progress, quiet = asyncio.Event(), min(quiet, _ELSEWHERE_SECONDS)
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(quiet):
                        await progress.wait()
                if progress.is_set():
                    break
                yield None
                if not is_told:  # who is told does not look again before: many who wait would keep the database busy
                    break

    # ---- for others -----------------------------------------------------------------------------------------------

    def resume(self, execution: Execution) -> None:
        """Has one run that has not begun."""
        active = Active(
            execution.session_id,
            self._log(execution, self._settings.max_output_bytes * 2),
            asyncio.Event(),
        )
        if execution.kind is ExecutionKind.CELL:
            active.after = self._last_cell.get(execution.session_id)
            self._last_cell[execution.session_id] = active.sent
        self._active[execution.id] = active
        self._of_session.setdefault(execution.session_id, set()).add(execution.id)
        active.task = asyncio.get_running_loop().create_task(self._carry_out(execution, active))

    def knows(self, execution_id: str) -> bool:
        """Whether this server looks after it, or is about to."""
        return execution_id in self._active or execution_id in self._taking

    def is_busy(self, session_id: str) -> bool:
        """Whether code runs in a session, or waits."""
        return bool(self._of_session.get(session_id))

    def count(self) -> int:
        """How many are not finished."""
        return len(self._active)

    def session_ends(self, session_id: str, reason: Reason, detail: str) -> None:
        """Says why to what is about to end with its sandbox."""
        for execution_id in self._of_session.get(session_id, ()):
            active = self._active[execution_id]
            if active.ending is None:
                active.ending = ExecutionStatus.CRASHED, _fate(reason), f"its session ended: {detail}"

    async def session_ended(self, session_id: str, reason: Reason, detail: str) -> None:
        """Ends what waits; what ran has ended with its sandbox."""
        for taken in [event for of_session, event in self._taking.values() if of_session == session_id]:
            await taken.wait()  # who was not refused is among those that end
        self.session_ends(session_id, reason, detail)
        waiting = []
        for execution_id in list(self._of_session.get(session_id, ())):
            active = self._active[execution_id]
            active.call_off()
            waiting.append(active.done.wait())
        await asyncio.gather(*waiting)

    async def lost(self, execution: Execution, reason: Reason, detail: str) -> None:
        """Writes down that one has ended without a result."""
        await self._finish(execution, ExecutionStatus.CRASHED, reason, detail)

    async def drain(self, seconds: float) -> None:
        """Takes no more; gives those that run so much longer, then ends them.

        The next server has those run that wait.
        """
        self._stopping = True
        for active in list(self._active.values()):
            active.call_off()
        ends = [active.done.wait() for active in self._active.values() if active.running is not None]
        if ends:
            hurry = asyncio.ensure_future(self._hurry.wait())
            waits: list[asyncio.Future[Any]] = [asyncio.gather(*ends), hurry]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        text = f"the server was stopped while it ran, after {self._settings.drain_timeout:g} s of waiting for it"
        rest = list(self._active.values())
        for active in rest:
            if active.running is None:
                continue
            if active.ending is None:
                active.ending = ExecutionStatus.CRASHED, Reason.SERVER_STOPPED, text
            if active.work is not None:
                active.work.cancel()
        if rest:
            done = asyncio.gather(*(active.done.wait() for active in rest))
            await asyncio.wait([done], timeout=_STOP_SECONDS)
            self._sessions.retries.give_up()  # the database may be gone
            await done

    def hurry(self) -> None:
        """Has :meth:`drain` wait no longer."""
        self._hurry.set()

    async def compare(self, execution_id: str, status: ExecutionStatus, exit_code: int) -> None:
        """Compares what somebody says about an execution with what is known.

        Raises:
            ConflictError: It is not the same, or it is not finished.
        """
        execution = await self._db.executions.get(execution_id)
        if not execution.status.is_final:
            raise ConflictError(f"the execution {execution_id!r} runs on this server, which will know its result")
        if execution.status is not status or execution.exit_code not in (exit_code, None):
            raise ConflictError(f"the execution {execution_id!r} is {execution.status.value} already")

    # ---- carrying out ---------------------------------------------------------------------------------------------

    async def _carry_out(self, execution: Execution, active: Active) -> None:
        """From the waiting to the result, whatever happens."""
        active.has_begun = True
        bind_contextvars(execution_id=execution.id, session_id=execution.session_id)
        said = {"execution.id": execution.id, "session.id": execution.session_id, "kind": execution.kind.value}
        try:
            with self._tracing.span("execution", said, is_first=True):
                await self._run_or_say_why(execution, active)
        except RecordNotFoundError:
            pass  # it was removed with its session
        except NOT_NOW as error:
            self.in_doubt = True
            log.warning("an execution is left as it is written down: %s", error)
        except Exception:
            self.in_doubt = True
            log.exception("an execution is left as it is written down")
        finally:
            active.sent.set()
            self._active.pop(execution.id, None)
            others = self._of_session.get(execution.session_id)
            if others is not None:
                others.discard(execution.id)
                if not others:
                    self._of_session.pop(execution.session_id, None)
                    self._last_cell.pop(execution.session_id, None)
            self._sessions.touch(execution.session_id)
            active.done.set()
            active.events.wake()

    async def _run_or_say_why(self, execution: Execution, active: Active) -> None:
        try:
            await self._run(execution, active)
        except asyncio.CancelledError:
            if active.ending is None:
                active.is_left = True  # it has not begun, and the server stops: the next one has it run
                return
            await to_the_end(self._finish(execution, *active.ending, events=active.events))
        except (RecordNotFoundError, *NOT_NOW):
            raise
        except Exception as error:
            log.exception("an execution failed", extra={"execution_id": execution.id})
            why = f"the server failed: {type(error).__name__}: {error}"
            end = ExecutionStatus.CRASHED, Reason.SANDBOX_ENDED, why
            try:
                await to_the_end(self._finish(execution, *end, events=active.events))
            except (RecordNotFoundError, *NOT_NOW):
                raise
            except Exception:  # so it is what it said that can't be written
                known = await self._db.executions.get(execution.id)
                await to_the_end(self._finish(known, *end))

    async def _run(self, execution: Execution, active: Active) -> None:
        if active.after is not None:
            await active.after.wait()  # a database may take longer for the one that came first
        if active.ending is None and self._stopping:
            active.is_left = True
            return
        running = None if active.ending is not None else await self._sessions.running(execution.session_id)
        if running is None:
            ending = active.ended((ExecutionStatus.CRASHED, Reason.SESSION_ENDED, "its session ended before it began"))
            return await self._finish(execution, *ending, events=active.events)
        before = await self._workspaces.snapshot(execution.session_id)
        if active.ending is not None:
            return await self._finish(execution, *active.ending, events=active.events)
        if self._stopping:
            active.is_left = True
            return
        self._sessions.touch(execution.session_id)
        active.running = running  # at once: from here on nothing calls it off any more
        await to_the_end(self._run_to_the_end(execution, active, running, before))

    async def _run_to_the_end(self, execution: Execution, active: Active, running: RunningSession, before: Any) -> None:
        if not await self._sessions.retries.until_taken(lambda: self._start(execution.id), "the start of an execution"):
            return
        if active.ending is not None:
            return await self._finish(execution, *active.ending, events=active.events)
        request = RunRequest(
            execution_id=execution.id,
            kind=execution.kind,
            code=execution.code,
            timeout=execution.timeout,
            event=execution.event,
            env_vars=execution.env_vars,
        )
        work = active.work = asyncio.ensure_future(running.run(request, active.events.add))
        active.sent.set()
        await asyncio.wait([work])
        if work.cancelled():  # the server stops, and that is its result
            ending = active.ended((ExecutionStatus.CRASHED, Reason.SERVER_STOPPED, "the server was stopped"))
            return await self._finish(execution, *ending, events=active.events)
        outcome = work.result()
        artifacts, problem = await self._artifacts(execution.session_id, before)
        if problem is not None:
            outcome = _with_problem(outcome, problem)
        await self._write(execution, active, outcome, artifacts)

    async def _start(self, execution_id: str) -> bool:
        """False if somebody has ended it; if it runs already, the word of its start was lost."""
        if await self._db.executions.start(execution_id, now()) is not None:
            return True
        return not await self._is_over(execution_id)

    async def _artifacts(self, session_id: str, before: Any) -> tuple[tuple[Artifact, ...], Exception | None]:
        """Files that were made or changed; a copy of them is in the object store when this returns."""
        artifacts: tuple[Artifact, ...] = ()
        try:
            changes = await self._workspaces.compare(session_id, before)
            artifacts = changes.artifacts
            await self._workspaces.push(session_id, changes)
        except (ControlError, OSError) as error:  # the object store, or the session was removed meanwhile
            return artifacts, error
        return artifacts, None

    async def _write(
        self, execution: Execution, active: Active, outcome: RunOutcome, artifacts: tuple[Artifact, ...]
    ) -> None:
        status, reason, message = outcome.status, outcome.reason, outcome.error_message
        if active.ending is not None and status is ExecutionStatus.CRASHED:
            _, reason, message = active.ending
        await self._commit(
            execution,
            active.events,
            status=status,
            reason=reason,
            exit_code=outcome.exit_code,
            error_name=outcome.error_name,
            error_message=message,
            execution_time=outcome.metrics.duration_ms / 1000,
            return_value=outcome.return_value,
            has_return_value=outcome.has_return_value,
            metrics=outcome.metrics,
            artifacts=artifacts,
            truncated=outcome.truncated or active.events.truncated,
        )

    async def _finish(
        self,
        execution: Execution,
        status: ExecutionStatus,
        reason: Reason,
        detail: str,
        events: EventLog | None = None,
    ) -> None:
        """Writes down an end without a result."""
        if events is None:
            events = self._log(execution, 0, execution.events + 1)
        duration = None
        if execution.started_at is not None:
            duration = (now() - execution.started_at).total_seconds()
        await self._commit(
            execution,
            events,
            status=status,
            reason=reason,
            exit_code=None,
            error_name=None,
            error_message=detail,
            execution_time=duration,
            return_value=None,
            has_return_value=False,
            metrics=None if duration is None else Metrics(duration_ms=duration * 1000),
            artifacts=(),
            truncated=events.truncated,
        )

    def _log(self, execution: Execution, display_bytes: int, first: int = 1) -> EventLog:
        return EventLog(execution.id, self._db.events.append, self._sessions.retries, display_bytes, first)

    async def _commit(self, execution: Execution, events: EventLog, **facts: Any) -> None:
        """Writes the result with the last events; what the database does not take is tried until it does."""
        last = await events.take_last()
        end = events.end_event({"status": facts["status"].value, "reason": facts["reason"] and facts["reason"].value})
        await self._sessions.retries.until_taken(
            lambda: self._db.executions.finish(execution.id, completed_at=now(), last_events=(*last, end), **facts),
            f"the result of {execution.id}",
        )
        self._tracing.note("status", facts["status"].value)
        self._meters.executions.labels(execution.kind.value, facts["status"].value).inc()
        self._meters.events.inc(end.seq)
        if facts["execution_time"] is not None:
            self._meters.execution.labels(execution.kind.value).observe(facts["execution_time"])


def _kind(asked: NewExecution, session: Session) -> ExecutionKind:
    if asked.language in _KINDS:
        return _KINDS[asked.language]
    is_stateful = session.mode is SessionMode.STATEFUL
    if asked.kind is ExecutionKind.CELL and not is_stateful:
        raise RequestRefusedError("cells need a session with mode 'stateful'; this one keeps no variables", "kind")
    return asked.kind or (ExecutionKind.CELL if is_stateful else ExecutionKind.HANDLER)


def _fate(reason: Reason) -> Reason:
    return reason if reason in (Reason.SERVER_STOPPED, Reason.SERVER_RESTARTED) else Reason.SESSION_ENDED


def _with_problem(outcome: RunOutcome, problem: Exception) -> RunOutcome:
    """Files that could not be kept make it a failure: who reads `completed` counts on them."""
    if outcome.status is not ExecutionStatus.COMPLETED:
        return outcome
    return RunOutcome(
        status=ExecutionStatus.FAILED,
        reason=Reason.STORAGE_FAILED if isinstance(problem, StorageError) else Reason.DISK_FULL,
        exit_code=outcome.exit_code,
        error_message=f"its files could not be kept: {problem}",
        return_value=outcome.return_value,
        has_return_value=outcome.has_return_value,
        metrics=outcome.metrics,
        truncated=outcome.truncated,
    )
