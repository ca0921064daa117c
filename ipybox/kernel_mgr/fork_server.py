"""Forks kernels that have no sandbox, on request of the gateway: ``fork_server SETTINGS CONTROL``. Linux only.
Floor: kernel_mgr.

A single thread. A request is one packet with descriptors: a JSON file, the *lead*, then what the kernel inherits. The
lead is a socket between us and the gateway, for one kernel: ``started`` comes with its pidfd, ``exit`` says how it
ended. A kernel that ended is collected when the gateway closes its lead: until then nobody else can get its pid.
Sandboxed kernels are forked by ``sandbox.launcher``.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ipybox.errors import PreloadError
from ipybox.process import child_setup, family, warm
from ipybox.sandbox import confine
from ipybox.sandbox.launcher import MAX_FDS, PACKET, Program

PLACEHOLDER = "0" * 36
"""Value of the family's marker in this process's environment: as long as the id of a kernel."""
_ENV_START, _ENV_END = 49, 50
"""Fields of ``/proc/self/stat``, see proc(5), counted from 0."""


@dataclass
class _Kernel:
    pid: int
    pidfd: int
    lead: socket.socket
    is_over: bool = False
    is_let_go: bool = False


class ForkServer:
    """Forks kernels and follows them.

    Args:
        control: The socket to the gateway.
        run: What a fork calls.
    """

    def __init__(self, control: socket.socket, run: warm.Run) -> None:
        self._control = control
        self._run = run
        self._marker = find_marker()
        # Two descriptors for each kernel. Kernels get back the limit that they would have had.
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._limit[1], self._limit[1]))
        self._poll = select.poll()
        self._by_pidfd: dict[int, _Kernel] = {}
        self._by_lead: dict[int, _Kernel] = {}

    def serve(self) -> None:
        """Serves until the gateway is gone."""
        self._poll.register(self._control.fileno(), select.POLLIN)
        _send(self._control, ready=True)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._control.fileno():
                    if not self._take_request():
                        return
                elif fd in self._by_pidfd:
                    self._ended(self._by_pidfd[fd])
                elif fd in self._by_lead:
                    self._let_go(self._by_lead[fd])

    def _take_request(self) -> bool:
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, 64, MAX_FDS)
        except ConnectionResetError:  # who owns us went before it had read what we said
            return False
        if not packet:
            return False
        if len(fds) < 2:  # out of descriptors; who asked sees the end of the lead
            for fd in fds:
                os.close(fd)
            return True
        lead = socket.socket(fileno=fds[1])
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes; those that run are not to suffer from it
            _send(lead, error=f"no process can be made: {error.strerror}")
            pid = -1
        if pid == 0:
            self._become(fds[0], lead, fds[2:], parent)
        for fd in (fds[0], *fds[2:]):
            os.close(fd)
        if pid < 0:
            lead.close()
            return True
        pidfd = os.pidfd_open(pid)
        kernel = _Kernel(pid, pidfd, lead)
        self._by_pidfd[pidfd] = self._by_lead[lead.fileno()] = kernel
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(lead.fileno(), select.POLLIN)
        _send(lead, [pidfd], started=pid)
        return True

    def _ended(self, kernel: _Kernel) -> None:
        self._poll.unregister(kernel.pidfd)
        del self._by_pidfd[kernel.pidfd]
        os.close(kernel.pidfd)
        kernel.is_over = True
        how = os.waitid(os.P_PID, kernel.pid, os.WEXITED | os.WNOWAIT)
        assert how is not None
        _send(kernel.lead, exit=how.si_status if how.si_code == os.CLD_EXITED else -how.si_status)
        self._collect(kernel)

    def _let_go(self, kernel: _Kernel) -> None:
        """The gateway closed the lead."""
        self._poll.unregister(kernel.lead.fileno())
        del self._by_lead[kernel.lead.fileno()]
        kernel.is_let_go = True
        if not kernel.is_over:  # it gave up a kernel that runs
            signal.pidfd_send_signal(kernel.pidfd, signal.SIGKILL)
        self._collect(kernel)

    def _collect(self, kernel: _Kernel) -> None:
        if kernel.is_over and kernel.is_let_go:
            os.waitpid(kernel.pid, 0)
            kernel.lead.close()

    def _become(self, request: int, lead: socket.socket, fds: list[int], parent: int) -> None:
        """The forked process. Never returns."""
        try:
            os.setsid()
            with os.fdopen(request, encoding="utf-8") as file:
                file.seek(0)
                program = Program.from_json(file.read())
            env = {**program.env, "JPY_PARENT_PID": str(parent)}
            lead_fd, moved = child_setup.set_aside(fds, lead.detach(), program.fds)
            child_setup.place(moved, program.fds)
            child_setup.default_signals()
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)
            _write(self._marker, env[family.MARKER])
            confine.process_name("ipybox-kernel")
            os.chdir(program.cwd)
        except BaseException as error:
            os.write(2, f"the fork could not become a kernel: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os.close(lead_fd)
        self._run(env)


def find_marker() -> int:
    """Where the marker's value is in the environment that this process was started with.

    That is what ``/proc`` shows of a process, whatever it does to its environment later, and so of its forks.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[_ENV_START - 2]), int(fields[_ENV_END - 2])
    needle = f"{family.MARKER}={PLACEHOLDER}\0".encode()
    found = ctypes.string_at(start, end - start).find(needle)
    if found < 0:
        raise RuntimeError(f"the environment has no {family.MARKER} to be filled in")
    return start + found + len(family.MARKER) + 1


def _write(address: int, marker: str) -> None:
    data = marker.encode()
    if len(data) != len(PLACEHOLDER):
        raise ValueError(f"a kernel's id has {len(PLACEHOLDER)} characters, not {marker!r}")
    ctypes.memmove(address, data, len(data))


def _send(sock: socket.socket, fds: Sequence[int] = (), **facts: Any) -> None:
    try:
        socket.send_fds(sock, [json.dumps(facts).encode()[:PACKET]], fds)
    except OSError:
        pass  # the gateway is gone, or has let go of this kernel; either is noticed where we read


def main(arguments: Sequence[str]) -> int:
    """Gets warm and serves."""
    control = socket.socket(fileno=int(arguments[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it goes with the gateway
    with os.fdopen(int(arguments[0]), encoding="utf-8") as file:
        warmth = warm.Warmth.from_json(file.read())
    try:
        server = ForkServer(control, warm.prepare(warmth, lambda name: _send(control, importing=name)))
    except PreloadError as error:
        _send(control, preload=[error.module, error.reason])
        return 1
    except Exception as error:  # not as we know it: kernels are executed then
        _send(control, cold=f"{type(error).__name__}: {error}"[:1000])
        return 1
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
