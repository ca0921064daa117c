"""Ending a command from outside and still getting what it gave. Floor: command."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancellation:
    """Ends the commands that it was given to, from any thread; their results say ``stop_reason="cancelled"``.

    Cancelling the task that awaits ``execute`` ends the command as well, and raises ``CancelledError`` without a
    result.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may cancel in the middle of anything
        self._callbacks: set[Callable[[], None]] = set()
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Ends what it was given to, and what it will be given to. Does nothing the second time."""
        with self._lock:
            self._is_cancelled = True
            callbacks, self._callbacks = self._callbacks, set()
        for callback in callbacks:
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Has a function called on :meth:`cancel`, in its caller's thread; at once if that was before."""
        with self._lock:
            if not self._is_cancelled:
                self._callbacks.add(callback)
                return
        callback()

    def remove(self, callback: Callable[[], None]) -> None:
        """Takes that back."""
        with self._lock:
            self._callbacks.discard(callback)
