"""The files of sessions: directories on this machine's disk, and copies of them in an object store. Floor: control.

::

    <root>/<session>/files      /workspace inside; code does there what it likes
    <root>/<session>/packages   its own installed packages
    <root>/<session>/incoming   uploads that are not whole yet; code never sees it

Nothing in ``files`` is ever followed, believed or waited for, see :mod:`ipybox.control.storage.beneath`.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import re
import secrets
import stat
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ipybox.control.errors import FileTooLargeError, StorageError, StorageFullError, WorkspaceFileError
from ipybox.control.records import Artifact
from ipybox.control.storage import changes, incoming, names, trees
from ipybox.control.storage.beneath import DIRECTORY, PLACE, explained, open_beneath, open_file, open_parent
from ipybox.control.storage.changes import Changes, Snapshot
from ipybox.control.storage.copies import Copies
from ipybox.control.storage.files import CHUNK, OpenedFile, StoredFile, stored_file
from ipybox.control.storage.incoming import Incoming
from ipybox.control.storage.mirror import Mirror
from ipybox.control.storage.threads import Stop, Threads

T = TypeVar("T")

_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REMOVED = ".removed-"
_UNRESTORED = "unrestored"
_DELETE_SECONDS = 30.0


@dataclass(slots=True)
class _Intake:
    """Bytes that come into one session just now."""

    uploads: int = 0
    pending: int = 0
    received: int = 0


class Workspaces:
    """Workspaces below a directory that is nobody else's. An async context manager, which makes that directory.

    A session's id has to begin with a letter or digit, and may hold these and ``._-``; ``ValueError`` otherwise.
    Paths are relative to the session's workspace. Every one of its functions can be cancelled, and has then either
    done its work or not begun it, but for :meth:`remove` and :meth:`delete` of a directory, which go as far as they do.

    Args:
        root: The directory.
        uid: Who owns what is made there; None for this process's user. Needs root if it is another one.
        min_free_bytes: Room on the disk below which nothing more is taken.
        copies: Where files are copied to; None for nowhere.
    """

    def __init__(self, root: Path, *, uid: int | None, min_free_bytes: int, copies: Copies | None = None) -> None:
        self._root = Path(os.path.abspath(root))
        self._uid, self._min_free_bytes = uid, min_free_bytes
        self._threads = Threads()
        # Both take long, and none of them may keep a snapshot waiting.
        self._removing, self._reading = asyncio.Semaphore(2), asyncio.Semaphore(4)
        self._token = f"{secrets.token_hex(8)}-"
        self._intakes: dict[str, _Intake] = {}
        self._copies = copies
        self._mirror = None if copies is None else Mirror(copies, self._threads, self._begin)

    async def __aenter__(self) -> Self:
        await self._threads.quick(self._make_root)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._threads.close()

    # ---- directories ------------------------------------------------------------------------------------------

    def files(self, session_id: str) -> Path:
        """The directory that is ``/workspace`` inside."""
        return self._base(session_id) / "files"

    def packages(self, session_id: str) -> Path:
        """The directory of the session's own packages."""
        return self._base(session_id) / "packages"

    async def create(self, session_id: str, *, is_new: bool = False) -> Path:
        """Makes what is missing of a session's directories, and gives that of its files.

        Args:
            is_new: There never was a session of this id: :meth:`restore` has nothing to look for.

        Raises:
            StorageFullError: There is too little room on the disk.
        """
        return await self._threads.quick(self._create, self._base(session_id), is_new)

    async def remove(self, session_id: str) -> None:
        """Removes a session's directories with whatever code has left there, and its copies. Nothing is fine as well.

        The session has no directory from the first moment on. Its sandbox must have ended. What could not be removed
        is among :meth:`orphans`, whose names this takes as well.

        Raises:
            StorageError: The copies could not be removed.
            OSError: A file could not.
        """
        removed = session_id.startswith(_REMOVED)
        if not removed:
            self._base(session_id)
            tombstone = await self._threads.quick(self._bury, session_id)
        else:
            tombstone = session_id
            session_id = session_id[len(_REMOVED) :].partition("~")[2]
            self._base(session_id)
        self._intakes.pop(session_id, None)
        if tombstone is not None:
            async with self._removing:
                await self._threads.long(lambda stop: self._empty_tombstone(tombstone, stop))
        # Of the same id, there may be another session by now: what is in the object store is that one's.
        if self._mirror is not None and not (removed and self._base(session_id).exists()):
            await self._mirror.remove(session_id)
        if tombstone is not None:
            with suppress(FileNotFoundError):  # it was among the orphans for as long as it took: somebody was faster
                await self._threads.quick(os.rmdir, self._root / tombstone)

    async def orphans(self, known: Collection[str]) -> list[str]:
        """Directories that belong to none of the known sessions; :meth:`remove` takes them."""
        names_known = frozenset(known)

        def look(stop: Stop) -> list[str]:
            with os.scandir(self._root) as found:
                return sorted(
                    entry.name
                    for entry in found
                    if entry.name not in names_known
                    and entry.is_dir(follow_symlinks=False)
                    and (entry.name.startswith(_REMOVED) or _SESSION_ID.fullmatch(entry.name))
                )

        return await self._threads.long(look)

    async def free_bytes(self) -> int:
        """Room on the disk, in bytes."""

        def look() -> int:
            disk = os.statvfs(self._root)
            return disk.f_bavail * disk.f_frsize

        return await self._threads.quick(look)

    async def usage(self, session_id: str) -> int:
        """Bytes that a session's files take on the disk; of more than 500,000 files, what the first of them take."""
        return (await self._usage(session_id)).size

    # ---- files ------------------------------------------------------------------------------------------------

    async def write(
        self, session_id: str, path: str, chunks: AsyncIterable[bytes], *, limit: int, quota: int
    ) -> StoredFile:
        """Makes a file of bytes as they come, in place of one that may be there, and the directories above it.

        Code sees nothing of it until it is whole; if it never gets whole, nothing was done. With an object store, it
        is there before it is here.

        Args:
            limit: Bytes that it may have.
            quota: Bytes that the whole workspace may have.

        Raises:
            FileTooLargeError: It has more.
            StorageFullError: The workspace would have more, or the disk is full.
            StorageError: It could not be copied.
            WorkspaceFileError: There can be no file at that path.
        """
        inner = names.inner(path)
        files = self.files(session_id)
        with explained(inner):
            await self._threads.quick(_within, files, lambda top: incoming.check_target(top, inner))
        intake = self._intakes.setdefault(session_id, _Intake())
        intake.uploads += 1
        try:
            return await self._receive(session_id, inner, chunks, limit, quota, intake)
        finally:
            intake.uploads -= 1
            if not intake.uploads and self._intakes.get(session_id) is intake:
                del self._intakes[session_id]

    async def _receive(
        self, session_id: str, path: str, chunks: AsyncIterable[bytes], limit: int, quota: int, intake: _Intake
    ) -> StoredFile:
        pending, before = intake.pending, intake.received
        used = await self._usage(session_id)
        if not used.is_complete:
            raise StorageFullError("the workspace has more files than can be counted")
        room = quota - used.size - pending
        files = self.files(session_id)
        with explained(path):
            file = await self._threads.quick(self._begin, files, undo=Incoming.close)
        mine, is_placed = 0, False
        try:
            buffer = bytearray()
            async for chunk in chunks:
                mine += len(chunk)
                intake.pending += len(chunk)
                intake.received += len(chunk)
                if mine > limit:
                    raise FileTooLargeError(limit)
                if intake.received - before > room:
                    raise StorageFullError(f"the workspace would be larger than {quota} bytes")
                buffer += chunk
                if len(buffer) >= CHUNK:
                    await self._append(file, path, buffer)
                    buffer = bytearray()
            await self._append(file, path, buffer)

            async def place() -> StoredFile:
                with explained(path):
                    return await self._threads.quick(_placed, file, files, path)

            stored = await (self._mirror.receive(session_id, files, path, file, place) if self._mirror else place())
            is_placed = True
            return stored
        finally:
            intake.pending -= mine
            if not is_placed:
                intake.received -= mine
            await self._threads.finish(file.close)

    async def _append(self, file: Incoming, path: str, data: bytearray) -> None:
        with explained(path):
            await self._threads.quick(file.write, data)

    async def open(self, session_id: str, path: str) -> OpenedFile:
        """Opens a regular file to be read: ``async with await workspaces.open(...) as file``.

        Raises:
            WorkspaceFileError: It is no regular file, may not be read, or does not exist.
        """
        inner = names.inner(path)
        with explained(inner):
            fd = await self._threads.quick(
                _within, self.files(session_id), lambda top: open_file(top, inner), undo=os.close
            )
        try:
            return OpenedFile(fd, inner, self._threads)
        except BaseException:
            os.close(fd)
            raise

    async def list(self, session_id: str, path: str = "", *, limit: int, recursive: bool = False) -> list[StoredFile]:
        """What is in a directory, sorted by path: the first ``limit`` of up to 500,000. A file is listed as itself.

        Args:
            recursive: Regular files only, in all directories below.

        Raises:
            WorkspaceFileError: There is no such directory.
        """
        inner = names.inner(path) if path else ""

        def look(stop: Stop) -> list[StoredFile]:
            return _within(self.files(session_id), lambda top: _list(top, inner, limit, recursive, stop))

        with explained(inner):
            return await self._threads.long(look)

    async def delete(self, session_id: str, path: str, *, recursive: bool = False) -> None:
        """Removes a file, a link, or whatever else it is.

        Args:
            recursive: A directory with all in it, too.

        Raises:
            WorkspaceFileError: There is nothing, or a directory, or code goes on making files in it.
            StorageError: The copy could not be removed; the file is gone.
        """
        inner = names.inner(path)
        files = self.files(session_id)

        def drop(top: int, stop: Stop) -> None:
            parent, name = open_parent(top, inner)
            try:
                if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    if not recursive:
                        raise WorkspaceFileError(path, "it is a directory")
                    trees.remove(parent, name, stop, give_up=_DELETE_SECONDS)
                else:
                    os.unlink(name, dir_fd=parent)
            finally:
                os.close(parent)

        with explained(inner):
            await self._threads.long(lambda stop: _within(files, lambda top: drop(top, stop)))
        if self._mirror is not None:
            await self._mirror.push_below(session_id, files, inner)

    # ---- what code has done -----------------------------------------------------------------------------------

    async def snapshot(self, session_id: str) -> Snapshot:
        """What files there are, for :meth:`compare`."""
        return await self._look(session_id, changes.take)

    async def compare(self, session_id: str, before: Snapshot) -> Changes:
        """What is different from then: made, changed and removed files, and the artifacts among them."""
        found, wanted = await self._look(session_id, lambda top, stop: changes.compare(top, before, stop))
        if not wanted:
            return found
        async with self._reading:
            artifacts = await self._look(session_id, lambda top, stop: changes.artifacts(top, wanted, stop))
        return replace(found, artifacts=artifacts)

    async def changes(self, session_id: str, before: Snapshot) -> tuple[Artifact, ...]:
        """The artifacts alone, see :class:`~ipybox.control.storage.changes.Changes`; 1,000 at most.

        Checksums are of up to 1 GiB and take up to 5 seconds; an artifact beyond that has an empty one.
        """
        return (await self.compare(session_id, before)).artifacts

    # ---- copies -----------------------------------------------------------------------------------------------

    async def push(self, session_id: str, changed: Changes | Iterable[str], removed: Iterable[str] = ()) -> None:
        """Copies files as they are now, and removes the copies of those that are gone. Nothing without an object store.

        Args:
            changed: Paths, or what :meth:`compare` gave, which has the removed ones as well.

        Raises:
            StorageError: The object store does not answer, or refuses.
        """
        if self._mirror is None:
            return
        if isinstance(changed, Changes):
            removed = (*changed.removed, *removed)
            changed = changed.changed
        paths = [names.inner(path) for each in (changed, removed) for path in each]
        await self._mirror.push(session_id, self.files(session_id), paths)

    async def restore(self, session_id: str) -> int:
        """Makes disk and copies agree before a session's sandbox starts. Gives how many files were brought back.

        If :meth:`create` had to make the directory, what has copies is brought back, but takes no file's place.
        Otherwise the disk is right, and what was changed there without being copied, as a server died, is copied now;
        or with the next :meth:`push`, if the store does not answer. If it fails, it can be called again.

        Raises:
            StorageError: The object store does not answer, or a copy is damaged.
            StorageFullError: There is no room.
        """
        if self._mirror is None:
            return 0
        mark, files = self._base(session_id) / _UNRESTORED, self.files(session_id)
        if not await self._threads.quick(mark.exists):
            try:
                with explained(""):
                    await self._mirror.catch_up(session_id, files)
            except StorageError:
                pass  # remembered there
            return 0
        count = await self._mirror.restore(session_id, files)
        await self._threads.quick(lambda: mark.unlink(missing_ok=True))
        return count

    async def presigned(self, session_id: str, path: str, seconds: int = 3600) -> str | None:
        """A URL from which a file can be loaded for that long; None without an object store.

        The copy is made again before, if the file is not what was copied.

        Raises:
            WorkspaceFileError: As :meth:`open`.
            StorageError: The object store does not answer, or refuses.
        """
        if self._mirror is None:
            return None
        async with await self.open(session_id, path) as file:
            return await self._mirror.presigned(session_id, names.inner(path), file, seconds)

    # ---- in threads -------------------------------------------------------------------------------------------

    def _base(self, session_id: str) -> Path:
        if not _SESSION_ID.fullmatch(session_id):
            raise ValueError(f"{session_id!r} can't be the id of a session")
        return self._root / session_id

    def _make_root(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o700)

    def _create(self, base: Path, is_new: bool) -> Path:
        with explained(""):
            self._make_root()
            files = base / "files"
            disk = os.statvfs(self._root)
            if disk.f_bavail * disk.f_frsize < self._min_free_bytes and not os.path.lexists(files):
                raise StorageFullError("less room is left on the disk than has to be kept free")
            try:
                base.mkdir(0o700)
            except FileExistsError:
                pass
            if self._copies is not None and not is_new and not os.path.lexists(files):
                (base / _UNRESTORED).touch()
            for path in (base / "incoming", base / "packages", files):  # the last is what tells that all are there
                try:
                    path.mkdir(0o700)
                except FileExistsError:
                    continue
                if self._uid is not None and path.name != "incoming":
                    os.chown(path, self._uid, self._uid, follow_symlinks=False)
            incoming.sweep(str(base / "incoming"), self._token)
        return files

    def _bury(self, session_id: str) -> str | None:
        tombstone = f"{_REMOVED}{secrets.token_hex(8)}~{session_id}"
        try:
            os.rename(self._root / session_id, self._root / tombstone)
        except FileNotFoundError:
            return None
        return tombstone

    def _empty_tombstone(self, tombstone: str, stop: Stop) -> None:
        with suppress(FileNotFoundError):
            _within(self._root / tombstone, lambda top: trees.empty(top, stop))

    async def _usage(self, session_id: str) -> trees.Usage:
        return await self._look(session_id, trees.usage)

    async def _look(self, session_id: str, work: Callable[[int, Stop], T]) -> T:
        files = self.files(session_id)
        with explained(""):
            return await self._threads.long(lambda stop: _within(files, lambda top: work(top, stop)))

    def _begin(self, files: Path) -> Incoming:
        return Incoming(str(files.parent / "incoming"), self._token, self._uid, self._min_free_bytes)


