"""Names that sandboxed code must not make, taken before it can. Linux only. Floor: sandbox.

Only what exists can be mounted over. So for such a name something harmless is made on the host, and removed at the
end: an empty file, or in a git directory what git takes for the ordinary case. Several gateways may work in one
directory: each holds a lock on what it needs, and the last one removes it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ipybox.sandbox.bubblewrap import open_without_links

_MARK = "user.ipybox.placeholder"
"""Extended attribute that tells a placeholder of a gateway from a file of the user's."""
_LOCK_TRIES = 20
_LOCK_SECONDS = 0.05
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Placeholders:
    """Those that one gateway, or one sandbox for commands, needs."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def make(self, paths: Iterable[str]) -> None:
        """Makes those that are not there.

        Raises:
            OSError, SandboxUnavailableError: One can't be made, so it could not be guarded.
        """
        for path in paths:
            if path not in self._held:
                parent = open_without_links(os.path.dirname(path))
                try:
                    with suppress(FileExistsError):  # what is there is guarded as it is
                        self._held[path] = _make(path, parent)
                finally:
                    os.close(parent)

    def outlive(self, pidfd: int) -> None:
        """Says that they are in the way of a process; the descriptor stays the caller's."""

    def join(self, paths: Iterable[str]) -> None:
        """Holds those that another gateway has made, so that they stay while this one needs them."""
        for path in paths:
            if path in self._held:
                continue
            with suppress(OSError):
                fd = os.open(path, _OPEN)
                try:
                    os.getxattr(fd, _MARK)
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    os.close(fd)  # a file of the user's
                else:
                    self._held[path] = fd

    def remove(self) -> None:
        """Removes them, unless they have become something else meanwhile, or another gateway needs them."""
        for path, fd in self._held.items():
            with suppress(Exception):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path, os.fstat(fd))
            os.close(fd)
        self._held.clear()


def remove_left(held: Sequence[tuple[str, int, int]]) -> None:
    """Removes what somebody has left who can't do it any more: path, device and inode of each."""
    for path, device, inode in held:
        with suppress(Exception):
            fd = os.open(path, _OPEN)
            try:
                _lock(fd)
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) == (device, inode):
                    _remove(path, status)
            finally:
                os.close(fd)


def _lock(fd: int) -> None:
    """Who has just been killed may hold its locks for a moment."""
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_LOCK_SECONDS)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # somebody else needs it still


def _make(path: str, parent: int) -> int:
    name = os.path.basename(path)
    if name == "hooks" and _in_git(path):
        os.mkdir(name, 0o755, dir_fd=parent)
        fd = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
    else:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC, 0o644, dir_fd=parent)
        os.write(fd, _content(path))
    with suppress(OSError):  # not every file system has them; then two gateways in one directory don't share
        os.setxattr(fd, _MARK, b"1")
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _remove(path: str, held: os.stat_result) -> None:
    parent = open_without_links(os.path.dirname(path))
    try:
        name = os.path.basename(path)
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            return
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=parent)
        elif found.st_size == len(_content(path)):
            os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def _in_git(path: str) -> bool:
    return os.path.isfile(os.path.join(os.path.dirname(path), "HEAD"))


def _content(path: str) -> bytes:
    return b".\n" if os.path.basename(path) == "commondir" else b""
