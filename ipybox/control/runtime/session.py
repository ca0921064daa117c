"""A session's sandbox on this machine: runs what it is asked to, until it ends. Floor: control."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ipybox.control.inside import results
from ipybox.control.inside.places import body_limit
from ipybox.control.json_text import JsonText
from ipybox.control.runtime import memory
from ipybox.control.runtime.connection import GONE, Connection, ConnectionEndedError
from ipybox.control.runtime.host import Ending, OnEvent, RunOutcome, RunRequest, SessionSpec
from ipybox.control.runtime.room import Room
from ipybox.control.runtime.running import RunningExecution
from ipybox.control.states import ExecutionKind, ExecutionStatus, Reason, SessionMode
from ipybox.exit_status import ExitStatus
from ipybox.process.teardown import to_the_end
from ipybox.sandbox.program import SandboxedProgram
from ipybox.session.frames import FrameError, value

HEAD_LIMIT = 256 * 1024
"""Bytes of the largest object that an agent sends."""
SLACK_SECONDS = 30.0
"""How much longer than code may run the agent may take to say how it ended."""
_LONGEST = 1e7
_SETTLE_SECONDS = 15.0
_QUIET_SECONDS = 10.0
_DEAF_SECONDS = 30.0
_PATIENCE = 2.0
_LOOK_SECONDS = 0.5
_IDLE_LOOK_SECONDS = 5.0
_IDLE_ROOM = 2
"""How many times as much as it may take a workspace takes when what goes on between cells is ended: by then it can't
be what a cell has left, which is for its owner to remove."""
_LOOK_SHARE = 20
"""At most this part of the time is spent with measuring a workspace, unless that would leave it alone for too long."""
_LONGEST_LOOK_PAUSE = 20.0
_VICTIM_SECONDS = 3.0
_MOST_HOSTS = 1000


class LocalSession:
    """Follows one sandbox. Made by :class:`~ipybox.control.runtime.local.LocalHost`.

    Args:
        spec: What it is.
        container_id: Its name.
        program: Its agent.
        finish: Waits for its end, and says how it ended; gets what to do when it uses too much memory.
        fds: The pipes to the agent, ours to write and ours to read; taken over.
        output_bytes: Bytes of each output, of all that is shown, and of a return value.
    """

    def __init__(
        self,
        spec: SessionSpec,
        container_id: str,
        program: SandboxedProgram,
        finish: Callable[[Callable[[int], bool]], Any],
        fds: tuple[int, int],
        output_bytes: int,
    ) -> None:
        self._spec, self._id, self._program, self._limit = spec, container_id, program, output_bytes
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._executions: dict[int, RunningExecution] = {}
        self._by_id: dict[str, tuple[int, RunningExecution]] = {}
        self._turn = asyncio.Lock()
        self._denied: dict[str, int] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._why: Ending | None = None
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._full: str | None = None
        self._room = Room(spec.workspace, spec.limits.disk_bytes)
        self._victims: dict[int, float] = {}
        self._connection = Connection(
            *fds,
            head_limit=HEAD_LIMIT,
            body_limit=body_limit(output_bytes),
            on_frame=self._take,
            on_broken=self._broken,
        )
        self._measuring = asyncio.Lock()
        self._look_pause = _LOOK_SECONDS
        self._wake = asyncio.Event()
        self._life = self._loop.create_task(self._live(finish))
        self._watch = self._loop.create_task(self._look_after())

    # ---- what RunningSession promises --------------------------------------------------------------------------

    @property
    def container_id(self) -> str:
        """Its name, unique among all that ever were."""
        return self._id

    @property
    def denied_hosts(self) -> Mapping[str, int]:
        """Hosts that it wanted and might not reach, and how often; of very many only the first ones."""
        return MappingProxyType(self._denied)

    async def run(self, request: RunRequest, on_event: OnEvent) -> RunOutcome:
        """Runs code to its end; see :meth:`RunningSession.run`."""
        execution = RunningExecution(request, on_event, self._limit)
        number = next(self._numbers)
        if self._why is not None:
            execution.give_up(self._why)
            return execution.done.result()
        self._executions[number] = execution
        self._by_id[request.execution_id] = number, execution
        try:
            if request.kind is not ExecutionKind.CELL:
                return await self._run(number, execution)
            if self._spec.mode is not SessionMode.STATEFUL:
                execution.refuse(Reason.START_FAILED, "cells need a session that keeps state: mode 'stateful'")
                return execution.done.result()
            return await self._run_in_turn(number, execution)
        finally:
            self._executions.pop(number, None)
            if self._by_id.get(request.execution_id, (0, None))[0] == number:
                del self._by_id[request.execution_id]

    async def interrupt(self, execution_id: str) -> bool:
        """What Ctrl-C does, and after a grace period a kill; False if nothing of that id runs."""
        number, execution = self._by_id.get(execution_id, (0, None))
        if execution is None or execution.done.done():
            return False
        if execution.is_queued:
            execution.refuse(Reason.INTERRUPTED, "it was interrupted before its turn came")
        else:
            await self._send({"op": "interrupt", "which": number})
        return True

    async def ended(self) -> Ending:
        """Waits until the sandbox is gone, for whatever reason."""
        return await asyncio.shield(self._ending)

    async def close(self) -> None:
        """Ends it with all that runs in it. Nothing of it is left after this."""
        self._end(Ending(Reason.REQUESTED, "it was ended"))
        await to_the_end(self._gone())

    # ---- for its host ------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Waits until its agent says that it is there, or that it never will be."""
        waited: list[asyncio.Future[Any]] = [self._ready, self._ending]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)

    @property
    def is_ready(self) -> bool:
        """Whether its agent has said so."""
        return self._ready.done()

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left."""
        return self._ending.done()

    @property
    def processes(self) -> tuple[int, ...]:
        """Pids on this machine: of its pid 1, and of its agent."""
        return tuple(pid for pid in (self._program.init_pid, self._program.pid) if pid is not None)

    @property
    def running(self) -> int:
        """How many executions run or wait."""
        return len(self._executions)

    def stop(self, ending: Ending) -> None:
        """Ends it for a reason, and does not wait."""
        self._end(ending)

    def denied(self, host: str) -> None:
        """It wanted to reach a host that it may not."""
        if host in self._denied or len(self._denied) < _MOST_HOSTS:
            self._denied[host] = self._denied.get(host, 0) + 1

    # ---- executions --------------------------------------------------------------------------------------------

    async def _run_in_turn(self, number: int, execution: RunningExecution) -> RunOutcome:
        turn = asyncio.ensure_future(self._turn.acquire())
        try:
            waited: list[asyncio.Future[Any]] = [turn, execution.done]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if execution.done.done():
                return execution.done.result()
            return await self._run(number, execution)
        finally:
            if turn.done():
                self._turn.release()
            else:
                turn.cancel()
                turn.add_done_callback(lambda task: None if task.cancelled() else self._turn.release())

    async def _run(self, number: int, execution: RunningExecution) -> RunOutcome:
        request = execution.request
        if await self._is_full():
            execution.refuse(Reason.DISK_FULL, f"{self._full}; remove something first")
            return execution.done.result()
        if execution.done.done():
            return execution.done.result()
        execution.begin()
        try:
            head = {
                "op": "run",
                "id": number,
                "kind": request.kind.value,
                "event": _event(request.event),
                "env": dict(request.env_vars),
                "timeout": min(float(request.timeout), _LONGEST),
            }
            code = request.code.encode("utf-8", "surrogatepass")
        except (TypeError, ValueError, RecursionError) as error:
            execution.refuse(Reason.START_FAILED, f"it can't be passed on: {error}")
            return execution.done.result()
        late = self._loop.call_later(request.timeout + SLACK_SECONDS, self._late, execution)
        try:
            self._wake.set()
            await self._connection.send(head, code)
            return await asyncio.shield(execution.done)
        except FrameError as error:
            execution.refuse(Reason.START_FAILED, f"it is too much at once: {error}")
            return execution.done.result()
        except ConnectionEndedError:
            return await asyncio.shield(execution.done)  # which the end of the sandbox sees to
        except asyncio.CancelledError:
            await to_the_end(self._call_off(number, execution))
            raise
        finally:
            late.cancel()

    def _late(self, execution: RunningExecution) -> None:
        if execution.has_ended:
            return  # what it returned is looked at
        seconds = execution.request.timeout + SLACK_SECONDS
        self._end(Ending(Reason.SANDBOX_ENDED, f"its agent did not end an execution within {seconds:g} s"))

    async def _call_off(self, number: int, execution: RunningExecution) -> None:
        await self._send({"op": "cancel", "which": number})
        await asyncio.wait([execution.done], timeout=_SETTLE_SECONDS)
        if not execution.done.done():
            self._end(Ending(Reason.SANDBOX_ENDED, "its agent does not call off what runs"))

    async def _send(self, head: dict[str, Any]) -> None:
        try:
            await self._connection.send({"id": 0, **head})
        except ConnectionEndedError:
            pass  # the end of all of it is near

    def _take(self, head: dict[str, Any], body: bytes) -> Iterator[None] | None:
        number = value(head, "id", int)
        if number:
            execution = self._executions.get(number)
            return None if execution is None else execution.take(head, body)
        kind = value(head, "is", str)
        if kind == "ready" and not self._ready.done():
            self._ready.set_result(None)
        elif kind == "failed":
            self._end(Ending(Reason.SANDBOX_ENDED, f"its agent failed: {head.get('why')!r}"[:1000]))
        return None

    # ---- its end -----------------------------------------------------------------------------------------------

    async def _live(self, finish: Callable[[Callable[[int], bool]], Any]) -> None:
        """Until it is over, for whatever reason; also when the event loop ends."""
        status: ExitStatus | None = None
        try:
            status = await finish(self._relieve)
        finally:
            if status is None:
                ending = Ending(Reason.SERVER_STOPPED, "its event loop has ended")
            elif status.reason == "memory":
                ending = Ending(Reason.OUT_OF_MEMORY, f"it used too much memory: {status}")
            else:
                ending = Ending(Reason.SANDBOX_ENDED, f"its agent ended, as code in it can have it do: {status}")
            for _ in self._connection.drain():
                if status is not None:
                    await asyncio.sleep(0)
            self._end(self._why or ending)
            self._watch.cancel()
            self._ending.set_result(self._why or ending)

    def _end(self, ending: Ending) -> None:
        if self._why is not None:
            return
        self._why = ending
        self._connection.close()
        self._program.kill()
        for execution in list(self._executions.values()):
            execution.give_up(ending)

    def _broken(self, reason: str) -> None:
        """The agent can't be talked to. If it is gone, something says why in a moment."""
        if reason != GONE:
            self._end(Ending(Reason.SANDBOX_ENDED, reason))
        else:
            self._loop.call_later(_PATIENCE, self._program.kill)

    async def _gone(self) -> None:
        await asyncio.wait([self._life, self._watch])

    # ---- its limits --------------------------------------------------------------------------------------------

    def _relieve(self, used: int) -> bool:
        """Too much memory is in use: ends the execution that uses most; says whether there was one."""
        now = self._loop.time()
        if any(now - since < _VICTIM_SECONDS for since in self._victims.values()):
            return True  # it takes a moment until its memory is free
        self._victims.clear()
        by_pid = {each.pid: each for each in self._executions.values() if each.pid is not None}
        found = memory.largest(self._program.pid or 0, by_pid) if by_pid else None
        if found is None:
            return False
        pid, inside = found
        limit = self._program.memory
        by_pid[inside].judge(
            ExecutionStatus.CRASHED,
            Reason.OUT_OF_MEMORY,
            f"the session used {used} bytes of memory, the limit is {limit}, and this used most of it, so it was ended",
        )
        self._victims[pid] = now
        memory.end(pid)
        by_pid[inside].done.add_done_callback(lambda _: self._victims.pop(pid, None))
        return True

    async def _look_after(self) -> None:
        """Measures the workspace while something runs, and asks an agent that is quiet whether it is still there."""
        asked = 0.0
        while True:
            if not await self._until_it_runs():
                await self._look_between_cells()
                continue
            await asyncio.sleep(self._look_pause)
            await self._measure()
            if self._full is not None:
                await self._end_for(self._full)
            now = self._loop.time()
            if self._connection.heard >= asked and now - self._connection.heard > _QUIET_SECONDS:
                asked = now
                await self._send({"op": "ping"})
            elif asked > self._connection.heard and now - asked > _DEAF_SECONDS:
                self._end(Ending(Reason.SANDBOX_ENDED, f"its agent did not answer for {_DEAF_SECONDS:g} s"))
            if not self._executions:
                self._wake.clear()
                asked = 0.0

    async def _until_it_runs(self) -> bool:
        """Waits until something runs; False if an interpreter should be looked at though nothing does."""
        try:
            has_interpreter = self._spec.mode is SessionMode.STATEFUL
            async with asyncio.timeout(max(_IDLE_LOOK_SECONDS, self._look_pause) if has_interpreter else None):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _look_between_cells(self) -> None:
        """Threads and programs of an interpreter go on when no cell runs; ends them when they fill the disk."""
        problem = await self._look(_IDLE_ROOM)
        if problem is not None and not self._executions and self._program.pid is not None:
            self._full = problem
            await asyncio.to_thread(memory.end_below, self._program.pid)

    async def _end_for(self, problem: str) -> None:
        for number, execution in list(self._executions.items()):
            if not execution.is_queued and not execution.done.done():
                execution.judge(ExecutionStatus.FAILED, Reason.DISK_FULL, problem)
                await self._send({"op": "cancel", "which": number})

    async def _measure(self) -> None:
        self._full = await self._look()

    async def _look(self, times: int = 1) -> str | None:
        """What is wrong with the room that the workspace takes, if it may be so many times as much."""
        async with self._measuring:
            began = self._loop.time()
            problem = await asyncio.to_thread(self._room.problem, self._program.init_pid, times)
            took = self._loop.time() - began
            self._look_pause = min(max(_LOOK_SECONDS, _LOOK_SHARE * took), _LONGEST_LOOK_PAUSE)
        return problem

    async def _is_full(self) -> bool:
        """Whether there is no room; looks again where there was none."""
        if self._full is not None:
            await self._measure()
        return self._full is not None


def _event(event: Any) -> str:
    return event.text if isinstance(event, JsonText) else results.as_json(event).decode()
