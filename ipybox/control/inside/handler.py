"""Runs Python that defines ``handler(event)``, once, in a process of its own. Floor: control."""

from __future__ import annotations

import builtins
import inspect
import json
import linecache
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from ipybox.control.inside import python_process
from ipybox.control.inside.places import HANDLER_FILE
from ipybox.control.inside.results import ResultLine
from ipybox.exit_status import of_system_exit
from ipybox.process import late_site

INTERRUPTED = 130
"""Exit code of code that was interrupted, as a shell has it."""
_MISSING = (
    "the code does not define a function handler(event), which would be called; "
    "sessions with mode 'stateful' run Python without one"
)


def run(main: ModuleType, code: str, event: str, line: ResultLine) -> NoReturn:
    """Runs the code and its handler, and ends the process as Python ends.

    Args:
        main: The module that it becomes.
        code: The code.
        event: What the handler is called with, as JSON.
        line: Where it says what became of it.
    """
    pid = os.getpid()
    exit_code = 0
    try:
        python_process.flush_when_told_to_end()
        python_process.unblock()
        value = _call(main, code, json.loads(event))
        if os.getpid() == pid:
            python_process.flush()
            problem = line.returned(value)
            if problem is not None:
                sys.stderr.write(f"{problem}\n")
                exit_code = 1
    except SystemExit as error:
        exit_code = _exit_code(error)
    except BaseException as error:
        exit_code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        if os.getpid() == pid:
            _tell(error, line)
    if os.getpid() != pid:  # a fork that the code has made and forgotten
        python_process.flush()
        os._exit(exit_code)
    late_site.leave(exit_code)


def _call(main: ModuleType, code: str, event: Any) -> Any:
    vars(main)["__builtins__"] = builtins
    linecache.cache[HANDLER_FILE] = len(code), None, code.splitlines(keepends=True), HANDLER_FILE
    exec(compile(code, HANDLER_FILE, "exec", dont_inherit=True), vars(main))
    handler = vars(main).get("handler")
    if not callable(handler):
        raise _MissingError(_MISSING)
    value = handler(event)
    if inspect.isawaitable(value):
        import asyncio

        async def awaited() -> Any:
            return await value

        value = asyncio.run(awaited())
    return value


class _MissingError(NameError):
    """There is no handler."""


def _exit_code(error: SystemExit) -> int:
    if not isinstance(error.code, int | None):
        sys.stderr.write(f"{error.code}\n")
    return of_system_exit(error.code)


def _tell(error: BaseException, line: ResultLine) -> None:
    name = "NameError" if isinstance(error, _MissingError) else type(error).__name__
    try:
        described = str(error)
        trace = None if isinstance(error, _MissingError) else _of_code(error.__traceback__)
        lines = traceback.format_exception(type(error), error, trace)
        if isinstance(error, _MissingError):
            lines = [f"{name}: {described}\n"]
    except Exception:
        described, lines = "", [f"{name}, which can't be shown\n"]
    try:
        sys.stderr.write("".join(lines))
    except Exception:
        pass  # it is what the code has made of it
    python_process.flush()
    line.raised(name, described, "".join(lines).splitlines())


def _of_code(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without what is ours in front of it."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
