"""A session and an execution as things that one can use. Floor: control."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import fields
from typing import Any, TypeVar, Unpack

from ipybox.control.client.files import AsyncFiles, Source
from ipybox.control.client.groups import AsyncExecutions, AsyncSessions
from ipybox.control.client.models import Event, ExecutionInfo, FileInfo, RunResult, SessionInfo, UploadedFile
from ipybox.control.client.options import CodeOptions, Packages
from ipybox.control.errors import ControlError, SessionEndedError
from ipybox.process.teardown import to_the_end

T = TypeVar("T")
OnOutput = Callable[[Event], Awaitable[object] | object]
"""Gets each event as it happens; what it returns is awaited if it can be."""
_LAST_SECONDS = 5.0


class AsyncExecution:
    """Code that runs on a server, or did. It goes on whether anybody listens or not.

    Attributes:
        id: Its id, with which it can be found again; see :meth:`AsyncControlClient.execution`.
        session_id: The session that it runs in.
    """

    def __init__(self, executions: AsyncExecutions, id: str, session_id: str) -> None:
        self._executions = executions
        self.id, self.session_id = id, session_id

    async def info(self) -> ExecutionInfo:
        """How it is now."""
        return await self._executions.get(self.id)

    async def stream(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """What it says, after the event of that number, as it happens and until its ``end``.

        A connection that breaks is made anew, and no event is lost or comes twice.
        """
        async with aclosing(self._executions.stream(self.id, after)) as events:
            async for event in events:
                yield event

    async def wait(self, on_output: OnOutput | None = None) -> RunResult:
        """Waits for its end.

        Args:
            on_output: Gets all that it said and says.
        """
        displays = []
        async with aclosing(self.stream()) as events:
            async for event in events:
                if event.kind in ("display", "result"):
                    displays.append(event)
                if on_output is not None and inspect.isawaitable(answer := on_output(event)):
                    await answer
        info = await self.info()
        return RunResult(**{each.name: getattr(info, each.name) for each in fields(info)}, displays=tuple(displays))

    async def interrupt(self) -> bool:
        """Does what Ctrl-C does, and a kill if that does not help. False if it had ended before."""
        return await self._executions.interrupt(self.id)


class AsyncSession:
    """A session on a server: files in ``/workspace``, and code that runs there.

    Attributes:
        id: Its id, with which it can be found again; see :meth:`AsyncControlClient.attach`.
    """

    def __init__(self, sessions: AsyncSessions, executions: AsyncExecutions, files: AsyncFiles, id: str) -> None:
        self._sessions, self._executions, self._files = sessions, executions, files
        self.id = id

    async def info(self) -> SessionInfo:
        """How it is now."""
        return await self._sessions.get(self.id)

    async def ready(self, timeout: float = 120.0) -> SessionInfo:
        """Waits until it runs.

        Raises:
            SessionEndedError: It has ended, or did not come up.
            TimeoutError: It is still being made.
        """
        info = await self._sessions.wait(self.id, timeout)
        if info.status != "running":
            raise SessionEndedError(info.id, info.status, info.status_reason, info.status_detail)
        return info

    async def start(self, code: str, **options: Unpack[CodeOptions]) -> AsyncExecution:
        """Hands over code, which then runs whether anybody listens or not."""
        ticket = await self._executions.execute(self.id, code, **options)
        return AsyncExecution(self._executions, ticket.execution_id, self.id)

    async def run(self, code: str, *, on_output: OnOutput | None = None, **options: Unpack[CodeOptions]) -> RunResult:
        """Runs code to its end. Never raises for what the code does.

        Who is cancelled meanwhile has interrupted the code, too.

        Args:
            code: Python, JavaScript or shell.
            on_output: Gets what it says, as it happens.
            options: See :class:`CodeOptions`.
        """
        async with self._running(code, **options) as execution:
            return await execution.wait(on_output)

    async def stream(self, code: str, **options: Unpack[CodeOptions]) -> AsyncGenerator[Event, None]:
        """Runs code, and gives what it says, as it happens and until its ``end``.

        Who leaves early has interrupted the code. A connection that breaks is made anew, and no event is lost or
        comes twice.
        """
        async with self._running(code, **options) as execution, aclosing(execution.stream()) as events:
            async for event in events:
                yield event

    async def interrupt(self) -> int:
        """Interrupts all that runs in it, and what waits. Returns how many that were."""
        count, cursor = 0, None
        while True:
            page = await self._executions.list(self.id, limit=100, cursor=cursor)
            for each in page.items:
                if not each.is_final:
                    count += await self._executions.interrupt(each.id)
            cursor = page.next_cursor
            if cursor is None:
                return count

    async def upload(self, path: str, source: Source) -> UploadedFile:
        """Writes a file of the workspace: bytes, a file on this machine, or parts as they come."""
        return await self._files.upload(self.id, path, source)

    async def download(self, path: str) -> bytes:
        """The content of a file of the workspace, of at most 256 MiB."""
        return await self._files.download(self.id, path)

    async def download_to(self, path: str, target: str | os.PathLike[str]) -> int:
        """Writes the content of a file of the workspace to one on this machine. Returns its size."""
        return await self._files.download_to(self.id, path, target)

    async def list_files(self, path: str = "", *, recursive: bool = False, limit: int = 1000) -> tuple[FileInfo, ...]:
        """What is in a directory of the workspace, and with ``recursive`` in all below it."""
        return await self._files.list(self.id, path, recursive=recursive, limit=limit)

    async def delete_file(self, path: str) -> None:
        """Removes a file of the workspace."""
        await self._files.delete(self.id, path)

    async def install(self, dependencies: Packages, *, install_timeout: int | None = None) -> SessionInfo:
        """Installs packages; see :meth:`AsyncSessions.install`."""
        return await self._sessions.install(self.id, dependencies, install_timeout=install_timeout)

    async def renew(self, timeout: int | None = None) -> SessionInfo:
        """Keeps it for that many seconds from now, or for its own timeout."""
        return await self._sessions.renew(self.id, timeout)

    async def terminate(self) -> SessionInfo:
        """Ends it; its record and its files stay for a while."""
        return await self._sessions.terminate(self.id)

    async def delete(self) -> None:
        """Ends it, and removes its files and its record."""
        await self._sessions.delete(self.id)

    @asynccontextmanager
    async def _running(self, code: str, **options: Unpack[CodeOptions]) -> AsyncIterator[AsyncExecution]:
        execution = await made(self.start(code, **options), AsyncExecution.interrupt)
        try:
            yield execution
        except BaseException:
            await quietly(execution.interrupt())
            raise


async def made(making: Coroutine[Any, Any, T], undo: Callable[[T], Coroutine[Any, Any, Any]]) -> T:
    """Makes something on a server. Who is cancelled before the answer is there leaves nothing behind."""
    task = asyncio.ensure_future(making)

    async def unmake() -> None:
        await undo(await task)

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await quietly(unmake())
        task.cancel()
        raise


async def quietly(work: Coroutine[Any, Any, Any]) -> None:
    """Does what must be tried before an error goes on, within seconds, cancelled or not."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await work
        except (ControlError, TimeoutError):
            pass

    await to_the_end(bounded())
