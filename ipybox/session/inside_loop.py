"""One thread that waits for many things, as the agent in a sandbox does. Floor: session.

Not asyncio: interpreters are forked from here, and what they are forked from must have no event loop that runs.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

CHUNK = 256 * 1024
"""Bytes that are read at once."""
OUTPUT_LIMIT = 10_000_000
"""Bytes that are kept of each of the two outputs of a command or of code: the last ones."""


class Timer:
    """A call that is to be made, unless it is cancelled before."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Nothing will be called."""
        self._call = None

    def fire(self) -> None:
        """Makes the call."""
        if self._call is not None:
            self._call()


class InsideLoop:
    """Calls what is waited for, one after the other."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._stopped = False

    def on_readable(self, fd: int, call: Callable[[], None]) -> None:
        """Calls whenever a descriptor can be read; a pidfd can when its process is gone."""
        self._selector.register(fd, selectors.EVENT_READ, call)

    def on_writable(self, fd: int, call: Callable[[], None]) -> None:
        """Calls whenever a descriptor takes more."""
        self._selector.register(fd, selectors.EVENT_WRITE, call)

    def forget(self, fd: int) -> None:
        """Waits for that descriptor no more."""
        with suppress(KeyError):
            self._selector.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls once, later."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    def stop(self) -> None:
        """Has :meth:`run` return."""
        self._stopped = True

    def run(self) -> None:
        """Waits and calls until it is stopped."""
        while not self._stopped:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, _ in self._selector.select(wait):
                if key.fd in self._selector.get_map():  # a call before this one may have changed its mind
                    key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2].fire()


class Outbox:
    """What is to be written to a pipe, as soon as that takes it.

    Args:
        loop: Waits.
        fd: The pipe; stays the caller's.
        on_broken: Called when nobody reads any more.
    """

    def __init__(self, loop: InsideLoop, fd: int, on_broken: Callable[[], None]) -> None:
        self._loop, self._fd, self._on_broken = loop, fd, on_broken
        self._waiting: deque[memoryview] = deque()
        os.set_blocking(fd, False)

    def put(self, data: bytes) -> None:
        """Writes in its turn."""
        is_first = not self._waiting
        self._waiting.append(memoryview(data))
        if is_first:
            self._write()
            if self._waiting:
                self._loop.on_writable(self._fd, self._write)

    def _write(self) -> None:
        try:
            while self._waiting:
                written = os.write(self._fd, self._waiting[0][:CHUNK])
                self._waiting[0] = self._waiting[0][written:]
                if not self._waiting[0]:
                    self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._waiting.clear()
            self._on_broken()
        self._loop.forget(self._fd)


class Capture:
    """Reads one output of a process for as long as it is open, and keeps what is asked for.

    Args:
        loop: Waits.
        fd: Where to read; taken over.
    """

    def __init__(self, loop: InsideLoop, fd: int) -> None:
        self._loop, self._fd = loop, fd
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._dropped = False
        self._is_wanted = True
        os.set_blocking(fd, False)
        loop.on_readable(fd, self._on_readable)

    def take(self) -> tuple[bytes, bool]:
        """All that was written until now, and whether some of it was dropped; what follows is kept anew."""
        # A pipe holds less than that; who writes faster than we read does not keep us here.
        for _ in range(64):
            if not self._read():
                break
        data, dropped = b"".join(self._kept), self._dropped
        self._kept, self._size, self._dropped = deque(), 0, False
        if len(data) > OUTPUT_LIMIT:
            data, dropped = data[-OUTPUT_LIMIT:], True
        return _from_whole_character(data) if dropped else data, dropped

    def ignore(self) -> None:
        """Reads on, so that whoever still writes is not held up, and keeps nothing."""
        self._is_wanted = False

    def close(self) -> None:
        """Reads no more."""
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        if self._is_wanted:
            self._kept.append(data)
            self._size += len(data)
            while self._size - len(self._kept[0]) >= OUTPUT_LIMIT:
                self._size -= len(self._kept.popleft())
                self._dropped = True
        return True


def _from_whole_character(data: bytes) -> bytes:
    """Without the rest of a UTF-8 character that was cut."""
    begin = next((index for index, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), 0)
    return data[begin:]
