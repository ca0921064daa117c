"""Runs what a session is asked to run, from inside its sandbox. A warm module, see ``process.warm``. Floor: control.

It is forked from a Python that has imported what templates name, and is confined as all that it starts. It can't be
looked into by that, and nothing inherits its two pipes; killing it ends the sandbox, which code that may run there is
free to do.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from ipybox.control.inside import families
from ipybox.control.inside.cells import LOST, Cells
from ipybox.control.inside.executions import Execution, Ground
from ipybox.control.inside.outputs import Line
from ipybox.control.inside.places import BACKEND, REPLIES, REQUESTS, WORKSPACE, body_limit
from ipybox.kernel_mgr import preload
from ipybox.kernel_mgr.import_guard import guarded
from ipybox.process import child_setup, late_site
from ipybox.process.late_site import PythonFacts
from ipybox.sandbox import confine
from ipybox.session.frames import Decoder, frame, texts, value
from ipybox.session.inside_loop import CHUNK, InsideLoop

MODULE = __name__
SETTINGS = "IPYBOX_AGENT"
"""Variable in which an agent finds what concerns its own session; nothing that it starts has it."""
_IMPORTS = ("asyncio", "contextlib", "dataclasses", "random", "re", "tempfile", "unittest", "uuid")
"""What code uses often; imported once for all sandboxes, as IPython is."""
_MACHINERY = (
    "ipybox.control.inside.interpreter",
    *("IPython.core.completer", "IPython.core.completerlib", "IPython.core.logger", "IPython.core.oinspect"),
    *("IPython.core.magics.execution", "IPython.utils.wildcard", "hashlib", "pygments.formatters.terminal256"),
    *("stack_data", "unicodedata"),
)
"""IPython, and what it imports until its first result and error. Some come and go with its versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSettings:
    """What the Python is told that agents are forked from.

    Attributes:
        python: Facts of this Python.
        preload: Modules to import.
    """

    python: PythonFacts
    preload: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WarmSettings:
        """Reads what :meth:`to_json` wrote."""
        data = json.loads(text)
        return cls(python=PythonFacts(**data["python"]), preload=tuple(data["preload"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent is told.

    Attributes:
        processes: Processes and threads that code may have; the agent may have some more.
        output_bytes: Bytes of each output, of all that is shown, and of a return value.
        interpreter: Whether there will be cells, so that an interpreter had better be ready.
    """

    processes: int
    output_bytes: int
    interpreter: bool = False

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AgentSettings:
        """Reads what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


_python: PythonFacts | None = None
_imported: frozenset[str] = frozenset()


def prepare(text: str, path: Sequence[str], tell: Callable[[str], None]) -> None:
    """Imports what is needed later, from nowhere that sandboxed code writes.

    Args:
        text: :class:`WarmSettings` as JSON.
        path: Directories that only modules of the template's wish may come from.
        tell: Called with the name of each of these modules before it is imported.

    Raises:
        PreloadError: A module of the template's wish can't be imported, or can't be shared by forks.
    """
    global _python, _imported
    settings = WarmSettings.from_json(text)
    _python = settings.python
    late_site.adopt(_python)
    with guarded() if "ipybox.sandbox.launcher" in sys.modules else nullcontext():
        for name in _IMPORTS:
            import_module(name)
        for name in _MACHINERY:
            with suppress(ImportError):
                import_module(name)
        if settings.preload:
            sys.path[:0] = [entry for entry in path if entry not in sys.path]
            preload.load(settings.preload, tell)
    _imported = frozenset(name.partition(".")[0] for name in list(sys.modules)) - sys.stdlib_module_names


def run(env: Mapping[str, str]) -> NoReturn:
    """Serves until nobody asks any more."""
    code = 1
    try:
        confine.not_dumpable()
        confine.process_name("ipybox-agent")
        child_setup.python_signals()
        signal.signal(signal.SIGINT, lambda signum, frame: None)  # what is ignored would be so in programs as well
        for fd in (REQUESTS, REPLIES):
            os.set_inheritable(fd, False)
        families.adopt_orphans()
        own = dict(env)
        settings = AgentSettings.from_json(own.pop(SETTINGS))
        os.environ.clear()
        os.environ.update(own)
        Agent(own, settings).serve()
        code = 0
    except BaseException as error:
        _last_words(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)  # and what is below goes with the namespace


def _last_words(text: str) -> None:
    with suppress(OSError):
        os.write(REPLIES, frame({"id": 0, "is": "failed", "why": text[:1000]}))


def main(arguments: Sequence[str]) -> None:
    """``SETTINGS [DIRECTORY]...``: where it can't be forked from what is warm; packages of the template are there."""
    prepare(arguments[0], arguments[1:], lambda name: None)
    run(dict(os.environ))


class Agent:
    """Runs what it is asked to.

    Args:
        env: The environment of all that it runs.
        settings: See there.
    """

    def __init__(self, env: dict[str, str], settings: AgentSettings) -> None:
        loop = InsideLoop()
        self._line = Line(loop, REPLIES, loop.stop)
        self._ground = Ground(
            loop=loop,
            line=self._line,
            env={"MPLBACKEND": "agg", **env},
            python=_python,
            processes=settings.processes,
            limit=settings.output_bytes,
            body=body_limit(settings.output_bytes),
            imported=_imported,
        )
        self._loop = loop
        self._decoder = Decoder()
        self._running: dict[int, Execution | Cells] = {}
        self._cells: Cells | None = None
        self._backend = env.get("MPLBACKEND", BACKEND)
        self._wants_cells = settings.interpreter
        self._operations = {
            "run": self._run,
            "interrupt": self._interrupt,
            "cancel": self._cancel,
            "ping": self._ping,
        }

    def serve(self) -> None:
        """Runs things until the owner is gone."""
        os.chdir(WORKSPACE)
        os.set_blocking(REQUESTS, False)
        self._loop.on_readable(REQUESTS, self._hear)
        self._line.put(frame({"id": 0, "is": "ready"}))
        if self._wants_cells:
            self._cells = self._interpreter()  # so that the first cell does not have to wait for it
        self._loop.run()

    def _hear(self) -> None:
        data = os.read(REQUESTS, CHUNK)
        if not data:
            return self._loop.stop()
        for head, body in self._decoder.feed(data):
            self._operations[value(head, "op", str)](value(head, "id", int), head, body)

    def _say(self, number: int, head: dict[str, Any], body: bytes = b"") -> None:
        if head["is"] == "end":
            self._running.pop(number, None)
        if len(body) > self._ground.body:
            head, body = {"is": "truncated", "stream": "display"}, b""
        self._line.put(frame({**head, "id": number}, body))

    def _ping(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        self._line.put(frame({"id": 0, "is": "pong"}))

    def _run(self, number: int, head: dict[str, Any], body: bytes) -> None:
        head["env"] = texts(head, "env")
        kind = value(head, "kind", str)
        path = {**self._ground.env, **head["env"]}.get("PATH", os.defpath)
        if kind == "javascript" and shutil.which("node", path=path) is None:
            return self._refuse(number, "node is not installed, so JavaScript can't be run")
        say = partial(self._say, number)
        try:
            if kind == "cell":
                return self._run_cell(number, head, body)
            self._running[number] = Execution(self._ground, head, body.decode("utf-8", "surrogateescape"), say)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                raise
            self._refuse(number, f"no process can be made to run it: {error.strerror}")

    def _run_cell(self, number: int, head: dict[str, Any], body: bytes) -> None:
        if self._cells is not None and self._cells.is_busy:
            return self._refuse(number, "another cell runs")
        has_lost = self._cells is not None and self._cells.has_lost
        if self._cells is None or self._cells.is_over:
            self._cells = self._interpreter()

        def say(said: dict[str, Any], data: bytes = b"") -> None:
            self._say(number, {**said, "state_lost": True} if has_lost and said["is"] == "end" else said, data)

        if has_lost:
            say({"is": "stderr"}, f"{LOST}\n".encode())
        self._running[number] = self._cells
        self._cells.run(head, body, say)

    def _interpreter(self) -> Cells:
        return Cells(self._ground, {**self._ground.env, "MPLBACKEND": self._backend})

    def _refuse(self, number: int, why: str) -> None:
        self._say(number, {"is": "stderr"}, f"{why}\n".encode())
        self._say(number, {"is": "end", "refused": why})

    def _interrupt(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        running = self._running.get(value(head, "which", int))
        if running is not None:
            running.interrupt()

    def _cancel(self, number: int, head: Mapping[str, Any], body: bytes) -> None:
        running = self._running.get(value(head, "which", int))
        if running is not None:
            running.cancel()
