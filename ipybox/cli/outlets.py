"""Our stdout and stderr, written by a thread: who reads them may be slow, and must not hold up our end. Floor: cli."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading


class Outlets:
    """Writes to descriptors 1 and 2, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[int, bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="ipybox-outlets", daemon=True).start()

    async def write(self, fd: int, data: bytes) -> None:
        """Returns when it is written. Raises ``OSError``, such as ``BrokenPipeError`` when the reader has gone."""
        written: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((fd, data, written))
        await written

    def _work(self) -> None:
        while True:
            fd, data, written = self._queue.get()
            error: OSError | None = None
            try:
                write_all(fd, data)
            except OSError as caught:
                error = caught
            try:
                self._loop.call_soon_threadsafe(_settle, written, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it, however long that takes."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # somebody who shares it has set it so
            select.select([], [fd], [])


def _settle(written: asyncio.Future[None], error: OSError | None) -> None:
    if written.done():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
