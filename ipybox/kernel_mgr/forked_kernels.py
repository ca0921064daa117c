"""The gateway's side of a fork-server: starts it, asks it for kernels, starts it again when it is gone. Linux only.
Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ipybox.errors import PreloadError, ProgramStartError
from ipybox.kernel_mgr import warm_kernel
from ipybox.kernel_mgr.fork_server import PLACEHOLDER
from ipybox.kernel_mgr.warm_kernel import WarmSettings
from ipybox.process import family, liveness
from ipybox.process.descriptors import memory_file, readable, writable
from ipybox.process.warm import Warmth
from ipybox.sandbox.launcher import PACKET, Program

log = logging.getLogger("ipybox.kernel_mgr")

_START_SECONDS = 60.0
_FORK_SECONDS = 30.0
_ATTEMPTS = 3


class ForkedKernels:
    """Kernels that are forked from one warm Python.

    The constructor starts that Python, so that it can do its imports while others do theirs.

    Args:
        preload: Modules to import once for all kernels.
        argv: The command that a kernel would otherwise be started with.
        env: The complete environment of kernels.
        cwd: Their working directory.
    """

    def __init__(self, preload: Sequence[str], argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        settings = WarmSettings(modules=tuple(preload), argv=tuple(argv))
        self._warmth = Warmth(module=warm_kernel.MODULE, settings=settings.to_json())
        self._env = {**env, family.MARKER: PLACEHOLDER}
        self._cwd = cwd
        self.cold: str | None = None
        """Why kernels have to be executed after all; None when they need not be."""
        self._process, self._control = self._spawn()
        self._is_ready = False
        self._starting = asyncio.Lock()

    async def wait_ready(self) -> None:
        """Waits until kernels can be forked, or until it is known why they can't: see :attr:`cold`.

        Raises:
            PreloadError: A module can't be imported beforehand.
        """
        async with self._starting:
            await self._ensure()

    async def start(self, program: Program, fds: Sequence[int], kernel_id: str) -> ForkedChild | None:
        """Forks a kernel; None when it has to be executed. The descriptors stay the caller's.

        Raises:
            ProgramStartError: It could not be forked.
        """
        try:
            return await self._start(program, fds, kernel_id)
        except _ServerGoneError:
            return await self._start(program, fds, kernel_id)  # it is started again, unless somebody else did that

    async def _start(self, program: Program, fds: Sequence[int], kernel_id: str) -> ForkedChild | None:
        async with self._starting:
            try:
                await self._ensure()
            except PreloadError as error:
                raise ProgramStartError(str(error)) from error
            if self.cold is not None or len(kernel_id) != len(PLACEHOLDER):
                return None
            process = self._process
            lead, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            lead.setblocking(False)
            request = memory_file(program.to_json())
            try:
                await self._send([request, its.fileno(), *fds])
            except OSError as error:
                lead.close()
                kind = _ServerGoneError if await _is_over(process) else ProgramStartError
                raise kind(f"the fork-server can't be asked: {error}") from error
            except BaseException:
                lead.close()
                raise
            finally:
                its.close()
                os.close(request)
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                return await ForkedChild.take(lead)
        except TimeoutError:
            process.kill()  # it hangs, so nobody gets a kernel from it any more; another one takes its place
            raise ProgramStartError(f"the fork-server did not answer within {_FORK_SECONDS:g} s") from None
        except ProgramStartError as error:
            if await _is_over(process):
                raise _ServerGoneError(error.reason) from None
            raise

    def close(self) -> None:
        """Ends the fork-server, and with it every kernel that it forked."""
        self._control.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = memory_file(self._warmth.to_json())
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ipybox.kernel_mgr.fork_server", str(settings), str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self._env,
                cwd=self._cwd,
                pass_fds=[settings, its.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
            os.close(settings)
        ours.setblocking(False)
        return process, ours

    async def _ensure(self) -> None:
        if self.cold is not None:
            return
        for _ in range(_ATTEMPTS):
            if await _is_over(self._process):
                log.warning("the fork-server ended with %s and is started again", self._process.returncode)
                self._control.close()
                self._is_ready = False
                self._process, self._control = self._spawn()
            if self._is_ready:
                return
            facts = await self._first_words()
            if "ready" in facts:
                self._is_ready = True
                return
            if "preload" in facts:
                raise PreloadError(*facts["preload"])
            if "cold" in facts:
                break
            code = self._process.wait()
            if "importing" in facts:
                raise PreloadError(facts["importing"], f"importing it ended the process, with {code}")
        self.cold = str(facts.get("cold", f"the fork-server ended with {self._process.returncode}, {_ATTEMPTS} times"))
        log.warning("kernels are not forked any more: %s", self.cold)

    async def _first_words(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_START_SECONDS):
                before: dict[str, Any] = {}
                while True:
                    await readable(self._control.fileno())
                    facts: dict[str, Any] = json.loads(self._control.recv(PACKET) or b"{}")
                    if "importing" not in facts:
                        return facts or before
                    before = facts
        except TimeoutError:
            self._process.kill()
            return {"cold": f"the fork-server was not ready after {_START_SECONDS:g} s"}
        except OSError:
            return {}

    async def _send(self, fds: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(self._control, [b"start"], fds)
                return
            except BlockingIOError:
                await writable(self._control)


class _ServerGoneError(ProgramStartError):
    """The fork-server ended under our hands."""


async def _is_over(process: subprocess.Popen[bytes]) -> bool:
    """Whether a fork-server has ended. One that is ending has let go of its sockets already, and is waited for."""
    if process.poll() is None and liveness.is_ending(process.pid):
        pidfd = os.pidfd_open(process.pid)
        try:
            await readable(pidfd)
        finally:
            os.close(pidfd)
    return process.poll() is not None


class ForkedChild:
    """A kernel's process, whose parent is the fork-server.

    Args:
        lead: The socket that tells of it.
        pid: Its pid.
        pidfd: The same, as a descriptor; taken over.
    """

    def __init__(self, lead: socket.socket, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._lead = lead
        self._pidfd = pidfd

    @classmethod
    async def take(cls, lead: socket.socket) -> ForkedChild:
        """Waits until it is there. Raises :class:`ProgramStartError`."""
        try:
            await readable(lead.fileno())
            packet, fds, _, _ = socket.recv_fds(lead, PACKET, 1)
            if fds:
                return cls(lead, int(json.loads(packet)["started"]), fds[0])
        except OSError:
            packet = b""
        except BaseException:
            lead.close()
            raise
        lead.close()
        facts = json.loads(packet or b"{}")
        raise ProgramStartError(facts.get("error", "the fork-server ended while it was asked for a kernel"))

    @property
    def is_alive(self) -> bool:
        """Whether it is there."""
        return liveness.is_alive(self.pid, self._pidfd)

    async def ended(self) -> None:
        """Waits for its end, which is not collected yet."""
        await readable(self._pidfd)

    async def collect(self) -> int | None:
        """Lets its pid go; returns its exit code, or minus its signal. None when nobody knows, because the
        fork-server is gone."""
        code: int | None = None
        try:
            await readable(self._lead.fileno())
            packet = self._lead.recv(PACKET)
            code = int(json.loads(packet)["exit"]) if packet else None
        except OSError:
            pass
        self._lead.close()
        os.close(self._pidfd)
        return code
