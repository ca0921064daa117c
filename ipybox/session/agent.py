"""Serves one sandbox from inside: files, commands, and an interpreter. A warm module. Floor: session.

It is forked from the launcher and is confined as all that it starts is. It can't be looked into by that, and nothing
inherits its two pipes; killing it ends the sandbox, which code that may run there is free to do.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from ipybox.kernel_mgr import renewal
from ipybox.kernel_mgr.import_guard import guarded
from ipybox.process import child_setup, late_site
from ipybox.process.late_site import PythonFacts
from ipybox.sandbox import confine
from ipybox.session import inside_files, interpreter
from ipybox.session.frames import REPLIES, REQUESTS, Decoder, FrameError, frame, optional, texts, value
from ipybox.session.inside_commands import RunningCommand
from ipybox.session.inside_interpreter import InsideInterpreter
from ipybox.session.inside_loop import CHUNK, InsideLoop, Outbox

MODULE = __name__
_IMPORTS = ("asyncio", "contextlib", "dataclasses", "random", "re", "tempfile", "unittest", "uuid")
"""What code uses often; imported once for all sandboxes."""
LANGUAGES: Mapping[str, tuple[str, ...]] = {
    "bash": ("bash", "-c"),
    "sh": ("sh", "-c"),
    "javascript": ("node", "-e"),
}
"""Languages besides Python, and what runs them, if it is there."""

_python: PythonFacts | None = None


def settings(python: PythonFacts) -> str:
    """What an agent has to know that has not run ``site``."""
    return json.dumps(asdict(python))


def prepare(text: str, path: Sequence[str], tell: Callable[[str], None]) -> None:
    """Imports what is needed later, from nowhere that sandboxed code writes."""
    global _python
    _python = PythonFacts(**json.loads(text))
    late_site.adopt(_python)
    with guarded() if "ipybox.sandbox.launcher" in sys.modules else nullcontext():
        for name in _IMPORTS:
            import_module(name)


def run(env: Mapping[str, str]) -> NoReturn:
    """Serves until nobody asks any more."""
    code = 1
    try:
        confine.not_dumpable()
        confine.process_name("ipybox-agent")
        child_setup.python_signals()
        signal.signal(signal.SIGINT, lambda signum, frame: None)  # what is ignored would be so in commands as well
        os.environ.clear()
        os.environ.update(env)
        for fd in (REQUESTS, REPLIES):
            os.set_inheritable(fd, False)
        Agent(dict(env)).serve()
        code = 0
    except BaseException as error:
        _last_words(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)  # and what is below goes with the namespace


def _last_words(text: str) -> None:
    with suppress(OSError):
        os.write(REPLIES, frame({"id": 0, "failed": text[:1000], "errno": errno.EIO}))


def main(arguments: Sequence[str]) -> None:
    """``SETTINGS``: where it can't be forked from what is warm."""
    prepare(arguments[0], (), lambda name: None)
    run(dict(os.environ))


_ROOM_SECONDS = 2.0
"""For how long it is tried again to make a process where there are too many."""
_ROOM_LOOK_SECONDS = 0.02


class Agent:
    """Answers requests.

    Args:
        env: The environment of all that it runs.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._loop = InsideLoop()
        self._outbox = Outbox(self._loop, REPLIES, self._loop.stop)
        self._decoder = Decoder()
        self._interpreter: InsideInterpreter | None = None
        self._state_lost = False
        self._running: dict[int, Callable[[], None]] = {}
        self._operations = {
            "command": self._command,
            "code": self._code,
            "cancel": self._cancel,
            **dict.fromkeys(inside_files.OPERATIONS, self._file),
        }

    def serve(self) -> None:
        """Answers until the owner is gone."""
        os.set_blocking(REQUESTS, False)
        self._loop.on_readable(REQUESTS, self._hear)
        self._loop.run()

    def _hear(self) -> None:
        data = os.read(REQUESTS, CHUNK)
        if not data:
            return self._loop.stop()
        for head, body in self._decoder.feed(data):
            self._do(value(head, "id", int), head, body, time.monotonic() + _ROOM_SECONDS)

    def _do(self, number: int, head: dict[str, Any], body: bytes, until: float) -> None:
        try:
            self._operations[value(head, "op", str)](number, head, body)
        except OSError as error:
            failed = {"failed": error.strerror or str(error), "errno": error.errno or errno.EIO}
            if error.errno != errno.EAGAIN or time.monotonic() > until:
                return self._answer(number, failed)
            # Processes that were killed a moment ago count until they are gone, which many take a while to be.
            again = self._loop.after(_ROOM_LOOK_SECONDS, partial(self._do, number, head, body, until))

            def give_up() -> None:
                again.cancel()
                self._answer(number, failed)

            self._running[number] = give_up

    def _answer(self, number: int, head: dict[str, Any], body: bytes = b"") -> None:
        self._running.pop(number, None)
        try:
            self._outbox.put(frame({**head, "id": number}, body))
        except FrameError as error:
            self._outbox.put(frame({"failed": str(error), "errno": errno.EFBIG, "id": number}))

    def _file(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        self._answer(number, *inside_files.answer(head, body))

    def _environment(self, head: Mapping[str, Any]) -> dict[str, str]:
        return {**self._env, **texts(head, "env")}

    def _command(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        argv = [str(word) for word in value(head, "argv", list)]
        self._execute(number, head, argv, optional(head, "cwd", str) or inside_files.WORKSPACE)

    def _execute(self, number: int, head: Mapping[str, Any], argv: list[str], cwd: str) -> None:
        cwd = os.path.join(inside_files.WORKSPACE, cwd)
        if not os.path.isdir(cwd):
            raise OSError(errno.ENOTDIR, f"{cwd} is no directory to work in")
        done = partial(self._answer, number)
        command = RunningCommand(self._loop, argv, self._environment(head), cwd, value(head, "timeout", float), done)
        if command.is_running:
            self._running[number] = command.cancel

    def _code(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        language = value(head, "language", str)
        cwd = optional(head, "cwd", str)
        if language != "python":
            if language not in self._languages():
                return self._answer(number, {"languages": self._languages()})
            code = body.decode("utf-8", "surrogateescape")
            return self._execute(number, head, [*LANGUAGES[language], code], cwd or inside_files.WORKSPACE)
        if cwd is not None:
            cwd = os.path.join(inside_files.WORKSPACE, cwd)
        if self._interpreter is not None and self._interpreter.is_over:
            self._interpreter, self._state_lost = None, True
        if self._interpreter is None:
            self._interpreter = InsideInterpreter(self._loop, self._become_interpreter)
        self._running[number] = self._interpreter.cancel
        self._interpreter.run(body, texts(head, "env"), cwd, value(head, "timeout", float), partial(self._ran, number))

    def _ran(self, number: int, head: dict[str, Any], body: bytes) -> None:
        if head["state_lost"]:
            self._interpreter = None
        head["state_lost"] = head["state_lost"] or self._state_lost
        self._state_lost = False
        self._answer(number, head, body)

    def _cancel(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        self._running.get(value(head, "which", int), lambda: None)()

    def _languages(self) -> list[str]:
        path = self._env.get("PATH", os.defpath)
        return ["python", *(name for name, argv in LANGUAGES.items() if shutil.which(argv[0], path=path))]

    def _become_interpreter(self, code: int, answers: int) -> None:
        try:
            confine.dumpable()
            confine.process_name("ipybox-python")
            late_site.come_up(self._env, _python)
            renewal.renew()
            interpreter.serve(code, answers)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
