"""Turns of those who have much to do in the event loop: one at a time, with pauses for all others. Floor: control."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakKeyDictionary

_SHARE = 2
"""How much longer the pause after a turn is than the turn was."""
_LEAST = 0.001


class Turns:
    """Those who wait in one event loop. Each turn is to be short; who is not done asks for another one."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_awaited = False

    @classmethod
    def here(cls) -> Turns:
        """Those of the loop that runs."""
        loop = asyncio.get_running_loop()
        found = cls._of_loop.get(loop)
        if found is None:
            found = cls._of_loop[loop] = cls()
        return found

    def ask(self, call: Callable[[], None], after: float = _LEAST) -> None:
        """Calls once, when all who asked before have had their turns; ``after`` so many seconds if there are none."""
        self._waiting.append(call)
        if not self._is_awaited:
            self._await(after)

    def _await(self, seconds: float) -> None:
        self._is_awaited = True
        asyncio.get_running_loop().call_later(seconds, self._next)

    def _next(self) -> None:
        began = time.perf_counter()
        try:
            self._waiting.popleft()()
        finally:
            self._is_awaited = False
            if self._waiting:
                self._await(max(_SHARE * (time.perf_counter() - began), _LEAST))
