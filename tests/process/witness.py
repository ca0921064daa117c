"""Small real programs that misbehave on order, and a pipe that tells when all of them are gone."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 10.0
"""Seconds for something that happens at once on a machine that is not busy."""

needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has subreapers, pidfds and /proc"
)

PREAMBLE = """
import os, signal, sys, time
witness = int(sys.argv[1])
def here():
    os.write(witness, b"%d\\n" % os.getpid())
def forever():
    while True:
        signal.pause()
def child(work):
    if os.fork() == 0:
        work()
        os._exit(0)
def stay():
    here()
    forever()
def stay_apart():
    os.setsid()
    stay()
def daemonize():
    os.setsid()
    child(stay)
def ignore(*signums):
    for signum in signums:
        signal.signal(signum, signal.SIG_IGN)
def run_away(seconds=3):
    # A process that is never there for long: it forks and ends, and its child does the same.
    here()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
def be_headless(seconds=3):
    # Its first thread ends, so it looks like a zombie, and its second one goes on.
    import ctypes, threading
    def go_on():
        while b") Z " not in open("/proc/self/stat", "rb").read():
            pass
        here()
        time.sleep(seconds)
        os._exit(0)
    threading.Thread(target=go_on).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


class Witness:
    """A pipe that a whole family of processes holds. Each writes its pid, and it ends when the last of them is gone."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()
        self._told = b""

    def program(self, code: str, *arguments: str) -> list[str]:
        """A command that runs Python code with the helpers of :data:`PREAMBLE`."""
        return [sys.executable, "-I", "-S", "-c", PREAMBLE + code, str(self.fd), *arguments]

    def left_to_them(self) -> None:
        """The family was started: from now on only it holds the pipe."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def pids(self, count: int) -> list[int]:
        """Waits until so many processes have said that they are here."""
        while self._told.count(b"\n") < count:
            assert self._hear(PATIENCE), f"only heard {self._told!r}"
        return [int(line) for line in self._told.split()]

    def all_gone(self, patience: float = PATIENCE) -> bool:
        """Whether all of them are gone, at the latest after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while self._hear(max(0.0, deadline - time.monotonic())):
            pass
        return self._ended

    def close(self) -> None:
        """Ends whoever still holds the pipe: a test that failed leaves nothing behind either."""
        self.left_to_them()
        if not self.all_gone(0) and sys.platform.startswith("linux"):
            for pid in self._holders():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        os.close(self._read)

    def _holders(self) -> list[int]:
        pipe = os.readlink(f"/proc/self/fd/{self._read}")
        found = []
        for directory in Path("/proc").glob("[0-9]*/fd"):
            try:
                links = [os.readlink(link) for link in directory.iterdir()]
            except OSError:
                continue  # it ended meanwhile
            if pipe in links and directory.parent.name != str(os.getpid()):
                found.append(int(directory.parent.name))
        return found

    def _hear(self, patience: float) -> bool:
        self._ended = False
        if not select.select([self._read], [], [], patience)[0]:
            return False
        data = os.read(self._read, 65536)
        self._told += data
        self._ended = not data
        return bool(data)


def ends(pid_fd: int, patience: float = PATIENCE) -> bool:
    """Whether the process behind a pidfd ends, at the latest after ``patience`` seconds."""
    return bool(select.select([pid_fd], [], [], patience)[0])
