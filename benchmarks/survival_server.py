"""A server in a process of its own that is killed again and again, and all that runs below it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parent.parent
_IPYBOX = (sys.executable, "-c", "from ipybox.cli import main; main()")
_GONE = 2.0
_PR_SET_CHILD_SUBREAPER = 36


class ViolationError(Exception):
    """A promise was broken."""


def adopt_orphans() -> None:
    """Has all that a dead server leaves behind become children of this process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Server:
    """A server that is started, killed and started again over the same state."""

    def __init__(self, place: Path, database: str | None) -> None:
        self.state, self._log, self.temporary = place / "state", place / "log", place / "tmp"
        self.temporary.mkdir()
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "IPYBOX_"))}
        self._env.update(
            TMPDIR=str(self.temporary),
            IPYBOX_RATE_LIMIT="1000000/second",
            IPYBOX_CONSOLE="false",
            IPYBOX_MIN_FREE_BYTES="1000000",
            PYTHONPATH=str(_ROOT),
            **({"IPYBOX_DATABASE_URL": database} if database else {}),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def launch(self) -> None:
        """Begins to start it."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*_IPYBOX, "serve", "--port", "0", "--state-dir", str(self.state)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
            )

    def wait_ready(self) -> None:
        """Until it answers."""
        assert self._process is not None
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url.startswith("http://"):
            raise ViolationError(f"the server does not start: {self.said()}")

    def said(self, size: int = 3000) -> str:
        """The end of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-size:]

    def has_ended(self) -> bool:
        """Whether it has, by itself."""
        return self._process is not None and self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        assert self._process is not None
        self._process.terminate()

    @property
    def memory(self) -> int:
        """Bytes of itself and all that it has started; what they share counts once."""
        assert self._process is not None
        each: Iterable[psutil.Process] = [psutil.Process(self._process.pid), *_family()]
        return sum(process.memory_full_info().pss for process in set(each))

    def kill(self) -> float:
        """SIGKILL. Gives the seconds until nothing of it was left: orphans become children of this process."""
        process, self._process = self._process, None
        if process is None:
            return 0.0
        began = time.monotonic()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        while left := _family():
            if time.monotonic() - began > _GONE:
                said = [f"{each.pid} {' '.join(_command(each))[:150]}" for each in left]
                raise ViolationError(f"still there {_GONE:g} s after the kill: {said}")
            time.sleep(0.005)
        return time.monotonic() - began

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        code = process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
        if left := _family():
            raise ViolationError(f"still there after its end: {[_command(each) for each in left]}")
        return code


def _family() -> list[psutil.Process]:
    """Whatever runs below this process. The dead ones are buried."""
    left = []
    for each in psutil.Process().children(recursive=True):
        try:
            if each.status() != psutil.STATUS_ZOMBIE:
                left.append(each)
            elif each.ppid() == os.getpid():
                os.waitpid(each.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue
    return left


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ["?"]
