"""Copies of sessions' files in an object store. Floor: control.

::

    sessions/<session>/files/<path>    a file
    sessions/<session>/long/<hash>     one whose path is too long for a key,
    sessions/<session>/names/<hash>    and its path

Only regular files are copied, with their permissions and times; links, pipes and empty directories are not.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ipybox.control.errors import StorageError, WorkspaceFileError
from ipybox.control.storage import names
from ipybox.control.storage.attachment import content_disposition
from ipybox.control.storage.beneath import DIRECTORY, explained, open_file
from ipybox.control.storage.changes import NEVER_COPIED
from ipybox.control.storage.copies import PART, Copies, Copy
from ipybox.control.storage.files import CHUNK, OpenedFile
from ipybox.control.storage.incoming import Incoming
from ipybox.control.storage.threads import Stop, Threads
from ipybox.control.storage.trees import Walk

T = TypeVar("T")

_AT_ONCE = 8
_CLOCKS = 600.0
"""Seconds by which the clocks of the store and of the disk may differ."""
_SHA256, _MODE, _MTIME = "sha256", "mode", "mtime"


@dataclass(slots=True)
class _Lock:
    """A lock, and how many want it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class Mirror:
    """Keeps copies of what sessions have.

    Args:
        copies: Where.
        threads: For what blocks.
        begin: Begins a file that goes to a session's directory of files.
    """

    def __init__(self, copies: Copies, threads: Threads, begin: Callable[[Path], Incoming]) -> None:
        self._copies, self._threads, self._begin = copies, threads, begin
        self._behind: set[str] = set()
        self._locks: dict[tuple[str, str], _Lock] = {}

    async def receive(
        self, session_id: str, files: Path, path: str, file: Incoming, place: Callable[[], Awaitable[T]]
    ) -> T:
        """Copies an upload, and then puts it in its place: code can't change it before, and who waits has both.

        Raises:
            StorageError: It could not be copied, and was not placed.
        """
        async with self._alone(session_id, path):
            try:
                await self._send(session_id, path, file)
                return await place()
            except StorageError:
                raise
            except BaseException:
                try:  # the copy may be of what did not find its place
                    if not await self._copy_if_there(session_id, files, path):
                        await self._copies.delete(_keys(session_id, path))
                except StorageError:
                    pass  # and the first error is the one to tell
                raise

    async def push(self, session_id: str, files: Path, paths: Iterable[str]) -> None:
        """Makes the copies of some paths what the files are now: changed, or gone.

        Raises:
            StorageError: It did not work; some may be done, and the next call sees to the others.
        """
        todo = [*paths]
        try:
            if session_id in self._behind:
                try:
                    await self.catch_up(session_id, files)
                except StorageError:
                    if todo:
                        raise
                    return  # what is missing was told then
            await self._push(session_id, files, todo)
        except BaseException:
            self._behind.add(session_id)
            raise

    async def catch_up(self, session_id: str, files: Path) -> None:
        """Makes all copies of a session what its files are now: some were changed without being copied.

        Raises:
            StorageError: It did not work; some may be done, and the next :meth:`push` sees to the others.
        """
        self._behind.add(session_id)
        here = await self._threads.long(lambda stop: _sizes(files, stop))
        stale: list[str] = []
        async for copy in self._copies.list(f"sessions/{session_id}/files/"):
            try:
                path = names.path_of_key(copy.key.split("/", 3)[3])
            except ValueError:
                continue  # nothing that we put there
            size, changed_at = here.pop(path, (-1, 0.0))
            if size != copy.size or changed_at > copy.modified_at.timestamp() - _CLOCKS:
                stale.append(path)
        async for copy in self._copies.list(f"sessions/{session_id}/names/"):
            stale.append(await self._long_path(copy.key))
        await self._push(session_id, files, {*stale, *here})
        self._behind.discard(session_id)

    async def _push(self, session_id: str, files: Path, paths: Iterable[str]) -> None:
        gone: list[str] = []

        async def push(path: str) -> None:
            if NEVER_COPIED.isdisjoint(path.split("/")[:-1]):
                async with self._alone(session_id, path):
                    if not await self._copy_if_there(session_id, files, path):
                        gone.append(path)

        async def look_again(path: str) -> None:
            async with self._alone(session_id, path):
                await self._copy_if_there(session_id, files, path)

        await _each(paths, push)
        if gone:
            await self._copies.delete(key for path in gone for key in _keys(session_id, path))
            await _each(gone, look_again)  # an upload may have come in between

    async def push_below(self, session_id: str, files: Path, path: str) -> None:
        """As :meth:`push`, for a path and all copies that are of paths below it.

        Raises:
            StorageError: It did not work; some may be done.
        """
        below = [path]
        if (key := names.object_key(path)) is not None:
            async for copy in self._copies.list(f"sessions/{session_id}/files/{key}/"):
                try:
                    below.append(names.path_of_key(copy.key.split("/", 3)[3]))
                except ValueError:
                    continue  # nothing that we put there
        async for copy in self._copies.list(f"sessions/{session_id}/names/"):
            if (long := await self._long_path(copy.key)).startswith(f"{path}/"):
                below.append(long)
        await self.push(session_id, files, below)

    async def remove(self, session_id: str) -> None:
        """Removes all copies of a session.

        Raises:
            StorageError: It did not work; some may be gone.
        """
        self._behind.discard(session_id)
        await self._copies.delete_prefix(f"sessions/{session_id}/")

    async def restore(self, session_id: str, files: Path) -> int:
        """Brings back all files that are not there, and says how many.

        Raises:
            StorageError: It did not work, or a copy is damaged.
            StorageFullError: There is no room.
        """
        count = 0

        async def restore(copy: Copy) -> None:
            nonlocal count
            _, _, kind, name = copy.key.split("/", 3)
            if kind == "files":
                try:
                    path = names.path_of_key(name)
                except ValueError:
                    return  # nothing that we put there
            else:
                path = await self._long_path(copy.key.replace("/long/", "/names/", 1))
            if await self._restore(copy.key, files, path):
                count += 1

        for kind in ("files", "long"):
            await _each_of(self._copies.list(f"sessions/{session_id}/{kind}/"), restore)
        return count

    async def presigned(self, session_id: str, path: str, file: OpenedFile, seconds: int) -> str:
        """A URL of the copy of an open file, which is made again if it is another one.

        Raises:
            StorageError: It did not work.
        """
        key = _keys(session_id, path)[0]
        copy = await self._copies.head(key)
        if copy is None or copy.size != file.size or copy.facts.get(_MTIME) != str(file.mtime_ns):
            async with self._alone(session_id, path):
                await self._copy(session_id, path, file)
        return await self._copies.presigned(key, seconds)

    @asynccontextmanager
    async def _alone(self, session_id: str, path: str) -> AsyncIterator[None]:
        """One at a time for each path: of two versions, the copy must be of the one that stays."""
        key = (session_id, path)
        lock = self._locks.setdefault(key, _Lock())
        lock.wanted += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.wanted -= 1
            if not lock.wanted:
                del self._locks[key]

    async def _send(self, session_id: str, path: str, file: Incoming) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, file.size, PART):
                yield await self._threads.quick(file.read, start, PART)

        mtime = await self._threads.quick(lambda: file.mtime_ns)
        facts = _facts(path, 0o644, mtime, file.checksum.removeprefix("sha256:"))
        small = file.size <= PART
        data = await self._threads.quick(file.read, 0, PART) if small else chunks()
        await self._put(session_id, path, data, file.size, facts)

    async def _copy_if_there(self, session_id: str, files: Path, path: str) -> bool:
        try:
            with explained(path):
                fd = await self._threads.quick(_open, files, path, undo=os.close)
        except WorkspaceFileError:  # gone, or a link, or unreadable: nothing that one could bring back
            return False
        async with OpenedFile(fd, path, self._threads) as file:
            await self._copy(session_id, path, file)
        return True

    async def _copy(self, session_id: str, path: str, file: OpenedFile) -> None:
        """Copies what is there; of a file that becomes shorter meanwhile, that is less. Its change is to come yet."""

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for data in file.chunks(size=PART):
                    yield data
            except WorkspaceFileError:
                return

        if file.size > PART:
            facts = _facts(path, file.mode, file.mtime_ns, None)
            await self._put(session_id, path, chunks(), file.size, facts)
        else:
            data = b"".join([data async for data in chunks()])
            facts = _facts(path, file.mode, file.mtime_ns, hashlib.sha256(data).hexdigest())
            await self._put(session_id, path, data, len(data), facts)

    async def _put(
        self, session_id: str, path: str, data: bytes | AsyncIterator[bytes], size: int, facts: dict[str, str]
    ) -> None:
        key, *name = _keys(session_id, path)
        if name:
            await self._copies.put(name[0], os.fsencode(path))
        await self._copies.put(key, data, size=size, facts=facts)

    async def _long_path(self, key: str) -> str:
        raw = b"".join([data async for data in self._copies.get(key)])
        try:
            return names.inner(names.shown(os.fsdecode(raw)))
        except WorkspaceFileError as error:
            raise StorageError(f"{key!r} is not the name of a file") from error

    async def _restore(self, key: str, files: Path, path: str) -> bool:
        copy = await self._copies.head(key)
        if copy is None:
            return False  # removed since it was listed
        with explained(path):
            file = await self._threads.quick(self._begin, files, undo=Incoming.close)
        try:
            with explained(path):
                async for data in self._copies.get(key):
                    for start in range(0, len(data), CHUNK):
                        await self._threads.quick(file.write, data[start : start + CHUNK])
            if copy.facts.get(_SHA256, file.checksum[7:]) != file.checksum[7:]:
                raise StorageError(f"the copy of {names.shown(path)!r} is not what was sent")
            mode, mtime = _number(copy.facts.get(_MODE), 8, 0o644), _number(copy.facts.get(_MTIME), 10, None)
            try:
                with explained(path):
                    return await self._threads.quick(_place, file, files, path, mode, mtime)
            except WorkspaceFileError:
                return False  # there is something else of that name
        finally:
            await self._threads.finish(file.close)


