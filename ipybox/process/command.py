"""One command under a warden, with its own stdin, stdout and stderr. Floor: process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ipybox.exit_status import ExitStatus
from ipybox.process import warded, warden
from ipybox.process.descriptors import owner_descriptor

_CHUNK = 4096
_PATIENCE_SECONDS = 5.0
"""A warden that was told to hurry needs much less, unless it has to undo something, or somebody keeps it from that."""


class ExecError(OSError):
    """A command itself can't be executed: it is not there, or is no program, or may not be run."""


class WardedCommand:
    """A command and everything below it, which all end with this process, also when that is killed.

    Args:
        argv: What to run; looked up in the ``PATH`` of ``env``.
        env: Its complete environment.
        cwd: Where it runs.
        stdio: Its stdin, stdout and stderr, as descriptors that stay the caller's.
        grace: Seconds between being asked to end and being killed.
        remove: A directory that is removed when all of it is gone.
        prepare: Called before it is run, and makes that directory; see :func:`ipybox.process.warded.start`.
        cpu_time: Seconds of processor time of each of its processes.
        undo: A command that is run when it did not end by itself, for what is not below it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        stdio: tuple[int, int, int],
        grace: float,
        remove: str | None = None,
        prepare: Callable[[], None] | None = None,
        cpu_time: int | None = None,
        undo: Sequence[str] | None = None,
    ) -> None:
        self.pid: int | None = None
        """Pid of the command, once :meth:`started` has returned."""
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._status: ExitStatus | None = None
        self._said = b""
        self._early: list[int] = []
        self._last_resort: asyncio.TimerHandle | None = None
        self._patience = _PATIENCE_SECONDS + (warden.UNDO_SECONDS if undo is not None else 0.0)
        status, status_write = os.pipe()
        try:
            owner_fd, self._lifeline = owner_descriptor()
        except BaseException:
            os.close(status)
            os.close(status_write)
            raise
        options: dict[str, str] = {
            "--owner-fd": str(owner_fd),
            "--status-fd": str(status_write),
            "--session": "yes",
            "--grace": str(grace),
            "--cwd": cwd,
        }
        # Python's start changes it, and the environment is to be what was given.
        if "LC_CTYPE" in env:
            options["--lc-ctype"] = env["LC_CTYPE"]
        else:
            options["--unset"] = "LC_CTYPE"
        if remove is not None:
            options["--remove"] = remove
        if cpu_time is not None:
            options["--cpu-time"] = str(cpu_time)
        if undo is not None:
            options["--undo"] = json.dumps(list(undo))
        words = [word for option in options.items() for word in option]
        try:
            self._process = warded.start(
                words,
                argv,
                pass_fds=[owner_fd, status_write],
                prepare=prepare,
                stdin=stdio[0],
                stdout=stdio[1],
                stderr=stdio[2],
                env=dict(env),
            )
        except BaseException:
            os.close(status)
            self._close_lifeline()
            raise
        finally:
            os.close(owner_fd)
            os.close(status_write)
        os.set_blocking(status, False)
        self._status_fd = status
        self._loop.add_reader(status, self._read)

    @property
    def warden_pid(self) -> int:
        """Pid of the process that everything of the command is below."""
        return self._process.pid

    async def started(self) -> None:
        """Waits until the command was executed.

        Raises:
            ExecError: It can't be.
            OSError: It could not be started for another reason.
        """
        await asyncio.shield(self._started)

    async def ended(self) -> ExitStatus:
        """Waits until the command and all below it are gone, and says how the command ended."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Asks it to end, and ends all of it by force when its grace is over."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends all of it by force, with its warden or without."""
        self._signal(signal.SIGQUIT)
        if not self._ended.done():
            self._process.send_signal(signal.SIGCONT)  # its command may have stopped it, also before it said a word
            if self._last_resort is None:
                self._last_resort = self._loop.call_later(self._patience, self._kill_all)

    def _signal(self, signum: int) -> None:
        if not self._started.done():
            self._early.append(signum)  # the warden may not listen yet, and would end without its duties done
        elif not self._ended.done():
            self._process.send_signal(signum)

    def _read(self) -> None:
        try:
            data = os.read(self._status_fd, _CHUNK)
        except BlockingIOError:
            return
        self._said += data
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            self._take(json.loads(line))
            while self._early and self._started.done():
                self._signal(self._early.pop(0))
        if not data:
            self._close()

    def _take(self, facts: dict[str, Any]) -> None:
        if "error" in facts:
            kind = ExecError if facts["is_exec"] else OSError
            self._started.set_exception(kind(facts["errno"], facts["error"]))
            self._started.exception()  # whoever waits gets it; nobody has to
        elif "pid" in facts:
            self.pid = facts["pid"]
            self._started.set_result(None)
        elif facts.get("status") is not None:
            self._status = ExitStatus.from_returncode(os.waitstatus_to_exitcode(facts["status"]))

    def _close(self) -> None:
        """The warden is gone, or about to be."""
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._loop.remove_reader(self._status_fd)
        os.close(self._status_fd)
        code = self._process.wait()
        self._close_lifeline()
        if self._status is None:  # the warden was killed; its command was asked to end by the system
            self._kill_what_is_left()
            self._status = ExitStatus("unknown", detail=f"its warden ended with {code}")
        if not self._started.done():
            self._started.set_exception(OSError(0, str(self._status)))
            self._started.exception()
        self._ended.set_result(self._status)

    def _kill_all(self) -> None:
        """The warden does not do it; do it from here, as far as it can be seen now."""
        if not self._ended.done():
            for pid in (*warden.descendants(self.warden_pid, warden.parents()), self.warden_pid):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _kill_what_is_left(self) -> None:
        if self.pid is not None:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
