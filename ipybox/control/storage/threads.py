"""Threads for what blocks. Floor: control.

Who waits for a thread and is cancelled goes on waiting until it is done: a descriptor that is closed while a thread
still writes to it may be another file's by then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """Work in a thread was given up, since nobody waits for it any more."""


class Stop:
    """Tells work in a thread to give up."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Asks for the end."""
        self._event.set()

    def check(self) -> None:
        """Raises :class:`StoppedError` after that."""
        if self._event.is_set():
            raise StoppedError


class Threads:
    """Two pools, so that what takes long never keeps what is quick from being done.

    Args:
        quick: Threads for single system calls and the like.
        long: Threads for walks, checksums and removals.
    """

    def __init__(self, quick: int = 8, long: int = 12) -> None:
        self._quick = ThreadPoolExecutor(quick, "storage")
        self._long = ThreadPoolExecutor(long, "storage-long")

    async def quick(self, work: Callable[..., T], *args: Any, undo: Callable[[T], object] | None = None) -> T:
        """Runs what is done in a moment.

        Args:
            undo: Gets the result if nobody else does, because the caller was cancelled meanwhile.
        """
        return await _result(self._quick.submit(work, *args), None, undo)

    async def finish(self, work: Callable[..., T], *args: Any) -> T:
        """Runs what cleans up: it is done even though the caller is cancelled before it could begin."""
        return await _result(self._quick.submit(work, *args), None, None, must=True)

    async def long(self, work: Callable[[Stop], T]) -> T:
        """Runs what takes its time, and checks now and then whether it still should."""
        stop = Stop()
        return await _result(self._long.submit(work, stop), stop, None)

    async def close(self) -> None:
        """Waits for all of them."""
        await asyncio.to_thread(self._quick.shutdown)
        await asyncio.to_thread(self._long.shutdown)


async def _result(running: Future[T], stop: Stop | None, undo: Callable[[T], object] | None, must: bool = False) -> T:
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not must and running.cancel():  # it had not begun
            raise
        if stop is not None:
            stop.set()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                pass
        if not future.cancelled() and future.exception() is None and undo is not None:
            undo(future.result())
        raise
