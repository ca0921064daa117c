"""Where an interrupt may hit in a kernel, and where it waits or is dropped. Runs inside the kernel. Floor: kernel_mgr.

ipykernel lets SIGINT raise ``KeyboardInterrupt`` from the moment it looks at a request until the answer is sent. Raised
outside user code it swallows the answer, and the client waits for one that never comes. And while a cell awaits, the
signal does not wake the event loop. Here one handler decides by what is going on: outside any execution an interrupt
is nothing; between the arrival of a request and its code it is remembered; in user code it raises; while the code
awaits, it cancels the cell.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType
from typing import Any


class _Phase(Enum):
    NOTHING_RUNS = auto()
    ABOUT_TO_RUN = auto()
    USER_CODE = auto()


class Interrupts:
    """The kernel's handling of SIGINT."""

    def __init__(self) -> None:
        self._phase = _Phase.NOTHING_RUNS
        self._pending = False
        self._cell: asyncio.Future[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def install(self) -> None:
        """Takes the signal, also back from code that took it; possible in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)

    def expect(self) -> None:
        """An execution was asked for: an interrupt from now on is meant for it."""
        self._phase = _Phase.ABOUT_TO_RUN
        self._pending = False

    def finish(self) -> None:
        """The execution is over: an interrupt from now on comes too late."""
        self._phase = _Phase.NOTHING_RUNS
        self._pending = False

    @contextmanager
    def user_code(self) -> Iterator[None]:
        """While this is entered, an interrupt raises. One that is remembered raises at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self._phase
        self._phase = _Phase.USER_CODE
        try:
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt
            yield
        finally:
            self._phase = before

    @contextmanager
    def awaiting(self, cell: asyncio.Future[Any]) -> Iterator[None]:
        """While this is entered, the cell runs as a task of the event loop."""
        self._cell, self._loop = cell, asyncio.get_running_loop()
        try:
            yield
        finally:
            self._cell = self._loop = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._phase is _Phase.ABOUT_TO_RUN:
            self._pending = True
        elif self._phase is _Phase.USER_CODE:
            cell, loop = self._cell, self._loop
            if cell is None or loop is None or asyncio.current_task(loop) is cell:
                raise KeyboardInterrupt
            # The loop waits, or runs another task, which an exception would take down together with the kernel.
            loop.call_soon_threadsafe(cell.cancel)
