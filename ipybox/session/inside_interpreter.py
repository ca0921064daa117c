"""The Python interpreter of a sandbox, as the agent holds it: a child that keeps variables. Floor: session.

It is forked, so it begins with what the agent has imported; it can be interrupted, and replaced when it is gone. What
it says is as untrusted as the code that it runs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ipybox.session import interpreter
from ipybox.session.frames import Decoder, FrameError, frame, optional, value
from ipybox.session.inside_commands import TIMED_OUT, Done
from ipybox.session.inside_loop import CHUNK, InsideLoop, Outbox, Timer
from ipybox.session.inside_processes import Watched, shell_code

GRACE = 3.0
"""Seconds that interrupted code has to end; after that its interpreter is replaced."""


@dataclass
class _Turn:
    done: Done
    began: float
    timer: Timer
    timeout: float
    stopped: str = ""
    """Why the code was interrupted: ``timeout`` or ``cancel``; empty if it was not."""


class InsideInterpreter:
    """Runs code in one process, as long as that lives.

    Args:
        loop: Waits.
        become: Called in the fork, to become the interpreter: with the descriptors of its code and of its answers.

    Raises:
        OSError: No process can be made.
    """

    def __init__(self, loop: InsideLoop, become: Callable[[int, int], None]) -> None:
        self._loop = loop
        self._turn: _Turn | None = None
        self._decoder = Decoder()
        self._after_stop = False
        self.is_over = False
        code_read, code_write = os.pipe()
        said_read, said_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        theirs, ours = (code_read, said_write, out_write, err_write), (code_write, said_read, out_read, err_read)
        # The interpreter is ready for an interrupt when it is up; one that comes before waits until then.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            pid = os.fork()
        except OSError:
            _close(ours)
            raise
        else:
            if pid == 0:
                interpreter.settle(out_write, err_write, keep=(code_read, said_write))
                become(code_read, said_write)
                os._exit(1)
        finally:
            _close(theirs)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        self._said, self._code = said_read, code_write
        os.set_blocking(said_read, False)
        loop.on_readable(said_read, self._hear)
        self._outbox = Outbox(loop, code_write, lambda: None)  # its end is seen in another way
        self._watched = Watched(loop, pid, (out_read, err_read), self._ended)

    @property
    def is_busy(self) -> bool:
        """Whether it runs code."""
        return self._turn is not None

    def run(self, code: bytes, env: Mapping[str, str], cwd: str | None, timeout: float, done: Done) -> None:
        """Runs code; one at a time."""
        assert self._turn is None
        timer = self._loop.after(timeout, lambda: self._stop("timeout"))
        self._turn = _Turn(done, time.monotonic(), timer, timeout)
        self._outbox.put(frame({"env": dict(env), "cwd": cwd, "after_stop": self._after_stop}, code))

    def cancel(self) -> None:
        """Interrupts the code; there is an answer nevertheless."""
        self._stop("cancel")

    def kill(self) -> None:
        """Ends it."""
        self._watched.kill()

    def _stop(self, why: str) -> None:
        if self._turn is not None and not self._turn.stopped:
            self._turn.stopped = why
            self._turn.timer.cancel()
            self._turn.timer = self._loop.after(GRACE, self._watched.kill)
            self._watched.interrupt()

    def _hear(self) -> None:
        try:
            data = os.read(self._said, CHUNK)
        except BlockingIOError:
            return
        if not data:  # it is about to end, or code has closed what was not its own
            self._close_pipes()
            return self._watched.kill()
        try:
            for head, _ in self._decoder.feed(data):
                self._take(head)
        except FrameError:
            self._close_pipes()
            self._watched.kill()

    def _take(self, head: dict[str, Any]) -> None:
        exit_code = value(head, "exit_code", int)
        self._answer(
            {
                "exit_code": exit_code,
                "result": optional(head, "result", str),
                "error": optional(head, "error", str),
                "rich": value(head, "rich", list),
                "rich_dropped": value(head, "rich_dropped", bool),
                "state_lost": False,
            }
        )

    def _ended(self, code: int) -> None:
        self.is_over = True
        self._close_pipes()
        exit_code = shell_code(code)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        error = f"the interpreter ended with {how}; variables are lost, the next code gets a new one"
        # Code that ends its interpreter did not come to its end, so that is no success.
        head: dict[str, Any] = {
            "exit_code": exit_code or 1,
            "result": None,
            "error": error,
            "rich": [],
            "rich_dropped": False,
        }
        self._answer({**head, "state_lost": True})
        for output in (self._watched.stdout, self._watched.stderr):
            output.ignore()

    def _answer(self, head: dict[str, Any]) -> None:
        if self._turn is None:
            return
        turn, self._turn = self._turn, None
        turn.timer.cancel()
        self._after_stop = bool(turn.stopped)
        if turn.stopped:
            self._watched.kill_others()  # those that it has started do not go on without it
        out, out_cut = self._watched.stdout.take()
        err, err_cut = self._watched.stderr.take()
        note = head["error"] if head["state_lost"] else None
        if turn.stopped == "timeout":
            head["exit_code"] = TIMED_OUT
            fate = f"; {note}" if note else ""
            note = head["error"] = f"it ran for longer than {turn.timeout:g} s, so it was interrupted{fate}"
        if note is not None:
            err += f"{note}\n".encode()
        turn.done(
            {
                **head,
                "execution_time": time.monotonic() - turn.began,
                "timed_out": turn.stopped == "timeout",
                "truncated": out_cut or err_cut or head["rich_dropped"],
                "stdout": len(out),
            },
            out + err,
        )

    def _close_pipes(self) -> None:
        if self._said >= 0:
            self._loop.forget(self._said)
            self._loop.forget(self._code)
            _close((self._said, self._code))
            self._said = self._code = -1


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
