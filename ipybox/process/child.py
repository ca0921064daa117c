"""Start a command under a warden, hear when it is ready, keep its last words, end it. Floor: process.

Everything here blocks, and is meant to run in a thread: an owner may enter in one event loop and leave in another.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ipybox.process import warded, warden
from ipybox.process.descriptors import owner_descriptor

_TAIL_LINES = 40
_LINE_BYTES = 8192
_LAST_PATIENCE = 5.0


class ChildProcess:
    """A command and everything below it, which all end with this process.

    Args:
        command: What to run; the first item is an absolute path.
        env: Its complete environment.
        pass_fds: Descriptors that it inherits, under the same numbers.
        remove: A directory that is removed when all of it is gone, also when this process was killed.
        prepare: Called before it is run, and makes that directory; see :func:`ipybox.process.warded.start`.
        on_line: Called with each line that it writes, in a thread of ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        remove: Path | None = None,
        prepare: Callable[[], None] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._on_line = on_line
        self._remove = remove
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        owner_fd, self._lifeline = owner_descriptor()
        options = ["--owner-fd", str(owner_fd)]
        if "LC_CTYPE" not in env:
            options += ["--unset", "LC_CTYPE"]  # Python's start adds it, and the environment is to be what was given
        if remove is not None:
            options += ["--remove", str(remove)]
        try:
            self._process = warded.start(
                options,
                command,
                pass_fds=[owner_fd, *pass_fds],
                prepare=prepare,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
            )
        except BaseException:
            self._close_lifeline()
            raise
        finally:
            os.close(owner_fd)
        self._pump = threading.Thread(target=self._read_lines, name="ipybox-log", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        """The warden's pid, which is the parent of the command."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the warden still runs."""
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for all of it to end and returns the command's exit status; raises ``TimeoutExpired``."""
        return self._process.wait(timeout)

    def last_lines(self) -> str:
        """The last lines that it wrote. After its end: all that it wrote last."""
        if not self.is_alive:
            self._pump.join(timeout=2)
        return "\n".join(self._tail)

    def stop(self, timeout: float) -> None:
        """Ends all of it: politely, then by force after ``timeout`` seconds. Does nothing the second time."""
        try:
            if self.is_alive:
                self._process.terminate()
                if not self._is_over_after(timeout):
                    self._process.send_signal(signal.SIGQUIT)  # no more patience
                    self._process.send_signal(signal.SIGCONT)
                    if not self._is_over_after(_LAST_PATIENCE):
                        self._kill()
        finally:
            self._close_lifeline()
            if self._remove is not None:
                with suppress(OSError):  # the warden did it, unless it could not
                    warden.remove_tree(str(self._remove))
            self._pump.join(timeout=2)
            if self._process.stdout is not None and not self._pump.is_alive():
                self._process.stdout.close()

    def _is_over_after(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _kill(self) -> None:
        """The warden does not end its family; do it from here, as far as it can be seen now."""
        for pid in (*warden.descendants(self.pid, warden.parents()), self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self._process.wait()

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def _read_lines(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while line := stream.readline(_LINE_BYTES):
            text = line.decode("utf-8", "replace").rstrip("\n")
            self._tail.append(text)
            if self._on_line is not None:
                try:
                    self._on_line(text)
                except Exception:  # whatever it is, a writer must never find its pipe full
                    logging.getLogger("ipybox.gateway").debug("a line of the log was not taken", exc_info=True)
