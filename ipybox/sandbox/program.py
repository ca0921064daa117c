"""A program in a sandbox, as its supervisor holds it. Linux only. Floor: sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ipybox.errors import ProgramStartError
from ipybox.process import liveness

OnListener = Callable[[socket.socket], Awaitable[None]]


class SandboxedProgram:
    """Follows one program by its lead, the socket that its pid 1 holds.

    Args:
        lead: Our end; taken over.
        on_listener: Gets the socket that the program finds its proxy at, before the program runs.
        why: Tells what was said last, should the program not come up without a reason.
    """

    def __init__(
        self,
        lead: socket.socket,
        on_listener: OnListener | None = None,
        why: Callable[[], str] | None = None,
    ) -> None:
        self.pid: int | None = None
        """Pid of the program on this machine."""
        self.init_pid: int | None = None
        """Pid of its pid 1 on this machine."""
        self.memory = 0
        """Bytes that it may use with all that it starts."""
        self.generation = 0
        """Which of its supervisor's views it sees, see :meth:`Supervisor.current`."""
        self._lead = lead
        self._on_listener = on_listener
        self._why = why
        self._loop = asyncio.get_running_loop()
        self._pidfds: list[int] = []
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[int | None] = self._loop.create_future()
        self._lead_ended: asyncio.Future[None] = self._loop.create_future()
        self._gone_for_good: asyncio.Future[None] = self._loop.create_future()
        self._is_abandoned = False
        self._code: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lead_open = True
        lead.setblocking(False)
        self._loop.add_reader(lead.fileno(), self._read)

    async def started(self) -> None:
        """Waits until the program is about to run.

        Raises:
            ProgramStartError: It will not.
        """
        await asyncio.shield(self._started)

    async def ended(self) -> int | None:
        """Waits until the program and everything it started are gone.

        Returns its exit code, or minus the signal that ended it; None when all of it was killed from outside.
        """
        return await asyncio.shield(self._ended)

    @property
    def init_pidfd(self) -> int | None:
        """The pidfd of its pid 1, which stays ours; None before it has started and after it was let go of."""
        return self._pidfds[0] if self._pidfds else None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left."""
        return self._ended.done()

    @property
    def is_alive(self) -> bool:
        """Whether the program itself is there, right now."""
        return len(self._pidfds) == 2 and self.pid is not None and liveness.is_alive(self.pid, self._pidfds[1])

    def signal(self, signum: int) -> None:
        """Signals the program's process group. Does nothing when it is gone."""
        if self._lead_open:
            try:
                self._lead.send(json.dumps({"signal": signum}).encode())
            except OSError:
                pass  # it is gone, or it is not up to anything any more: kill() does not need it

    def kill(self) -> None:
        """Ends the program and everything that it started, whatever they do."""
        if self._pidfds and not self.is_over:
            try:
                signal.pidfd_send_signal(self._pidfds[0], signal.SIGKILL)
            except ProcessLookupError:
                pass
        elif not self._started.done():
            self._fail("it was killed before it was up")

    async def abandon(self) -> None:
        """Ends it wherever its start has come to, and waits until nothing of it is left."""
        self._is_abandoned = True
        if self._lead_open:
            with suppress(OSError):
                self._lead.shutdown(socket.SHUT_WR)  # which its pid 1 takes for our end, as soon as it looks
        self.kill()
        await asyncio.shield(self._lead_ended)
        if self._pidfds:
            await asyncio.shield(self._gone_for_good)

    def close(self) -> None:
        """Lets go of it; a program that still runs is ended by its pid 1, which sees the lead's end."""
        self._close_lead()
        while self._pidfds:
            fd = self._pidfds.pop()
            self._loop.remove_reader(fd)
            os.close(fd)
        for future in (self._started, self._ended, self._gone_for_good):
            if not future.done():
                future.cancel()

    def _read(self) -> None:
        while self._lead_open:
            try:
                packet, fds, _, _ = socket.recv_fds(self._lead, 4096, 4)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._close_lead()
                if not self._started.done():
                    said = self._why() if self._why is not None else ""
                    self._fail(f"its sandbox ended before it was up{said and f': {said}'}")
                return
            self._take(json.loads(packet), fds)

    def _take(self, facts: dict[str, Any], fds: list[int]) -> None:
        if "listener" in facts and len(fds) == 1:
            listener = socket.socket(fileno=fds[0])
            if self._on_listener is None:
                listener.close()
            else:
                task = self._loop.create_task(self._serve(listener))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        elif "started" in facts and len(fds) == 2:
            self._pidfds = fds
            self.init_pid, self.pid = (liveness.pid_of(fd) for fd in fds)
            self._loop.add_reader(fds[0], self._gone)
            if self._is_abandoned:
                self.kill()
            if not self._started.done():
                self._started.set_result(None)
        elif "error" in facts:
            if not self._started.done():
                self._fail(str(facts["error"]), facts.get("errno"))
        elif "exit" in facts:
            self._code = facts["exit"]

    async def _serve(self, listener: socket.socket) -> None:
        assert self._on_listener is not None
        await self._on_listener(listener)

    def _fail(self, reason: str, errno: int | None = None) -> None:
        self._started.set_exception(ProgramStartError(reason, errno))
        self._started.exception()  # whoever waits gets it; nobody has to
        if not self._ended.done():
            self._ended.set_result(None)

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfds[0])
        self._read()  # what it said last
        if not self._gone_for_good.done():
            self._gone_for_good.set_result(None)
        if not self._ended.done():
            self._ended.set_result(self._code)

    def _close_lead(self) -> None:
        if self._lead_open:
            self._lead_open = False
            if not self._lead_ended.done():
                self._lead_ended.set_result(None)
            self._loop.remove_reader(self._lead.fileno())
            self._lead.close()
