"""Files of a workspace as clients see them: what is said of one, and one that is open. Floor: control."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, Self

from ipybox.control.errors import WorkspaceFileError
from ipybox.control.storage import names
from ipybox.control.storage.threads import Threads

CHUNK = 256 * 1024

Kind = Literal["file", "directory", "link", "other"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """Something in a workspace.

    Attributes:
        name: The last part of its path.
        path: Relative to the workspace; what is listed here can be asked for. Bytes that are no UTF-8 are ``%FF``.
        container_path: Where code finds it.
        size: Bytes.
        modified_time: As the disk has it, which code can set to anything.
        etag: Strong, with quotation marks: another one after every change.
        kind: Only ``file`` can be read and written; links are never followed.
        mime_type: Guessed from the name.
        checksum: ``sha256:`` and 64 digits, where the content was at hand: of what was just written.
    """

    name: str
    path: str
    container_path: str
    size: int
    modified_time: datetime
    etag: str
    kind: Kind = "file"
    mime_type: str = "application/octet-stream"
    checksum: str | None = None


class OpenedFile:
    """A regular file, open to be read. An async context manager that closes it.

    Attributes:
        path: As in :class:`StoredFile`.
        size: Bytes, when it was opened.
        modified_at: As the disk has it.
        etag: Strong, with quotation marks.
        mime_type: Guessed from the name.
        mode: Its permissions.
        mtime_ns: As ``modified_at``, in nanoseconds.
    """

    def __init__(self, fd: int, path: str, threads: Threads) -> None:
        facts = os.fstat(fd)
        self._fd, self._threads = fd, threads
        self.path = names.shown(path)
        self.size = facts.st_size
        self.mtime_ns = facts.st_mtime_ns
        self.modified_at = moment(facts.st_mtime_ns)
        self.etag = etag(facts)
        self.mime_type = names.mime_type(path)
        self.mode = stat.S_IMODE(facts.st_mode)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes it, once; nothing may be reading."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def chunks(self, start: int = 0, stop: int | None = None, size: int = CHUNK) -> AsyncIterator[bytes]:
        """The bytes from ``start`` to before ``stop``, which is :attr:`size` at most and by default.

        Gives exactly as many bytes as that, though code changes the file meanwhile. No thread waits between two.

        Raises:
            WorkspaceFileError: It has become shorter than it was.
        """
        start, end = max(start, 0), self.size if stop is None else min(stop, self.size)
        while start < end:
            data = await self._threads.quick(self._read, start, min(size, end - start))
            if not data:
                raise WorkspaceFileError(self.path, "it became shorter while it was read")
            start += len(data)
            yield data

    def _read(self, start: int, size: int) -> bytes:
        return os.pread(self._fd, size, start)


def stored_file(path: str, facts: os.stat_result, checksum: str | None = None) -> StoredFile:
    """What clients get to know of the file at an inner path."""
    shown = names.shown(path)
    return StoredFile(
        name=names.shown(path.rpartition("/")[2]),
        path=shown,
        container_path=names.container_path(path),
        size=facts.st_size,
        modified_time=moment(facts.st_mtime_ns),
        etag=etag(facts),
        kind=kind(facts.st_mode),
        mime_type=names.mime_type(path),
        checksum=checksum,
    )


def kind(mode: int) -> Kind:
    """What a file of that mode is."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def etag(facts: os.stat_result) -> str:
    """Changes with every change. The change time is among it, since code can't set that one back."""
    known = f"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}-{facts.st_ctime_ns:x}"
    return f'"{hashlib.blake2b(known.encode(), digest_size=16).hexdigest()}"'


def moment(nanoseconds: int) -> datetime:
    """A time of the disk, which may be any number."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return _LATEST if nanoseconds > 0 else _EPOCH
