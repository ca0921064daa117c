"""Where an interrupt hits the interpreter of a session, and where it waits or is dropped. Floor: control.

In code of a cell it raises ``KeyboardInterrupt``; while that awaits, it cancels the cell; in our own steps between two
pieces of such code it waits for the next one; and between cells it is nothing.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """The one handler of SIGINT."""

    def __init__(self) -> None:
        self._is_running = self._is_in_code = self._is_pending = False
        self._task: asyncio.Task[Any] | None = None
        self.came = False
        """Whether one came during this cell."""

    def install(self) -> None:
        """Takes the signal, also back from code that took it. Not SIG_IGN, which what is started would inherit."""
        signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def cell(self) -> Iterator[None]:
        """While this is entered, an interrupt is for this cell."""
        self._is_running, self._is_pending, self.came = True, False, False
        try:
            yield
        finally:
            self._is_running = self._is_pending = False

    @contextmanager
    def code(self) -> Iterator[None]:
        """While this is entered, an interrupt raises. One that waits raises at once."""
        with self._within(True):
            self._raise()
            yield

    @contextmanager
    def ours(self) -> Iterator[None]:
        """While this is entered, which may be in code, an interrupt waits until it is left."""
        with self._within(False):
            yield
        if self._is_in_code and threading.current_thread() is threading.main_thread():
            self._raise()

    @contextmanager
    def awaiting(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """While this is entered, a task is what runs code."""
        self._task = task
        try:
            yield
        finally:
            self._task = None

    @contextmanager
    def _within(self, is_in_code: bool) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, self._is_in_code = self._is_in_code, is_in_code
        try:
            yield
        finally:
            self._is_in_code = before

    def _raise(self) -> None:
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_running:
            return
        self.came = True
        if not self._is_in_code:
            self._is_pending = True
            return
        task = self._task
        if task is not None:
            loop = task.get_loop()
            if asyncio.current_task(loop) is not task:
                # The loop waits, or runs another task, which an exception would take down together with the loop.
                loop.call_soon_threadsafe(task.cancel)
                return
        raise KeyboardInterrupt