def _within(directory: Path, work: Callable[[int], T]) -> T:
    """Does something with a directory of ours opened."""
    top = os.open(directory, DIRECTORY)
    try:
        return work(top)
    finally:
        os.close(top)


def _names(entries: Iterable[os.DirEntry[str]], stop: Stop) -> Iterator[str]:
    for entry in islice(entries, trees.MOST_ENTRIES):
        stop.check()
        yield entry.name


def _placed(file: Incoming, files: Path, path: str) -> StoredFile:
    stored = _within(files, lambda top: file.place(top, path))
    assert stored is not None  # as it may replace what is there
    return stored


def _list(top: int, path: str, limit: int, recursive: bool, stop: Stop) -> list[StoredFile]:
    place = open_beneath(top, path, PLACE)
    try:
        facts = os.fstat(place)
        if not stat.S_ISDIR(facts.st_mode):
            is_wanted = stat.S_ISREG(facts.st_mode) or not recursive
            return [stored_file(path, facts)][: limit if is_wanted else 0]
        here = os.open(".", DIRECTORY, dir_fd=place)
    finally:
        os.close(place)
    prefix = f"{path}/" if path else ""
    try:
        if recursive:
            found = heapq.nsmallest(
                limit,
                (
                    (each, facts)
                    for each, facts in trees.Walk(here, stop=stop)
                    if each is not None and stat.S_ISREG(facts.st_mode)
                ),
                key=lambda entry: entry[0],
            )
            return [stored_file(f"{prefix}{each}", facts) for each, facts in found]
        with os.scandir(here) as entries:
            chosen = heapq.nsmallest(limit, _names(entries, stop))
        listed = []
        for name in chosen:
            try:
                listed.append(stored_file(f"{prefix}{name}", os.stat(name, dir_fd=here, follow_symlinks=False)))
            except FileNotFoundError:
                continue
        return listed
    finally:
        os.close(here)
