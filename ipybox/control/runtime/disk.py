"""What a workspace takes of the host's disk. Floor: control.

A directory has no size limit of its own, so it is measured. Sandboxed code may be changing it meanwhile, with whatever
it thinks will lead us astray: no link is followed, and there are bounds to all that is done.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

DEEPEST = 128
"""Directories in each other that are looked into."""
_FEWEST_NAMES = 8192
_BYTES_PER_NAME = 8192
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What was found.

    Attributes:
        bytes: That are taken.
        device: Of which disk.
        problem: Why that is too much; None when it is not.
    """

    bytes: int
    device: int
    problem: str | None = None


def measure(directory: Path, limit: int) -> DiskUse:
    """Measures a directory, until it is known to be too large.

    Args:
        directory: Which; not a link.
        limit: Bytes that it may take. The number of files is limited as well, to one for each 8 KiB of that.
    """
    names_limit = max(_FEWEST_NAMES, limit // _BYTES_PER_NAME)
    counted = _Counted(limit, names_limit)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        device = os.fstat(root).st_dev
        counted.look(root, 0)
    except _TooMuchError as error:
        return DiskUse(counted.bytes, device, str(error))
    finally:
        os.close(root)
    return DiskUse(counted.bytes, device)


def too_large(limit: int) -> str:
    """What is said of more than that."""
    return f"the workspace takes more than {limit} bytes of the disk"


class _TooMuchError(Exception):
    """There is no need to look any further."""


class _Counted:
    def __init__(self, limit: int, names_limit: int) -> None:
        self._limit, self._names_limit = limit, names_limit
        self.bytes = 0
        self._names = 0
        self._linked: set[tuple[int, int]] = set()

    def look(self, directory: int, depth: int) -> None:
        if depth > DEEPEST:
            raise _TooMuchError(f"directories are nested deeper than {DEEPEST}, which can't be measured")
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                except OSError:
                    continue  # it is gone already
                self._add(status)
                if stat.S_ISDIR(status.st_mode):
                    self._enter(entry.name, directory, depth)

    def _enter(self, name: str, directory: int, depth: int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            inner = os.open(name, flags, dir_fd=directory)
        except PermissionError:
            raise _TooMuchError("a directory can't be read, so it can't be measured") from None
        except OSError:
            return  # it is gone, or something else now
        try:
            self.look(inner, depth + 1)
        finally:
            os.close(inner)

    def _add(self, status: os.stat_result) -> None:
        self._names += 1
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            key = status.st_dev, status.st_ino
            if key in self._linked:
                return self._check()
            self._linked.add(key)
        self.bytes += status.st_blocks * _BLOCK
        self._check()

    def _check(self) -> None:
        if self.bytes > self._limit:
            raise _TooMuchError(too_large(self._limit))
        if self._names > self._names_limit:
            raise _TooMuchError(f"the workspace has more than {self._names_limit} files")
