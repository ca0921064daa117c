"""Opens what lies below a directory that untrusted code writes to, and never anything else. Floor: control.

Every path goes to the system as one question, answered by ``openat2``: no part of it may be a link, lead upwards, or
lie on another file system. Nothing is checked first and used later, so there is no moment in which code could swap
one thing for another. Where the system lacks ``openat2`` the path is walked part by part, with the same answers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from ipybox.control.errors import StorageFullError, WorkspaceFileError
from ipybox.control.storage.names import shown

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a directory to be listed."""
PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open anything for reference only, and so wake no device and wait for no pipe."""

_SYS_OPENAT2 = 437  # the same on every architecture, as all numbers from 424 on
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_RESOLVE = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
_ATTEMPTS = 64
_libc = ctypes.CDLL(None, use_errno=True)

_REASONS = {
    errno.ELOOP: "a part of it is a link",
    errno.ENOTDIR: "a part of it is no directory",
    errno.EXDEV: "it leads outside of the workspace",
    errno.EACCES: "its permissions forbid it",
    errno.EPERM: "its permissions forbid it",
    errno.ENAMETOOLONG: "it is too long",
    errno.EAGAIN: "code holds a lock on it",
    errno.EISDIR: "it is a directory",
    errno.ENOTEMPTY: "the directory is not empty",
    errno.EMLINK: "the directory can't hold any more",
}


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what the system says about an inner path into what a client can be told.

    Raises:
        WorkspaceFileError: It can't be used like that, or does not exist.
        StorageFullError: There is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("no room is left on the disk") from error
        if error.errno in (errno.ENOENT, errno.ESTALE):
            raise WorkspaceFileError(shown(path), "there is no such file", is_missing=True) from error
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # it is not the path's fault
        reason = _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0)
        raise WorkspaceFileError(shown(path), reason) from error


def open_beneath(top: int, path: str, flags: int) -> int:
    """Opens a path below a directory; ``""`` is the directory itself. No part of it is followed if it is a link.

    Raises ``OSError``; with ``PLACE`` the last part may be a link, which is opened itself.
    """
    if not path:
        return os.open(".", flags | os.O_CLOEXEC, dir_fd=top)
    if not has_openat2():
        return _open_by_parts(top, path, flags)
    how = _How(flags | os.O_CLOEXEC, 0, _RESOLVE)
    raw = os.fsencode(path)
    for _ in range(_ATTEMPTS):
        fd: int = _libc.syscall(_SYS_OPENAT2, top, raw, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.EAGAIN) or not flags & os.O_PATH:
            break
    raise OSError(number, os.strerror(number))


@lru_cache(maxsize=1)
def has_openat2() -> bool:
    """Whether the system has it and lets us (seccomp filters of old container engines do not)."""
    how = _How(PLACE, 0, _RESOLVE)
    fd: int = _libc.syscall(_SYS_OPENAT2, -100, b".", ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        return False
    os.close(fd)
    return True


def open_parent(top: int, path: str) -> tuple[int, str]:
    """The directory that a path's last part is in, for reference, and that part."""
    parent, _, name = path.rpartition("/")
    return open_beneath(top, parent, PLACE | os.O_DIRECTORY), name


def make_parent(top: int, path: str, uid: int | None) -> tuple[int, str, list[str]]:
    """As :func:`open_parent`, but makes the directories that are missing; the third are those, uppermost first."""
    parts = path.split("/")
    try:
        return *open_parent(top, path), []
    except FileNotFoundError:
        pass
    here, made = os.dup(top), list[str]()
    try:
        for number, part in enumerate(parts[:-1], 1):
            is_new = True
            try:
                os.mkdir(part, 0o755, dir_fd=here)
                made.append("/".join(parts[:number]))
            except FileExistsError:
                is_new = False
            inner = open_beneath(here, part, DIRECTORY if is_new else PLACE | os.O_DIRECTORY)
            os.close(here)
            here = inner
            # Code may have put another directory there by now; what is not ours is its own already.
            if is_new and os.fstat(here).st_uid == os.geteuid():
                os.fchmod(here, 0o755)
                if uid is not None:
                    os.fchown(here, uid, uid)
        return here, parts[-1], made
    except BaseException:
        os.close(here)
        remove_made(top, made)
        raise


def remove_made(top: int, made: list[str]) -> None:
    """Takes back the directories that :func:`make_parent` made, as far as nobody has put anything into them."""
    for path in reversed(made):
        try:
            parent, name = open_parent(top, path)
        except OSError:
            return
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError:
            return
        finally:
            os.close(parent)


def open_file(top: int, path: str) -> int:
    """Opens a regular file to be read. Waits for nothing.

    Raises:
        WorkspaceFileError: It is no regular file.
        OSError: It can't be opened.
    """
    place = open_beneath(top, path, PLACE)
    try:
        mode = os.fstat(place).st_mode
        if not stat.S_ISREG(mode):
            raise WorkspaceFileError(shown(path), f"it is {kind_in_words(mode)}, and only regular files can be read")
        # The very file that was looked at, whatever its name means by now.
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(place)


def kind_in_words(mode: int) -> str:
    """What a file of that mode is."""
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a regular file" if stat.S_ISREG(mode) else "a device"


def _open_by_parts(top: int, path: str, flags: int) -> int:
    device = os.fstat(top).st_dev
    *parents, name = path.split("/")
    here = os.dup(top)
    try:
        for part in parents:
            inner = os.open(part, PLACE | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
    if os.fstat(fd).st_dev != device:
        os.close(fd)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    return fd
