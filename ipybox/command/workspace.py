"""The private directory in which a command works, and which is gone with it. Floor: command."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import stat
from contextlib import suppress

from ipybox.errors import ProgramStartError

log = logging.getLogger("ipybox.command")

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_workspace(base_dir: str) -> str:
    """A new, empty directory of our own, for nobody else.

    Raises:
        ProgramStartError: There can be none; names ``base_dir`` and says why.
    """
    path = os.path.join(base_dir, f"sandbox-{secrets.token_hex(12)}")
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # whatever the umask is
    except OSError as error:
        raise ProgramStartError(
            f"no work directory can be made in base_dir {base_dir}: {error.strerror}; "
            "it must be an existing directory that can be written"
        ) from None
    return path


def remove_workspace(path: str) -> None:
    """Removes a directory and all in it. Follows no link, asks no permission bits, and no nesting is too deep.

    Nobody may be working in it any more. What can't be removed, such as files of another user, is logged.
    """
    try:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        log.warning("the work directory %s could not be removed: %s", path, error)
        return
    try:
        fd = _open(os.path.basename(path), parent)
        try:
            _empty(fd)
        finally:
            os.close(fd)
        os.rmdir(os.path.basename(path), dir_fd=parent)
    except FileNotFoundError:
        pass  # its warden has removed it
    except OSError as error:
        log.warning("the work directory %s could not be removed: %s", path, error)
    finally:
        os.close(parent)


def _open(name: str, parent: int) -> int:
    """Opens a directory whatever its permissions are; never what a link points to."""
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        with suppress(OSError):  # of another user, and maybe open to all
            os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, _OPEN, dir_fd=parent)


def _empty(root: int) -> None:
    """Removes everything in a directory. What lies deep is brought up first, so that no path is ever long."""
    fresh = (f"{secrets.token_hex(8)}.{number}" for number in itertools.count())
    while entries := _entries(root):
        for name, is_directory in entries:
            if not is_directory:
                os.unlink(name, dir_fd=root)
                continue
            directory = _open(name, root)
            try:
                for each, is_deeper in _entries(directory):
                    if is_deeper:
                        os.close(_open(each, directory))  # what moves is written itself, so it must be writable
                        os.rename(each, next(fresh), src_dir_fd=directory, dst_dir_fd=root)
                    else:
                        os.unlink(each, dir_fd=directory)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=root)


def _entries(directory: int) -> list[tuple[str, bool]]:
    """Names in a directory, and whether each is a directory itself."""
    with os.scandir(directory) as found:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