def _keys(session_id: str, path: str) -> tuple[str, ...]:
    """The key of a file, and that of its name if it needs one."""
    key = names.object_key(path)
    if key is not None:
        return (f"sessions/{session_id}/files/{key}",)
    digest = names.object_hash(path)
    return (f"sessions/{session_id}/long/{digest}", f"sessions/{session_id}/names/{digest}")


def _facts(path: str, mode: int, mtime_ns: int, sha256: str | None) -> dict[str, str]:
    facts = {
        "Content-Type": names.mime_type(path),
        "Content-Disposition": content_disposition(names.shown(path)),
        _MODE: f"{mode:o}",
        _MTIME: str(mtime_ns),
    }
    return facts if sha256 is None else {**facts, _SHA256: sha256}


def _number(text: str | None, base: int, default: T) -> int | T:
    try:
        return int(text or "", base)
    except ValueError:
        return default


def _sizes(files: Path, stop: Stop) -> dict[str, tuple[int, float]]:
    """Size and time of change of all regular files."""
    top = os.open(files, DIRECTORY)
    try:
        return {
            path: (facts.st_size, facts.st_ctime)
            for path, facts in Walk(top, skip=NEVER_COPIED, stop=stop)
            if path is not None and stat.S_ISREG(facts.st_mode)
        }
    finally:
        os.close(top)


def _open(files: Path, path: str) -> int:
    top = os.open(files, DIRECTORY)
    try:
        return open_file(top, path)
    finally:
        os.close(top)


def _place(file: Incoming, files: Path, path: str, mode: int, mtime_ns: int | None) -> bool:
    top = os.open(files, DIRECTORY)
    try:
        return file.place(top, path, mode=mode, mtime_ns=mtime_ns, replace=False) is not None
    finally:
        os.close(top)


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    async def one_by_one() -> AsyncIterator[T]:
        for item in items:
            yield item

    await _each_of(one_by_one(), work)


async def _each_of(items: AsyncIterator[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Does some of the work at once, and ends with the first error."""
    turn = asyncio.Lock()

    async def worker() -> None:
        while True:
            async with turn:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
