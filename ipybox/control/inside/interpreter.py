"""The IPython of a stateful session: the process that its variables live in. Floor: control."""

from __future__ import annotations

import asyncio
import builtins
import ctypes
import importlib
import os
import resource
import sys
import warnings
from collections.abc import Coroutine, Mapping
from contextlib import nullcontext
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config

from ipybox.control.inside import python_process, results
from ipybox.control.inside.displays import Publisher, ResultHook, Shower
from ipybox.control.inside.interrupts import Interrupts
from ipybox.control.inside.places import BACKEND
from ipybox.exit_status import of_system_exit
from ipybox.process import late_site
from ipybox.sandbox.access import SANDBOX_HOME
from ipybox.session.frames import Decoder, frame, texts

_HERE = os.path.dirname(__file__)
_VALUE = 1 << 16


class Profile(ProfileDir):
    """IPython's directory for its own files, of which it makes none here."""

    def _mkdir(self, path: str, mode: int | None = None) -> bool:
        return False


class Shell(InteractiveShell):
    """IPython without a terminal, and without anything that it keeps in files."""

    display_pub_class = Publisher
    displayhook_class = ResultHook
    system = InteractiveShell.system_raw
    """Plain pipes: a terminal turns every line end into two characters, and makes programs draw progress bars."""

    shower: Shower
    interrupts: Interrupts
    has_told = False
    """Whether an error was shown since a cell began."""

    def init_ipython_dir(self, ipython_dir: Any) -> None:
        """There is none."""

    def init_history(self) -> None:
        """In memory only."""
        super().init_history()  # type: ignore[no-untyped-call]
        if self.history_manager is not None:
            self.history_manager.enabled = False

    def _tee(self, channel: str) -> Any:
        """IPython would keep a second copy of everything that is ever printed, for the ``%notebook`` magic."""
        return nullcontext()

    def init_events(self) -> None:
        """Lets interrupts reach callbacks as well, such as the one that draws figures at the end of a cell."""
        super().init_events()  # type: ignore[no-untyped-call]
        trigger = self.events.trigger

        def interruptible(*args: Any, **kwargs: Any) -> None:
            with self.interrupts.code():
                trigger(*args, **kwargs)

        self.events.trigger = interruptible  # type: ignore[method-assign]

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> bool:
        """Runs one statement of a cell."""
        with self.interrupts.code():
            return bool(await super().run_code(code_obj, result, async_=async_))  # type: ignore[no-untyped-call]

    def enable_gui(self, gui: Any = None) -> None:
        """There are no windows."""

    def ask_exit(self) -> None:
        """``exit`` ends the cell; the interpreter lives as long as its session."""
        raise SystemExit

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Shows an exception; what ends a cell on purpose is none."""
        etype, value, trace = self._get_exc_info(exc_tuple)  # type: ignore[no-untyped-call]
        if etype is not None and issubclass(etype, SystemExit):
            return
        if etype is not None and issubclass(etype, asyncio.CancelledError) and self.interrupts.came:
            etype, value = KeyboardInterrupt, KeyboardInterrupt()
        _hide_ours(trace)
        super().showtraceback((etype, value, trace), *args, **kwargs)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        text = self.InteractiveTB.stb2text(stb)
        sys.stderr.write(f"{text}\n")
        self.tell_error(etype.__name__, _text(evalue), text.splitlines())

    def tell_error(self, name: str, value: str, lines: list[str]) -> None:
        """Shows an error to those who do not read text."""
        self.has_told = True
        self.shower.show("error", results.error(name, value, lines))


def serve(main: ModuleType, control: int, shown: int, limit: int) -> NoReturn:
    """Runs cells as they come, until no more can come.

    Args:
        main: The module that it is.
        control: A socket from which cells are read, and on which is said how they ended.
        shown: A socket for what they show.
        limit: Bytes of the largest thing that is shown.
    """
    interrupts = Interrupts()
    interrupts.install()
    running = Interpreter(main, Shower(shown, limit, interrupts), interrupts)
    python_process.unblock()
    pid = os.getpid()
    decoder = Decoder()
    while data := os.read(control, 1 << 20):
        for head, body in decoder.feed(data):
            answer = frame(running.run(body.decode("utf-8", "surrogateescape"), texts(head, "env")))
            if os.getpid() != pid:  # a fork that a cell has made and forgotten
                os._exit(0)
            while answer:
                answer = answer[os.write(control, answer) :]
    late_site.leave(0)


class Interpreter:
    """The shell, and what happens around each cell."""

    def __init__(self, main: ModuleType, shower: Shower, interrupts: Interrupts) -> None:
        self._shower, self._interrupts = shower, interrupts
        self._streams = sys.stdout, sys.stderr
        self._shell: Any = make_shell(main, shower, interrupts)
        self._shell.loop_runner = self._run_awaiting
        self._shell.autoawait = True
        self._loop: asyncio.AbstractEventLoop | None = None
        vars(builtins)["input"] = _nobody_to_ask
        warnings.filterwarnings("ignore", message="To exit: use 'exit'")
        if "matplotlib" in sys.modules and os.environ.get("MPLBACKEND") == BACKEND:
            self._shell.run_line_magic("matplotlib", "inline")  # it has another one since it was imported for all

    def run(self, code: str, env: Mapping[str, str]) -> dict[str, Any]:
        """Runs a cell to its end; returns how it ended."""
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        importlib.invalidate_caches()  # files may have come since
        self._shell.has_told = False
        error: BaseException | None = None
        with self._interrupts.cell():
            try:
                result = self._shell.run_cell(code, store_history=True)
                error = result.error_before_exec or result.error_in_exec
            except BaseException as unexpected:
                error = unexpected
        self._interrupts.install()
        for name, old in before.items():
            os.environ.pop(name, None) if old is None else os.environ.__setitem__(name, old)
        self._settle()
        return {**self._outcome(error), "usage": _usage()}

    def _outcome(self, error: BaseException | None) -> dict[str, Any]:
        if isinstance(error, SystemExit):
            if not isinstance(error.code, int | None):
                self._streams[1].write(f"{error.code}\n")
            return {"code": of_system_exit(error.code)}
        if error is None:
            return {"code": 0}
        name = type(error).__name__
        if isinstance(error, asyncio.CancelledError) and self._interrupts.came:
            name = "KeyboardInterrupt"
        if not self._shell.has_told:
            self._shell.tell_error(name, _text(error), [f"{name}: {_text(error)}"])
        return {"code": 130 if name == "KeyboardInterrupt" else 1, "name": name, "value": _text(error)}

    def _settle(self) -> None:
        kept = getattr(self._shell.history_manager, "outputs", None)
        if kept is not None:
            kept.clear()  # a copy of everything that is ever shown
        python_process.flush()
        for stream in self._streams:
            try:
                stream.flush()
            except Exception:
                continue  # it is what a cell has made of it
        for name, stream in zip(("stdout", "stderr"), self._streams, strict=True):
            if getattr(getattr(sys, name, None), "closed", True):
                setattr(sys, name, stream)
        ctypes.CDLL(None).fflush(None)

    def _run_awaiting(self, cell: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(cell)
        with self._interrupts.awaiting(task):
            return self._loop.run_until_complete(task)


def make_shell(main: ModuleType, shower: Shower, interrupts: Interrupts) -> Shell:
    """The one shell of this process."""
    config = Config()
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.banner1 = ""
    config.HistoryManager.hist_file = ":memory:"
    config.HistoryManager.enabled = False
    Shell.shower, Shell.interrupts = shower, interrupts
    shell = Shell.instance(config=config, profile_dir=Profile(location=SANDBOX_HOME), user_module=main)
    assert isinstance(shell, Shell)
    return shell


def _nobody_to_ask(prompt: object = "", /) -> NoReturn:
    raise EOFError("input() has nobody to ask here: write the answer into the code")


def _hide_ours(trace: TracebackType | None) -> None:
    """Takes from a traceback's end what is ours."""
    last = None
    while trace is not None:
        if os.path.dirname(trace.tb_frame.f_code.co_filename) != _HERE:
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_VALUE]
    except Exception:
        return ""


def _usage() -> dict[str, Any]:
    """What this process and those that it waited for have used so far."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu_ms": sum(each.ru_utime + each.ru_stime for each in both) * 1000,
        "peak_bytes": both[0].ru_maxrss * 1024,
        "read_bytes": sum(each.ru_inblock for each in both) * 512,
        "write_bytes": sum(each.ru_oublock for each in both) * 512,
    }
