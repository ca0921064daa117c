"""Who may start a kernel now, who waits a moment, and who is told to come back. Floor: kernel_mgr.

A kernel's start is half a processor's work for some milliseconds. Of a hundred that start at once none would come up
in time, and those that run would get nothing done; so a few start at a time, and the others wait in line. What can't
be had soon is refused at once, with a hint when to ask again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psutil

_PATIENCE = 20.0
"""Seconds in line after which a client may well have gone away."""
_FIRST_GUESS = 0.1
"""Seconds of a start, until some were seen."""
_SHARE_RESERVED = 0.05
_LEAST_RESERVED = 128 * 1024 * 1024
"""Bytes of memory that kernels leave to the rest of the machine."""
_RETRY = 1.0
"""Seconds after which to ask again for what ends when somebody is done."""


class FullError(Exception):
    """No kernel can be started now.

    Attributes:
        reason: Why.
        retry_after: Seconds after which to ask again.
    """

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason, self.retry_after = reason, max(1, math.ceil(retry_after))


class Admission:
    """Lets kernels start.

    Args:
        alive: Tells how many there are, starting ones included, but not those in line.
        max_kernels: How many there may be; None is as many as there is memory for.
        at_once: How many may start at the same time.
        available: Tells how many bytes of memory are free.
    """

    def __init__(
        self,
        alive: Callable[[], int],
        *,
        max_kernels: int | None,
        at_once: int,
        available: Callable[[], int] | None = None,
    ) -> None:
        self._alive = alive
        self._max_kernels = max_kernels
        self._at_once = at_once
        self._slots = asyncio.Semaphore(at_once)
        self._available = _available if available is None else available
        self._reserved = max(_LEAST_RESERVED, int(psutil.virtual_memory().total * _SHARE_RESERVED))
        self._duration = _FIRST_GUESS
        self.waiting = 0
        """How many are in line."""

    def check(self, keep_free: int = 0) -> None:
        """Raises :class:`FullError` when one more is not to be thought of.

        Args:
            keep_free: How many places are left for others afterwards.
        """
        if self._max_kernels is not None and self._alive() + self.waiting + keep_free >= self._max_kernels:
            raise FullError(f"there are {self._max_kernels} kernels, and max_kernels allows no more", _RETRY)
        if (free := self._available()) < self._reserved:
            raise FullError(f"{free >> 20} MiB of memory are free, and {self._reserved >> 20} are kept so", _RETRY)
        ahead = self.waiting * self._duration / self._at_once
        if ahead > _PATIENCE:
            raise FullError(f"{self.waiting} kernels are waiting to be started", ahead)

    def slot(self, keep_free: int = 0) -> AbstractAsyncContextManager[None]:
        """Takes a place in line at once, for one among those that start, which is to be left when the kernel is up.

        Raises:
            FullError: See :meth:`check`.
        """
        self.check(keep_free)
        self.waiting += 1
        return self._slot()

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self._slots.release()
            self._duration += (loop.time() - began - self._duration) / 8


def _available() -> int:
    return int(psutil.virtual_memory().available)
