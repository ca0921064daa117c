"""Runs Python code call by call in one namespace; the process that a sandbox's variables live in. Floor: session."""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import inspect
import io
import itertools
import linecache
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Collection, Mapping
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ipybox.exit_status import of_system_exit
from ipybox.process import child_setup, late_site
from ipybox.session import rich
from ipybox.session.frames import Decoder, frame, optional, texts

if TYPE_CHECKING:
    import asyncio

INTERRUPTED = 130
"""Exit code of code that was interrupted, as a shell has it."""
RESULT_LIMIT = 1_000_000
"""Characters of a result's text that are kept."""
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def settle(stdout: int, stderr: int, *, keep: Collection[int]) -> None:
    """Makes a fresh fork a process of its own: its session, its outputs, and nothing else that was open."""
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    child_setup.close_all_but(keep)


def serve(code: int, answers: int) -> NoReturn:
    """Runs what comes in, until no more can come."""
    running = Interpreter()
    decoder = Decoder()
    while data := os.read(code, 1 << 20):
        for head, body in decoder.feed(data):
            if head.get("after_stop"):  # an interrupt that came too late for the code before is not for this one
                running.interrupted = False
            answer = frame(running.run(body.decode(), texts(head, "env"), optional(head, "cwd", str)))
            while answer:
                answer = answer[os.write(answers, answer) :]
    late_site.leave(0)


class Interpreter:
    """A namespace, ``__main__``, and what happened in it.

    Attributes:
        interrupted: Whether an interrupt came before the code that it is for.
        shown: What code has shown besides text.
    """

    def __init__(self) -> None:
        self.interrupted = False
        signal.signal(signal.SIGINT, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        self._pid = os.getpid()
        self._main = ModuleType("__main__")
        self._numbers = itertools.count(1)
        self._runner: asyncio.Runner | None = None
        self.shown = rich.Shown()
        vars(self._main)["__builtins__"] = builtins
        vars(builtins)["display"] = self.shown.display
        sys.modules["__main__"] = self._main
        sys.path.insert(0, "")
        sys.argv[:] = [""]
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
        sys.stdout = self._stdout = _stream(1)
        sys.stderr = self._stderr = _stream(2)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
        warnings.filterwarnings("ignore", message=".* is non-interactive, and thus cannot be shown")

    def run(self, code: str, env: Mapping[str, str], cwd: str | None) -> dict[str, Any]:
        """Runs code to its end; returns the answer."""
        before = {name: os.environ.get(name) for name in env}
        where: int | None = None
        importlib.invalidate_caches()  # files may have come since
        outcome: dict[str, Any] = {"exit_code": 0, "result": None, "error": None}
        try:
            try:
                if cwd is not None:
                    where = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    os.chdir(cwd)
                os.environ.update(env)
                sys.argv[:] = [""]
                signal.signal(signal.SIGINT, signal.default_int_handler)
                if self.interrupted:
                    self.interrupted = False
                    raise KeyboardInterrupt
                outcome["result"] = self._run(code)
            finally:
                signal.signal(signal.SIGINT, self._note)
        except BaseException as error:
            signal.signal(signal.SIGINT, self._note)
            outcome.update(self._failed(error))
        if os.getpid() != self._pid:  # a fork that code has made and forgotten
            self._flush()
            os._exit(outcome["exit_code"])
        for name, old in before.items():
            os.environ.pop(name, None) if old is None else os.environ.__setitem__(name, old)
        if where is not None:
            os.fchdir(where)
            os.close(where)
        self.shown.take_figures()
        self._flush()
        return {**outcome, **self.shown.taken()}

    def _run(self, code: str) -> str | None:
        name = f"<code {next(self._numbers)}>"
        linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
        tree = compile(code, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree.body:
            self._evaluate(compile(tree, name, "exec", _FLAGS, dont_inherit=True))
        if last is None:
            return None
        value = self._evaluate(compile(ast.Expression(last.value), name, "eval", _FLAGS, dont_inherit=True))
        if value is None:
            return None
        vars(self._main)["_"] = value
        text = repr(value)
        self.shown.add(value, "execute_result", text)
        return text if len(text) <= RESULT_LIMIT else f"{text[:RESULT_LIMIT]}... ({len(text)} characters)"

    def _evaluate(self, code: CodeType) -> Any:
        value = eval(code, vars(self._main))
        if not code.co_flags & inspect.CO_COROUTINE:
            return value
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner.get_loop().run_until_complete(value)

    def _failed(self, error: BaseException) -> dict[str, Any]:
        if isinstance(error, SystemExit):
            if not isinstance(error.code, int | None):
                print(error.code, file=self._stderr)
            return {"exit_code": of_system_exit(error.code)}
        try:
            described = f"{type(error).__name__}: {error}"[:RESULT_LIMIT].removesuffix(": ")
            lines = traceback.format_exception(type(error), error, _of_code(error.__traceback__))
        except Exception:
            described, lines = type(error).__name__, [f"{type(error).__name__}, which can't be shown\n"]
        print("".join(lines), end="", file=self._stderr)
        return {"exit_code": INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1, "error": described}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        """An interrupt where no code runs. Not SIG_IGN, which processes that are started would inherit."""
        self.interrupted = True

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr, self._stdout, self._stderr):
            try:
                stream.flush()
            except Exception:
                continue  # it is what code has made of it
        ctypes.CDLL(None).fflush(None)


def _stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _of_code(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without what is ours in front of it."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
