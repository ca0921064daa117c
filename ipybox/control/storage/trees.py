"""Walks and removes trees that untrusted code made: of any depth, any size, any permissions. Floor: control.

Nothing is followed, nothing recurses, and neither the number of open files nor the length of a path grows with the
depth. Code may work in the tree meanwhile: what is found is then some mixture of before and after, but never anything
from elsewhere, and every walk ends.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ipybox.control.storage.beneath import DIRECTORY, PLACE, open_beneath
from ipybox.control.storage.names import LONGEST_PATH
from ipybox.control.storage.threads import Stop

MOST_ENTRIES = 500_000
"""That one walk looks at."""

_DEEPEST_OPEN = 24
"""Directories of a walk that stay open; the way back from further down is ``..``, and checked."""
_MOST_LINKS = 100_000
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ESTALE)
_BLOCK = 512


@dataclass(slots=True)
class _Level:
    """A directory on the way down."""

    device: int
    inode: int
    prefix: str | None
    todo: list[str] = field(default_factory=list)
    fd: int | None = None


class Walk:
    """All that is below a directory: pairs of path, relative to it, and ``os.stat_result``.

    The path is None where it is too long to be used.

    Args:
        top: Open directory; stays open.
        most: Entries after which it ends.
        skip: Names of directories that are not looked into.
        stop: Ends it with :class:`StoppedError`.
    """

    def __init__(
        self, top: int, *, most: int = MOST_ENTRIES, skip: Collection[str] = (), stop: Stop | None = None
    ) -> None:
        self._top, self._most, self._skip, self._stop = top, most, skip, stop
        self.is_complete = True
        """Whether everything was seen that could be; valid at the end."""

    def __iter__(self) -> Iterator[tuple[str | None, os.stat_result]]:
        here = os.open(".", DIRECTORY, dir_fd=self._top)
        found = os.fstat(here)
        device = found.st_dev
        levels = [_Level(found.st_dev, found.st_ino, "")]
        left = self._most
        try:
            for entry in self._entries(here, levels[-1]):
                left -= 1
                yield entry
            while True:
                level = levels[-1]
                if left <= 0:
                    self.is_complete = False
                    return
                if not level.todo:
                    levels.pop()
                    if not levels:
                        return
                    above = self._climb(here, levels[-1])
                    os.close(here)
                    here = -1
                    if above is None:  # it was moved elsewhere while we were in it
                        self.is_complete = False
                        return
                    here = above
                    continue
                name = level.todo.pop()
                try:
                    inner = os.open(name, DIRECTORY, dir_fd=here)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    continue
                if len(levels) < _DEEPEST_OPEN:
                    level.fd = here
                else:
                    os.close(here)
                here = inner
                found = os.fstat(here)
                prefix = None if level.prefix is None else f"{level.prefix}{name}/"
                if prefix is not None and len(prefix) > LONGEST_PATH:
                    prefix = None
                levels.append(_Level(found.st_dev, found.st_ino, prefix))
                if found.st_dev == device:
                    for entry in self._entries(here, levels[-1], left):
                        left -= 1
                        yield entry
        finally:
            for fd in (here, *(each.fd for each in levels)):
                if fd is not None and fd >= 0:
                    os.close(fd)

    def _entries(
        self, here: int, level: _Level, most: int | None = None
    ) -> Iterator[tuple[str | None, os.stat_result]]:
        with os.scandir(here) as found:
            for entry in itertools.islice(found, most if most is not None else self._most):
                if self._stop is not None:
                    self._stop.check()
                try:
                    facts = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    continue
                if stat.S_ISDIR(facts.st_mode) and entry.name not in self._skip:
                    level.todo.append(entry.name)
                yield None if level.prefix is None else f"{level.prefix}{entry.name}", facts

    @staticmethod
    def _climb(here: int, level: _Level) -> int | None:
        if level.fd is not None:
            fd, level.fd = level.fd, None
            return fd
        try:
            above = os.open("..", DIRECTORY, dir_fd=here)
        except OSError:
            return None
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) == (level.device, level.inode):
            return above
        os.close(above)
        return None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree takes.

    Attributes:
        size: Bytes on the disk; a file with several names counts once.
        is_complete: Whether it was small enough to be counted to its end; ``size`` is the least it takes if not.
    """

    size: int
    is_complete: bool


def usage(top: int, stop: Stop | None = None, *, most: int = MOST_ENTRIES) -> Usage:
    """Counts what is below a directory, and itself."""
    size = os.fstat(top).st_blocks
    linked: set[int] = set()
    walk = Walk(top, most=most, stop=stop)
    for _, facts in walk:
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            if facts.st_ino in linked:
                continue
            if len(linked) < _MOST_LINKS:
                linked.add(facts.st_ino)
        size += facts.st_blocks
    return Usage(size * _BLOCK, walk.is_complete)


def empty(top: int, stop: Stop | None = None, *, give_up: float | None = None) -> None:
    """Removes everything in a directory. What lies deep is brought up first, so that no path is ever long.

    Args:
        give_up: Seconds after which ``OSError`` (``EBUSY``) is raised, for trees that code still works in.
    """
    ends = None if give_up is None else time.monotonic() + give_up
    fresh = (f"{os.urandom(8).hex()}.{number}" for number in itertools.count())
    found = True
    while found:
        found = False
        with os.scandir(top) as entries:  # never all names at once: there may be millions
            for entry in entries:
                found = True
                _check(stop, ends)
                if entry.is_dir(follow_symlinks=False):
                    _flatten(top, entry.name, fresh, stop, ends)
                else:
                    _unlink(top, entry.name)


def remove(parent: int, name: str, stop: Stop | None = None, *, give_up: float | None = None) -> None:
    """Removes whatever has that name, with all in it; nothing is fine as well. As :func:`empty` otherwise."""
    try:
        top = _open_any(parent, name)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        _unlink(parent, name)
        return
    try:
        ends = None if give_up is None else time.monotonic() + give_up
        while True:
            empty(top, stop, give_up=give_up)
            try:
                os.rmdir(name, dir_fd=parent)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                _check(stop, ends)
    finally:
        os.close(top)


def _flatten(top: int, name: str, fresh: Iterator[str], stop: Stop | None, ends: float | None) -> None:
    try:
        directory = _open_any(top, name)
    except (FileNotFoundError, NotADirectoryError):
        return  # something else by now; the next pass sees to it
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                _check(stop, ends)
                if entry.is_dir(follow_symlinks=False):
                    try:
                        os.close(_open_any(directory, entry.name))  # what moves is written itself
                        os.rename(entry.name, next(fresh), src_dir_fd=directory, dst_dir_fd=top)
                    except (FileNotFoundError, NotADirectoryError):
                        pass
                else:
                    _unlink(directory, entry.name)
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
            raise


def _unlink(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        pass  # since a moment ago; the next pass sees to it


def _open_any(parent: int, name: str) -> int:
    """Opens a directory to be emptied, whatever its permissions are."""
    place = open_beneath(parent, name, PLACE | os.O_DIRECTORY)
    try:
        mode = stat.S_IMODE(os.fstat(place).st_mode)
        if mode & 0o700 != 0o700:
            try:
                os.chmod(f"/proc/self/fd/{place}", 0o700)
            except PermissionError:
                pass  # of another user, and maybe open to all
        return os.open(".", DIRECTORY, dir_fd=place)
    finally:
        os.close(place)


def _check(stop: Stop | None, ends: float | None) -> None:
    if stop is not None:
        stop.check()
    if ends is not None and time.monotonic() > ends:
        raise OSError(errno.EBUSY, "code goes on making files in it")
