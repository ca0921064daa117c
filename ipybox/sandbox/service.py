"""Answers a client that asks for sandboxed programs; the other end of ``supervision``. Linux only. Floor: sandbox."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.sandbox.launcher import MAX_FDS, Program
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.supervision import PACKET
from ipybox.sandbox.supervisor import Supervisor

if TYPE_CHECKING:
    from ipybox.sandbox.egress import EgressEvent

log = logging.getLogger("ipybox.sandbox")

_HEARD_SECONDS = 2.0
_MOST_GONE = 1000
"""As many as fit into a packet."""
_LARGEST_REQUEST = 4 * 1024 * 1024


def _request(fd: int) -> Program:
    """The program that a client asks for; the descriptor is taken over."""
    with os.fdopen(fd, encoding="utf-8") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_REQUEST:
            raise ProgramStartError(f"a request is a file of at most {_LARGEST_REQUEST} bytes")
        file.seek(0)
        return Program.from_json(file.read())


def _refuse_network_sockets(fds: Sequence[int]) -> None:
    """The client holds the gateway's listener, which no program must ever get: it would be a way to the host."""
    for fd in fds:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as held:
                if held.family != socket.AF_UNIX:
                    raise ProgramStartError(f"a program can't inherit a network socket (descriptor {fd})")


class Service:
    """Answers a client's requests, one packet each. See ``supervision``."""

    def __init__(self, supervisor: Supervisor, control: socket.socket) -> None:
        self._supervisor = supervisor
        self._control = control
        self._programs: dict[int, SandboxedProgram] = {}
        self._doomed: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: dict[int, asyncio.Event] = {}
        self._events = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        supervisor.on_egress = self._tell_egress
        self._loop.add_reader(control.fileno(), self._read)

    def stop_client(self) -> None:
        """Asks the client to end."""
        self._send(op="stop", id=0)

    def close(self) -> None:
        """Listens no more."""
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for task in self._tasks:
            task.cancel()

    def _read(self) -> None:
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self._control, PACKET, MAX_FDS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._loop.remove_reader(self._control.fileno())  # its end is noticed elsewhere
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            self._take(json.loads(packet), fds)

    def _take(self, packet: dict[str, Any], fds: list[int]) -> None:
        number = packet["id"]
        if packet["op"] != "start" or not fds:
            for fd in fds:
                os.close(fd)
        match packet["op"]:
            case "start" if fds:
                task = self._loop.create_task(self._run(number, str(packet["tag"]), fds))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "signal" if number in self._programs:
                self._programs[number].signal(int(packet["signal"]))
            case "kill":
                if number in self._programs:
                    self._programs[number].kill()
                else:
                    self._doomed.add(number)
            case "current":
                task = self._loop.create_task(self._tell_current(number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "heard" if number in self._heard:
                self._heard[number].set()

    async def _run(self, number: int, tag: str, fds: list[int]) -> None:
        try:
            program = _request(fds.pop(0))
            try:
                _refuse_network_sockets(fds)
                sandboxed = await self._supervisor.start(program, fds, tag)
            finally:
                for fd in fds:
                    os.close(fd)
        except Exception as error:
            if not isinstance(error, ProgramStartError):
                log.exception("program %s could not be started", tag)
            self._doomed.discard(number)
            self._send(op="failed", id=number, reason=str(error))
            return
        self._programs[number] = sandboxed
        self._send(op="started", id=number, pid=sandboxed.pid, generation=sandboxed.generation)
        if number in self._doomed:
            sandboxed.kill()
        status = ExitStatus("unknown", detail="its supervisor failed")
        try:
            status = await self._supervisor.finish(sandboxed, tag)
        finally:
            self._programs.pop(number, None)
            self._doomed.discard(number)
            self._send(op="ended", id=number, status=status.to_dict())

    async def _tell_current(self, number: int) -> None:
        try:
            generation = await self._supervisor.current()
            gone = [number for number, program in self._programs.items() if not program.is_alive]
            self._send(op="current", id=number, generation=generation, gone=gone[:_MOST_GONE])
        except ProgramStartError as error:
            self._send(op="current", id=number, generation=-1, gone=[], reason=str(error))

    async def _tell_egress(self, event: EgressEvent) -> None:
        number = next(self._events)
        heard = self._heard[number] = asyncio.Event()
        try:
            self._send(
                op="egress",
                id=number,
                tag=event.tag,
                host=event.host,
                port=event.port,
                allowed=event.allowed,
                reason=event.reason,
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEARD_SECONDS):
                    await heard.wait()
        finally:
            del self._heard[number]

    def _send(self, **packet: Any) -> None:
        try:
            self._control.send(json.dumps(packet).encode())
        except BlockingIOError:
            self._loop.call_later(0.01, lambda: self._send(**packet))
        except OSError:
            pass  # the client is gone, and we are about to follow
