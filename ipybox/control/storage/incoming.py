"""A file on its way into a workspace: whole and in its place, or nowhere. Floor: control.

It is written where code can't reach it, on the file system of the workspace, and then renamed. All of this blocks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from typing import Self

from ipybox.control.errors import StorageFullError, WorkspaceFileError
from ipybox.control.storage.beneath import (
    DIRECTORY,
    PLACE,
    kind_in_words,
    make_parent,
    open_beneath,
    open_parent,
    remove_made,
)
from ipybox.control.storage.files import StoredFile, stored_file
from ipybox.control.storage.names import shown

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Incoming:
    """Begins one. Who has it calls :meth:`place` or not, and :meth:`close` in any case.

    Args:
        directory: Where it is written.
        prefix: Begins its name there.
        uid: Whose it will be; None leaves it with this process.
        min_free_bytes: Room that has to be left on the disk.
    """

    def __init__(self, directory: str, prefix: str, uid: int | None, min_free_bytes: int) -> None:
        self._directory = os.open(directory, DIRECTORY)
        self._name: str | None = f"{prefix}{secrets.token_hex(8)}"
        self._uid, self._min_free_bytes = uid, min_free_bytes
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes so far."""
        try:
            self._fd = os.open(self._name, _NEW, 0o600, dir_fd=self._directory)
        except BaseException:
            os.close(self._directory)
            raise

    @classmethod
    def begin(cls, directory: str, prefix: str, uid: int | None, min_free_bytes: int) -> Self:
        """As the constructor, for a thread."""
        return cls(directory, prefix, uid, min_free_bytes)

    @property
    def checksum(self) -> str:
        """Of what was written."""
        return f"sha256:{self._hash.hexdigest()}"

    @property
    def mtime_ns(self) -> int:
        """When the last of it was written."""
        return os.fstat(self._fd).st_mtime_ns

    def write(self, data: bytes | bytearray) -> None:
        """Adds bytes.

        Raises:
            StorageFullError: The disk would be too full.
            OSError: It is, or fails.
        """
        disk = os.fstatvfs(self._fd)
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes + len(data):
            raise StorageFullError("less room is left on the disk than has to be kept free")
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._hash.update(data)
        self.size += len(data)

    def read(self, start: int, size: int) -> bytes:
        """What was written, again."""
        return os.pread(self._fd, size, start)

    def place(
        self, files: int, path: str, *, mode: int = 0o644, mtime_ns: int | None = None, replace: bool = True
    ) -> StoredFile | None:
        """Moves it to an inner path below an open directory, and makes the directories that are missing.

        Args:
            mode: Permissions.
            mtime_ns: Time of change that it is to have; now by default.
            replace: Whether to take the place of a file; if not, None is the answer.

        Raises:
            WorkspaceFileError: There is something that is no regular file.
            OSError: The path can't be used.
        """
        if self._name is None:
            raise RuntimeError("it has its place already")
        os.fchmod(self._fd, mode & 0o777)
        if self._uid is not None:
            os.fchown(self._fd, self._uid, self._uid)
        if mtime_ns is not None:
            os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        parent, name, made = make_parent(files, path, self._uid)
        try:
            # A rename follows no link and opens nothing, so this is about manners, not about safety.
            if _refuse_odd(parent, name, path) and not replace:
                return None
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=parent)
        except BaseException:
            remove_made(files, made)
            raise
        finally:
            os.close(parent)
        self._name = None
        return stored_file(path, os.fstat(self._fd), self.checksum)

    def close(self) -> None:
        """Removes it, unless it has its place."""
        name, self._name = self._name, None
        try:
            if name is not None:
                os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            pass  # the session was removed meanwhile
        finally:
            os.close(self._fd)
            os.close(self._directory)


def check_target(files: int, path: str) -> None:
    """Whether a file could be put at an inner path, as things are now; so that one need not wait for its last byte.

    Raises:
        WorkspaceFileError, OSError: It could not.
    """
    parts = path.split("/")
    here = os.dup(files)
    try:
        for part in parts[:-1]:
            inner = open_beneath(here, part, PLACE)
            os.close(here)
            here = inner
            mode = os.fstat(here).st_mode
            if not stat.S_ISDIR(mode):
                raise WorkspaceFileError(shown(path), f"{shown(part)!r} is {kind_in_words(mode)}, not a directory")
        _refuse_odd(here, parts[-1], path)
    except FileNotFoundError:
        pass
    finally:
        os.close(here)


def unlink(files: int, path: str) -> None:
    """Removes the name of whatever is at an inner path, and is no directory."""
    parent, name = open_parent(files, path)
    try:
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def sweep(directory: str, prefix: str) -> None:
    """Removes what an earlier process has left half-written: all that does not begin with ``prefix``."""
    with os.scandir(directory) as found:
        for entry in found:
            if not entry.name.startswith(prefix):
                try:
                    os.unlink(entry.path)
                except FileNotFoundError:
                    pass  # somebody else was faster


def _refuse_odd(parent: int, name: str, path: str) -> bool:
    """Whether there is a file already. Raises for what else there may be."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise WorkspaceFileError(shown(path), f"it is {kind_in_words(mode)}, and can't be replaced by a file")
    return True
