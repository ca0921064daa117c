"""Commands, as the agent in a sandbox runs them. Floor: session."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ipybox.session.inside_loop import InsideLoop
from ipybox.session.inside_processes import Watched, shell_code

TIMED_OUT = 124
"""Exit code of what ran for too long, as that of the program ``timeout``."""
_CANNOT = 126
_NOT_FOUND = 127

Done = Callable[[dict[str, Any], bytes], None]


class RunningCommand:
    """A command, from its start to the answer.

    Args:
        loop: Waits.
        argv: The command.
        env: Its complete environment.
        cwd: Where it runs.
        timeout: Seconds after which it is killed with all that it started.
        done: Gets the answer.

    Raises:
        OSError: No process can be made. A command that can't be executed has an answer.
    """

    def __init__(
        self,
        loop: InsideLoop,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        timeout: float,
        done: Done,
    ) -> None:
        self._done = done
        self._began = time.monotonic()
        self._timed_out = False
        self._watched: Watched | None = None
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=err_write,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(out_read)
            os.close(err_read)
            if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE):
                raise
            return self._refuse(error)
        finally:
            os.close(out_write)
            os.close(err_write)
        process.returncode = 0  # it is reaped by the one who watches it, and not by Popen
        self._watched = Watched(loop, process.pid, (out_read, err_read), self._ended)
        self._timer = loop.after(timeout, self._expire)

    @property
    def is_running(self) -> bool:
        """Whether its answer is still to come."""
        return self._watched is not None and not self._watched.is_over

    def cancel(self) -> None:
        """Ends it; there is an answer nevertheless."""
        if self._watched is not None:
            self._watched.kill()

    def _refuse(self, error: Exception) -> None:
        is_missing = isinstance(error, FileNotFoundError)
        text = f"{error}\n".encode(errors="replace")
        self._answer(_NOT_FOUND if is_missing else _CANNOT, b"", text, truncated=False)

    def _expire(self) -> None:
        self._timed_out = True
        self.cancel()

    def _ended(self, code: int) -> None:
        assert self._watched is not None
        self._timer.cancel()
        out, out_cut = self._watched.stdout.take()
        err, err_cut = self._watched.stderr.take()
        self._watched.stdout.ignore()  # what it left in the background may write on
        self._watched.stderr.ignore()
        self._answer(TIMED_OUT if self._timed_out else shell_code(code), out, err, truncated=out_cut or err_cut)

    def _answer(self, code: int, out: bytes, err: bytes, *, truncated: bool) -> None:
        head = {
            "exit_code": code,
            "execution_time": time.monotonic() - self._began,
            "timed_out": self._timed_out,
            "truncated": truncated,
            "stdout": len(out),
        }
        self._done(head, out + err)
