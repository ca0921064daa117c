"""Processes that the agent in a sandbox has started, and how it ends them. Floor: session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ipybox.session.inside_loop import Capture, InsideLoop


class Watched:
    """A process that leads a session of its own, with its two outputs.

    Args:
        loop: Waits.
        pid: A child of ours, that nobody else reaps.
        outputs: Where its stdout and its stderr can be read; taken over.
        on_end: Called with its exit code, or minus the signal that ended it.
    """

    def __init__(self, loop: InsideLoop, pid: int, outputs: tuple[int, int], on_end: Callable[[int], None]) -> None:
        self._loop, self._on_end = loop, on_end
        self.pid = pid
        self.stdout, self.stderr = (Capture(loop, fd) for fd in outputs)
        self._pidfd = os.pidfd_open(pid)
        self.is_over = False
        loop.on_readable(self._pidfd, self._ended)

    def interrupt(self) -> None:
        """What Ctrl-C does in a terminal."""
        if not self.is_over:
            try:
                os.killpg(self.pid, signal.SIGINT)
            except ProcessLookupError:
                os.kill(self.pid, signal.SIGINT)  # it has not got its group yet

    def kill(self) -> None:
        """Ends it with its group, its session and all below it. What has made itself a daemon is not among them."""
        if not self.is_over:
            below = _family(self.pid)
            for send, pid in ((os.killpg, self.pid), *((os.kill, each) for each in below)):
                with suppress(ProcessLookupError, PermissionError):
                    send(pid, signal.SIGKILL)

    def kill_others(self) -> None:
        """Ends the others of its group, which it started, but not itself."""
        if self.is_over:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGSTOP)  # who is stopped makes no more of them while they are ended
        for pid, facts in _processes().items():
            if facts.group == self.pid and pid != self.pid:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGCONT)

    def _ended(self) -> None:
        self.is_over = True
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self._on_end(os.waitstatus_to_exitcode(status))


class _Facts(NamedTuple):
    parent: int
    group: int
    session: int


def _processes() -> dict[int, _Facts]:
    found: dict[int, _Facts] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, TypeError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = _Facts(*map(int, file.read().rpartition(b") ")[2].split(maxsplit=4)[1:4]))
    return found


def _family(leader: int) -> set[int]:
    """Who is in a session, or below its leader."""
    facts = _processes()
    found = {leader} | {pid for pid, each in facts.items() if each.session == leader}
    grown = True
    while grown:
        more = {pid for pid, each in facts.items() if each.parent in found} - found
        found |= more
        grown = bool(more)
    return found


def shell_code(code: int) -> int:
    """How a shell says it: 128 and the signal, where one ended the process."""
    return code if code >= 0 else 128 - code
