"""Asking a supervisor for sandboxed programs, from the process that it supervises. Linux only. Floor: sandbox.

One packet is one JSON object, over a socket that keeps packets apart. To the supervisor: ``start`` (with descriptors:
the program as JSON, then what it inherits), ``signal``, ``kill``, ``heard``, ``current``. From it: ``started``,
``failed``, ``ended``, ``current``, ``stop``, and ``egress``, which it wants confirmed by ``heard`` before the program
is told.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.process.descriptors import memory_file, writable
from ipybox.sandbox.launcher import Program

PACKET = 65536

OnEgress = Callable[[dict[str, Any]], None]


class SupervisorLink:
    """The connection to the supervisor, in one event loop.

    Args:
        fd: Our end of the socket; taken over.
        on_egress: Called with what the egress proxy decided for a program: ``tag``, ``host``, ``port``, ``allowed``,
            ``reason``.
    """

    def __init__(self, fd: int, on_egress: OnEgress | None = None) -> None:
        self.on_egress = on_egress
        self.on_stop: Callable[[], None] | None = None
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._ids = itertools.count(1)
        self._programs: dict[int, RemoteProgram] = {}
        self._current: dict[int, asyncio.Future[int]] = {}
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._sending = asyncio.Lock()
        self._loop.add_reader(self._socket.fileno(), self._read)

    async def start(self, program: Program, fds: Sequence[int], tag: str) -> RemoteProgram:
        """Starts a program; the descriptors stay the caller's.

        Raises:
            ProgramStartError: It did not start.
        """
        number = next(self._ids)
        remote = self._programs[number] = RemoteProgram(self, number)
        request = memory_file(program.to_json())
        try:
            packet = json.dumps({"op": "start", "id": number, "tag": tag}).encode()
            async with self._sending:  # two that wait for one socket would not both be woken
                while self._open:
                    try:
                        socket.send_fds(self._socket, [packet], [request, *fds])
                        break
                    except BlockingIOError:
                        await writable(self._socket)
            if not self._open:
                raise ProgramStartError("the sandbox's supervisor is gone")
            await remote.started
        except OSError as error:
            self._programs.pop(number, None)
            raise ProgramStartError(f"the sandbox's supervisor is gone: {error}") from error
        except BaseException:
            self.send(op="kill", id=number)
            raise
        finally:
            os.close(request)
        return remote

    async def current(self) -> int:
        """Has the supervisor look again at what programs see; returns a number that grows when that has changed.

        It also says which programs are gone, before their ends are told: see :attr:`RemoteProgram.is_alive`.

        A program of an older :attr:`RemoteProgram.generation` may see what it is not to see any more. -1 means that
        none can be started now.
        """
        number = next(self._ids)
        answer = self._current[number] = self._loop.create_future()
        try:
            self.send(op="current", id=number)
            return await answer if self._open else -1
        finally:
            self._current.pop(number, None)

    def send(self, **packet: Any) -> None:
        """Sends a small packet. A supervisor that is gone has ended its programs."""
        if self._open:
            try:
                self._socket.send(json.dumps(packet).encode())
            except BlockingIOError:
                self._loop.call_later(0.01, lambda: self.send(**packet))
            except OSError:
                pass

    def close(self) -> None:
        """Lets go; the supervisor ends what still runs."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        while self._open:
            try:
                packet = self._socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.close()
                for remote in list(self._programs.values()):
                    remote.take_failed("the sandbox's supervisor is gone")
                self._programs.clear()
                for answer in self._current.values():
                    if not answer.done():
                        answer.set_result(-1)
                return
            self._take(json.loads(packet))

    def _take(self, packet: dict[str, Any]) -> None:
        if packet["op"] == "stop":
            if self.on_stop is not None:
                self.on_stop()
            return
        if packet["op"] == "egress":
            try:
                if self.on_egress is not None:
                    self.on_egress(packet)
            finally:
                self.send(op="heard", id=packet["id"])
            return
        if packet["op"] == "current":
            for number in packet.get("gone", ()):
                if number in self._programs:
                    self._programs[number].is_alive = False
            answer = self._current.get(packet["id"])
            if answer is not None and not answer.done():
                answer.set_result(int(packet["generation"]))
            return
        remote = self._programs.get(packet["id"])
        if remote is None:
            return
        if packet["op"] == "started":
            remote.take_started(packet["pid"], packet.get("generation", 0))
        else:
            self._programs.pop(packet["id"])
            if packet["op"] == "failed":
                remote.take_failed(packet["reason"])
            else:
                remote.take_ended(ExitStatus.from_dict(packet["status"]))


class RemoteProgram:
    """A program that the supervisor runs for us."""

    def __init__(self, link: SupervisorLink, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        """Its pid on the machine, as the supervisor sees it."""
        self.is_alive = True
        """Whether it was there at the last :meth:`SupervisorLink.current`."""
        self.generation = 0
        """Which view it sees, see :meth:`SupervisorLink.current`."""
        self.started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[ExitStatus] = loop.create_future()
        self._link = link
        self._number = number
        self._verdict: ExitStatus | None = None

    def signal(self, signum: int) -> None:
        """Signals its process group. Does nothing when it is gone."""
        if not self._ended.done():
            self._link.send(op="signal", id=self._number, signal=signum)

    def kill(self, verdict: ExitStatus | None = None) -> None:
        """Ends it and all that it started."""
        if not self._ended.done():
            self._verdict = self._verdict or verdict
            self._link.send(op="kill", id=self._number)

    async def ended(self) -> ExitStatus:
        """Waits until all of it is gone, and says how it ended."""
        return await asyncio.shield(self._ended)

    def take_started(self, pid: int, generation: int = 0) -> None:
        """It runs."""
        self.pid, self.generation = pid, generation
        if not self.started.done():
            self.started.set_result(None)

    def take_failed(self, reason: str) -> None:
        """It does not, or nobody can tell any more."""
        if not self.started.done():
            self.started.set_exception(ProgramStartError(reason))
            self.started.exception()  # whoever waits gets it; nobody has to
        self.take_ended(ExitStatus("unknown", detail=reason))

    def take_ended(self, status: ExitStatus) -> None:
        """It is gone."""
        self.is_alive = False
        if not self._ended.done():
            self._ended.set_result(self._verdict or status)
