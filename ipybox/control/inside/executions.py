"""Code that runs in a process of its own, as the agent holds it: handlers, shells and node. Floor: control."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from resource import struct_rusage
from typing import Any

from ipybox.control.inside import families, handler, javascript, python_process, results
from ipybox.control.inside.outputs import CHUNK, Line, Output
from ipybox.control.inside.places import COLD, FIRST, SECOND
from ipybox.process import bootstrap
from ipybox.process.late_site import PythonFacts
from ipybox.session.frames import Decoder, FrameError, value
from ipybox.session.inside_loop import InsideLoop

STOP_GRACE = 1.0
"""Seconds that a process which was told to end has to do so."""
INTERRUPT_GRACE = 3.0
"""Seconds that code which was interrupted has to end."""
MESSAGE = 2000
"""Characters of a message about how something ended."""
_BLOCK = 512
_ARGUMENT = 100_000
"""Bytes of the longest code that goes into a command line."""

Say = Callable[[dict[str, Any], bytes], None]
"""Tells the owner something about an execution."""


@dataclass(slots=True, kw_only=True)
class Ground:
    """What all executions of a sandbox stand on.

    Attributes:
        loop: Waits.
        line: Where all goes that is told.
        env: The environment of all that runs.
        python: Facts of this Python, if it has not run ``site``.
        processes: Processes and threads that code may have.
        limit: Bytes of each output, of all that is shown, and of a return value.
        body: Bytes of the largest body of a frame.
        imported: Names of what is imported already, of packages that a session may have in another version.
        known: Children of the agent, and what they are.
    """

    loop: InsideLoop
    line: Line
    env: dict[str, str]
    python: PythonFacts | None
    processes: int
    limit: int
    body: int
    imported: frozenset[str] = frozenset()
    known: dict[int, object] = field(default_factory=dict)


class Process:
    """A child of the agent that leads a session, until nothing is left of it.

    Args:
        ground: Where.
        become: Called in the child, to become what is to run; gets nothing but the descriptors that it keeps.
        theirs: Descriptors for the child; closed here.
        on_end: Called with its exit code, or minus the signal that ended it, and with what it used.

    Raises:
        OSError: No process can be made.
    """

    def __init__(
        self,
        ground: Ground,
        become: Callable[[], None],
        theirs: tuple[int, ...],
        on_end: Callable[[int, struct_rusage], None],
    ) -> None:
        self._ground, self._on_end = ground, on_end
        self.is_over = False
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        # It is ready for an interrupt when it is up; one that comes before waits until then.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    python_process.settle(out_write, err_write, keep=theirs, processes=ground.processes)
                    become()
                except BaseException as error:
                    os.write(2, f"it could not be run: {type(error).__name__}: {error}\n".encode(errors="replace"))
                finally:
                    os._exit(1)
        except OSError:
            for fd in (out_read, err_read):
                os.close(fd)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            for fd in (out_write, err_write, *theirs):
                os.close(fd)
        ground.known[self.pid] = self
        self.outputs = (out_read, err_read)
        self._pidfd = os.pidfd_open(self.pid)
        ground.loop.on_readable(self._pidfd, self._ended)

    def signal(self, signum: int) -> None:
        """Signals its group."""
        if not self.is_over:
            families.tell(self.pid, signum)

    def kill(self) -> None:
        """Ends it with all below it."""
        if not self.is_over:
            families.end(self.pid)

    def _ended(self) -> None:
        self.is_over = True
        self._ground.loop.forget(self._pidfd)
        os.close(self._pidfd)
        _, status, usage = os.wait4(self.pid, 0)
        del self._ground.known[self.pid]
        if families.end_strays(self._ground.known):
            self._ground.loop.after(0.02, self._bury)
        self._on_end(os.waitstatus_to_exitcode(status), usage)

    def _bury(self) -> None:
        if families.bury(self._ground.known):
            self._ground.loop.after(0.02, self._bury)


class Execution:
    """Runs code of one of the kinds that need no interpreter.

    Args:
        ground: Where.
        head: What is asked for.
        code: The code.
        say: Tells the owner.

    Raises:
        OSError: No process can be made.
    """

    def __init__(self, ground: Ground, head: Mapping[str, Any], code: str, say: Say) -> None:
        self._ground, self._say = ground, say
        self._stopped = ""
        self._answer: dict[str, Any] = {}
        self._value: bytes | None = None
        self._decoder = Decoder(1 << 16, ground.body)
        self._began = time.monotonic()
        timeout = value(head, "timeout", float)
        env = {**ground.env, **head["env"]}
        ours, theirs = results.pair()
        read, write = os.pipe()
        self._input = bytearray()
        become = getattr(self, f"_become_{value(head, 'kind', str)}")(code, head, env, read, theirs)
        try:
            self._process = Process(ground, become, (theirs, read), self._ended)
        except OSError:
            os.close(ours)
            os.close(write)
            raise
        self._result = ours
        os.set_blocking(ours, False)
        ground.loop.on_readable(ours, self._on_readable)
        self._feed(write)
        self._outputs = [
            Output(
                ground.loop,
                ground.line,
                fd,
                partial(self._said, name),
                ground.limit,
                partial(self._cut, name),
            )
            for name, fd in zip(("stdout", "stderr"), self._process.outputs, strict=True)
        ]
        self._timer = ground.loop.after(timeout, self._expire)
        say({"is": "began", "pid": self._process.pid}, b"")

    def interrupt(self) -> None:
        """What Ctrl-C does, and a kill if that does not help."""
        if not self._stopped:
            self._stop("interrupt", signal.SIGINT, INTERRUPT_GRACE)

    def cancel(self) -> None:
        """Ends it."""
        self._stopped = self._stopped or "cancel"
        self._process.kill()

    def _expire(self) -> None:
        if not self._stopped:
            self._stop("timeout", signal.SIGTERM, STOP_GRACE)

    def _stop(self, why: str, signum: int, grace: float) -> None:
        self._stopped = why
        self._timer.cancel()
        self._timer = self._ground.loop.after(grace, self._process.kill)
        self._process.signal(signum)

    # ---- what runs --------------------------------------------------------------------------------------------

    def _become_handler(
        self, code: str, head: Mapping[str, Any], env: Mapping[str, str], read: int, theirs: int
    ) -> Callable[[], None]:
        if python_process.needs_start(head["env"]) or python_process.has_other_versions(self._ground.imported):
            self._input += javascript.request(code, value(head, "event", str), self._ground.limit)
            command = cold_command(self._ground, "handler")

            def start() -> None:
                python_process.place({FIRST: read, SECOND: theirs})
                python_process.become_program(command, env)

            return start

        def become() -> None:
            os.close(read)
            main = python_process.become_python(env, self._ground.python, "ipybox-handler")
            line = results.ResultLine(theirs, self._ground.limit)
            handler.run(main, code, value(head, "event", str), line)

        return become

    def _become_javascript(
        self, code: str, head: Mapping[str, Any], env: Mapping[str, str], read: int, theirs: int
    ) -> Callable[[], None]:
        self._input += javascript.request(code, value(head, "event", str), self._ground.limit)

        def become() -> None:
            python_process.place({javascript.CODE_FD: read, javascript.RESULT_FD: theirs})
            python_process.become_program(javascript.command(), env)

        return become

    def _become_shell(
        self, code: str, head: Mapping[str, Any], env: Mapping[str, str], read: int, theirs: int
    ) -> Callable[[], None]:
        shell = next((path for path in ("/bin/bash", "/usr/bin/bash") if os.access(path, os.X_OK)), "/bin/sh")
        encoded = code.encode("utf-8", "surrogateescape")
        argv = [shell, "-c", code]
        if len(encoded) > _ARGUMENT:  # more than Linux takes in one argument
            self._input += encoded
            argv = [shell, "/dev/fd/3"]

        def become() -> None:
            os.close(theirs)
            if self._input:
                python_process.place({3: read})
            python_process.become_program(argv, env)

        return become

    # ---- what it says -----------------------------------------------------------------------------------------

    def _said(self, name: str, data: bytes) -> None:
        self._say({"is": name}, data)

    def _cut(self, name: str) -> None:
        self._say({"is": "truncated", "stream": name}, b"")

    def _on_readable(self) -> None:
        self._hear()

    def _hear(self) -> bool:
        try:
            data = os.read(self._result, CHUNK) if self._result >= 0 else b""
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        try:
            for head, body in self._decoder.feed(data):
                self._take(head, body)
        except FrameError:
            data = b""
        if not data:
            self._close_result()
        return bool(data)

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        kind = value(head, "is", str)
        if kind == "value":
            self._value = body
        elif kind == "bad":
            self._answer["bad"] = value(head, "message", str)[:MESSAGE]
        elif kind == "error":
            for output in self._outputs:
                output.drain()
            try:
                said = json.loads(body)
                named = {name: value(said, name, str)[:MESSAGE] for name in ("name", "value")}
            except (ValueError, RecursionError, AttributeError):
                raise FrameError("no error") from None
            self._answer |= named
            self._say({"is": "error"}, body)

    def _close_result(self) -> None:
        if self._result >= 0:
            self._ground.loop.forget(self._result)
            os.close(self._result)
            self._result = -1

    # ---- what it is told --------------------------------------------------------------------------------------

    def _feed(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._write = fd
        self._ground.loop.on_writable(fd, self._feed_more)

    def _feed_more(self) -> None:
        try:
            del self._input[: os.write(self._write, self._input[:CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            self._input.clear()
        if not self._input:
            self._stop_feeding()

    def _stop_feeding(self) -> None:
        if self._write >= 0:
            self._ground.loop.forget(self._write)
            os.close(self._write)
            self._write = -1

    # ---- its end ----------------------------------------------------------------------------------------------

    def _ended(self, code: int, usage: struct_rusage) -> None:
        self._timer.cancel()
        self._stop_feeding()
        while self._hear():
            pass
        self._close_result()
        for output in self._outputs:
            output.drain()
            output.close()
        head = {
            "is": "end",
            "code": code,
            "stopped": self._stopped,
            "has_value": self._value is not None,
            "state_lost": False,
            "usage": used(usage),
            **self._answer,
        }
        self._say(head, self._value or b"")


def cold_command(ground: Ground, *arguments: str) -> list[str]:
    """What runs in a Python of its own."""
    python = ground.python
    assert python is not None
    return bootstrap.command(
        sys.executable,
        COLD,
        json.dumps(asdict(python)),
        *arguments,
        sites=python.sites,
        ignore_environment=False,
    )


def used(usage: struct_rusage) -> dict[str, Any]:
    """What a process and those that it waited for have used."""
    return {
        "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000,
        "peak_bytes": usage.ru_maxrss * 1024,
        "read_bytes": usage.ru_inblock * _BLOCK,
        "write_bytes": usage.ru_oublock * _BLOCK,
    }
