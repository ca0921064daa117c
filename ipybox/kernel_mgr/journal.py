"""A bounded log of what a kernel sent, on disk. Floor: kernel_mgr.

Every message gets the next number. Readers come with the number that they want next, so a broken connection loses
nothing that is still here. When the log is full, its oldest segment goes; what is gone is told, never skipped.
The files have no name, so nothing can stay behind.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections import deque
from pathlib import Path

_SEGMENTS = 8


class _Segment:
    """A run of consecutive records in one file without a name."""

    def __init__(self, directory: Path, first: int) -> None:
        self.first = first
        self.ends = array("Q")
        self.size = 0
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by close()

    def append(self, record: bytes) -> None:
        written = 0
        view = memoryview(record)
        try:
            while written < len(view):
                written += os.pwrite(self._file.fileno(), view[written:], self.size + written)
        except OSError:
            os.ftruncate(self._file.fileno(), self.size)
            raise
        self.size += len(view)
        self.ends.append(self.size)

    def read(self, index: int) -> bytes:
        start = self.ends[index - 1] if index else 0
        end = self.ends[index]
        data = os.pread(self._file.fileno(), end - start, start)
        while len(data) < end - start:  # one call reads 2 GiB at most
            more = os.pread(self._file.fileno(), end - start - len(data), start + len(data))
            if not more:
                raise OSError("the journal's file is shorter than what was written to it")
            data += more
        return data

    def close(self) -> None:
        self._file.close()


class Journal:
    """Numbered records, the newest of which are kept.

    Args:
        directory: Where the files without a name live while they are open.
        capacity: Bytes kept at most; one record that is larger is kept alone.
    """

    def __init__(self, directory: Path, capacity: int) -> None:
        self._directory = directory
        self._capacity = capacity
        self._segments: deque[_Segment] = deque()
        self._next = 0

    @property
    def first(self) -> int:
        """Number of the oldest record that is kept; equal to :attr:`next` when none is."""
        return self._segments[0].first if self._segments else self._next

    @property
    def next(self) -> int:
        """Number that the next record gets."""
        return self._next

    @property
    def capacity(self) -> int:
        """Bytes kept at most."""
        return self._capacity

    def append(self, record: bytes, keep_from: int | None = None) -> int:
        """Adds a record and returns its number. Records from ``keep_from`` on stay, also beyond the capacity.

        A disk that is full does not stop live delivery: the record gets its number, and everything up to it counts
        as gone for later readers.
        """
        number = self._next
        self._next += 1
        try:
            segment = self._segments[-1] if self._segments else None
            if segment is None or segment.size + len(record) > self._capacity // _SEGMENTS:
                segment = _Segment(self._directory, number)
                self._segments.append(segment)
            segment.append(record)
        except OSError:
            self.close()
            return number
        self.trim(number if keep_from is None else keep_from)
        return number

    def trim(self, keep_from: int) -> None:
        """Drops the oldest records, as far as the capacity asks for it and they come before ``keep_from``."""
        while (
            len(self._segments) > 1
            and self._segments[1].first <= keep_from
            and sum(segment.size for segment in self._segments) > self._capacity
        ):
            self._segments.popleft().close()

    def read(self, number: int) -> bytes:
        """A record by its number. Raises ``KeyError`` when it is not kept any more, or does not exist yet."""
        for segment in reversed(self._segments):
            if number >= segment.first:
                index = number - segment.first
                if index < len(segment.ends):
                    return segment.read(index)
                break
        raise KeyError(number)

    def size_from(self, number: int) -> int:
        """Bytes of the kept records from ``number`` on."""
        total = 0
        for segment in reversed(self._segments):
            if number <= segment.first:
                total += segment.size
                continue
            index = number - segment.first
            if index < len(segment.ends):
                total += segment.size - segment.ends[index - 1]
            break
        return total

    def close(self) -> None:
        """Forgets all records."""
        while self._segments:
            self._segments.popleft().close()
