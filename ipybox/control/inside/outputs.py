"""What executions write, on its way to the owner: in pieces, in order, never more than is taken. Floor: control.

Whoever floods is held up by a full pipe, as by a slow terminal, and nobody else is. What is above the limit is read and
thrown away, so that it holds up nobody at all.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from ipybox.session.inside_loop import InsideLoop, Timer

CHUNK = 64 * 1024
"""Bytes that are read at once."""
_FULL = 1024 * 1024
_PIECE = 256 * 1024
_PAUSE = 0.015


class Line:
    """The pipe to the owner.

    Args:
        loop: Waits.
        fd: The pipe; stays the caller's.
        on_broken: Called when nobody reads any more.
    """

    def __init__(self, loop: InsideLoop, fd: int, on_broken: Callable[[], None]) -> None:
        self._loop, self._fd, self._on_broken = loop, fd, on_broken
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._held_up: list[Callable[[], None]] = []
        os.set_blocking(fd, False)

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be taken that nothing should be added that can wait elsewhere."""
        return self._size > _FULL

    def when_room(self, call: Callable[[], None]) -> None:
        """Calls once when there is room again."""
        self._held_up.append(call)

    def put(self, data: bytes) -> None:
        """Writes in its turn."""
        is_first = not self._waiting
        self._waiting.append(memoryview(data))
        self._size += len(data)
        if is_first:
            self._write()
            if self._waiting:
                self._loop.on_writable(self._fd, self._write)

    def _write(self) -> None:
        try:
            while self._waiting:
                written = os.write(self._fd, self._waiting[0][:_PIECE])
                self._size -= written
                self._waiting[0] = self._waiting[0][written:]
                if not self._waiting[0]:
                    self._waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()
            self._size = 0
            self._on_broken()
        if not self._waiting:
            self._loop.forget(self._fd)
        if not self.is_full:
            held_up, self._held_up = self._held_up, []
            for call in held_up:
                call()


class Output:
    """Reads one output of a process for as long as it is open.

    Args:
        loop: Waits.
        line: Says when to wait.
        fd: Where to read; taken over.
        tell: Gets what was read, in pieces; None keeps what comes until somebody is to be told.
        limit: Bytes that are told.
        on_cut: Called once when more than that came.
    """

    def __init__(
        self,
        loop: InsideLoop,
        line: Line,
        fd: int,
        tell: Callable[[bytes], None] | None,
        limit: int,
        on_cut: Callable[[], None],
    ) -> None:
        self._loop, self._line, self._fd = loop, line, fd
        self._tell, self._left, self._on_cut = tell, limit, on_cut
        self._kept = bytearray()
        self._is_cut = False
        self._timer: Timer | None = None
        self._is_paused = False
        os.set_blocking(fd, False)
        loop.on_readable(fd, self._on_readable)

    def turn_to(self, tell: Callable[[bytes], None] | None, limit: int, on_cut: Callable[[], None]) -> None:
        """Tells somebody else from now on, with what came since the last one was told."""
        self._tell, self._left, self._on_cut = tell, limit, on_cut
        kept, self._kept, self._is_cut = bytes(self._kept), bytearray(), False
        if kept:
            self._take(kept)

    def drain(self) -> None:
        """Tells all that was written until now."""
        # A pipe holds less than that; who writes faster than we read does not keep us here.
        for _ in range(64):
            if not self._read():
                break
        self._flush()

    def close(self) -> None:
        """Reads no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> None:
        if self._line.is_full and not self._is_cut and self._tell is not None:
            self._is_paused = True
            self._loop.forget(self._fd)
            self._line.when_room(self._resume)
        else:
            self._read()

    def _resume(self) -> None:
        if self._is_paused and self._fd >= 0:
            self._is_paused = False
            self._loop.on_readable(self._fd, self._on_readable)

    def _read(self) -> bool:
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        room = self._left - len(self._kept)
        self._kept += data[: max(room, 0)]
        if len(data) > room and not self._is_cut:
            self._is_cut = True
            self._flush()
            self._on_cut()
        elif self._timer is None:  # the first in a while goes at once, what follows in pieces
            self._flush()
            self._timer = self._loop.after(_PAUSE, self._pass_on)
        elif len(self._kept) >= _PIECE:
            self._flush()

    def _pass_on(self) -> None:
        self._timer = None
        if self._kept and self._tell is not None:
            self._flush()
            self._timer = self._loop.after(_PAUSE, self._pass_on)

    def _flush(self) -> None:
        if self._kept and self._tell is not None:
            kept, self._kept = bytes(self._kept), bytearray()
            self._left -= len(kept)
            self._tell(kept)
