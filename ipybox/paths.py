"""Files in a directory that somebody hostile may write to as well. Floor: base.

Kernel code can plant links and FIFOs where we are about to write. So the directory itself is pinned by a descriptor
before any code runs, new files are created exclusively relative to it, and no link is ever followed.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafePathError(OSError):
    """A path is not what it was, or is a link, so nothing was written."""


class PinnedDirectory:
    """A directory held open, so that what is later put at its path makes no difference.

    Args:
        path: The directory. It is made, with its parents, by :meth:`open` if it does not exist. Its last component
            must not be a link; its parents are the caller's to trust.

    A directory that :meth:`open` made and that is still empty at :meth:`close` is removed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._absolute = path.absolute()  # the program may change its directory meanwhile
        self._fd: int | None = None
        self._made = False

    def open(self) -> PinnedDirectory:
        """Makes and pins the directory. Raises ``OSError`` (``UnsafePathError`` for a link)."""
        if self._fd is not None:
            return self
        try:
            os.makedirs(self._absolute.parent, exist_ok=True)
            os.mkdir(self._absolute)
            self._made = True
        except FileExistsError:
            pass
        try:
            self._fd = os.open(self._absolute, _DIRECTORY)
        except OSError as error:
            if self._absolute.is_symlink():
                raise UnsafePathError(f"{self.path} is a symbolic link") from error
            raise
        return self

    def write(self, name: str, data: bytes) -> Path:
        """Writes a new file, completely or not at all, and returns its path.

        Raises ``UnsafePathError`` when the directory's path leads somewhere else by now, and ``OSError`` when the
        write fails; in both cases no file stays behind.
        """
        fd = self.create(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            self._check_still_here()
        except BaseException:
            self.remove(name)
            raise
        return self.path / name

    def create(self, name: str) -> int:
        """Creates a new file and returns its descriptor, which the caller closes."""
        if not name or "/" in name or name in (".", ".."):
            raise ValueError(f"name must be a plain file name, got {name!r}")
        self.open()
        assert self._fd is not None
        return os.open(name, _NEW_FILE, 0o644, dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Removes a file again; one that is gone already is fine."""
        if self._fd is not None:
            try:
                os.unlink(name, dir_fd=self._fd)
            except FileNotFoundError:
                pass

    def close(self) -> None:
        """Lets go of the directory, and removes it if we made it and it is empty."""
        if self._fd is None:
            return
        try:
            if self._made:
                self._check_still_here()
                os.rmdir(self._absolute)
        except OSError:
            pass  # not empty, or not ours any more: leave it alone
        finally:
            os.close(self._fd)
            self._fd = None
            self._made = False

    def __enter__(self) -> PinnedDirectory:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_still_here(self) -> None:
        assert self._fd is not None
        try:
            there = os.stat(self._absolute, follow_symlinks=False)
        except FileNotFoundError:
            raise UnsafePathError(f"{self.path} was removed or renamed") from None
        if not os.path.samestat(there, os.fstat(self._fd)):
            raise UnsafePathError(f"{self.path} was replaced by something else")


def random_name(suffix: str) -> str:
    """A file name that nobody can guess and plant beforehand."""
    return secrets.token_hex(8) + suffix
