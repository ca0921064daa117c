"""What a project's files contain, as one digest, and fast when little has changed. Floor: testrun.

Links are never followed: what they lead to inside of the project counts by itself, and one that leads elsewhere keeps
the project from having a digest, as do files that can't be read or are none. Nothing is opened by its path, only
relative to its directory, so nobody can put a link in its way.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ipybox.testrun.visible_text import visible_line

ALWAYS_LEFT_OUT = (".git", ".hg", ".svn", "__pycache__", ".pytest_cache")
"""Names of what is no part of a project, wherever it is. Virtual environments are told by their ``pyvenv.cfg``."""

_FRESH = 2_000_000_000
"""Nanoseconds. A file that changed so recently may change again without its times showing it."""

_DEEPEST = 100
_MOST_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Stamp = str
"""Device, inode, size, mtime and ctime of a file: while they are the same, so are its contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFiles:
    """What was found.

    Attributes:
        digest: Of all names, kinds, contents and executable bits; empty if something could not be taken into account.
        reason: What that was; empty if there is a digest.
        files: How many files it covers.
        contents: Stamp and digest of each file, by path, for the next time. Files that are too fresh are left out.
    """

    digest: str = ""
    reason: str = ""
    files: int = 0
    contents: Mapping[bytes, tuple[Stamp, bytes]] = field(default_factory=dict)


def look_at(
    root: str | os.PathLike[str],
    *,
    exclude: Collection[str] = (),
    known: Mapping[bytes, tuple[Stamp, bytes]] | None = None,
) -> ProjectFiles:
    """Reads all files of a project that have changed since the last time.

    Args:
        root: The project's directory.
        exclude: What else is left out: patterns as of a shell, for paths relative to the root (``build``,
            ``docs/*.pdf``; ``*`` also stands for several directories). With a directory goes all that is in it.
        known: The ``contents`` of the last time.
    """
    walk = _Walk(os.fsencode(os.path.realpath(root)), exclude, known or {})
    try:
        walk.run()
    except _CannotTellError as error:
        return ProjectFiles(reason=visible_line(str(error)), contents=walk.contents)
    return ProjectFiles(digest=walk.digest(), files=walk.files, contents=walk.contents)


class _CannotTellError(Exception):
    """Something can't be taken into account."""


class _Walk:
    def __init__(self, root: bytes, exclude: Collection[str], known: Mapping[bytes, tuple[Stamp, bytes]]) -> None:
        self.contents: dict[bytes, tuple[Stamp, bytes]] = {}
        self.files = 0
        self._root = root
        self._patterns = [os.fsencode(each.rstrip("/")) for each in exclude]
        self._known = known
        self._began = time.time_ns()
        self._entries: dict[bytes, tuple[bytes, bytes]] = {}
        self._links: dict[bytes, bytes] = {}
        self._left_out: set[bytes] = set()

    def run(self) -> None:
        try:
            fd = os.open(self._root, _DIRECTORY)
        except OSError as error:
            raise _CannotTellError(f"{os.fsdecode(self._root)} can't be read: {error.strerror}") from None
        try:
            self._directory(fd, b"", 0)
        finally:
            os.close(fd)
        for path in self._links:
            self._check_link(path)

    def digest(self) -> str:
        total = hashlib.sha256()
        for path, (kind, value) in sorted(self._entries.items()):
            for part in (path, kind, value):
                total.update(len(part).to_bytes(8, "big") + part)
        return total.hexdigest()

    def _directory(self, fd: int, path: bytes, depth: int) -> None:
        if depth > _DEEPEST:
            raise _CannotTellError(f"{_shown(path)} is more than {_DEEPEST} directories deep")
        try:
            with os.scandir(fd) as entries:
                names = sorted(os.fsencode(entry.name) for entry in entries)
        except OSError as error:
            raise _CannotTellError(f"{_shown(path)} can't be read: {error.strerror}") from None
        for name in names:
            below = path + b"/" + name if path else name
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                self._entry(fd, name, below, found, depth)
            except OSError as error:
                raise _CannotTellError(f"{_shown(below)} can't be read: {error.strerror}") from None

    def _entry(self, parent: int, name: bytes, path: bytes, found: os.stat_result, depth: int) -> None:
        if self._is_left_out(name, path):
            self._left_out.add(path)
        elif stat.S_ISDIR(found.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                if _has_file(fd, "pyvenv.cfg"):
                    self._left_out.add(path)
                    return
                self._entries[path] = (b"directory", b"")
                self._directory(fd, path, depth + 1)
            finally:
                os.close(fd)
        elif stat.S_ISLNK(found.st_mode):
            self._links[path] = os.readlink(name, dir_fd=parent)
            self._entries[path] = (b"link", self._links[path])
        elif stat.S_ISREG(found.st_mode):
            kind = b"program" if found.st_mode & 0o111 else b"file"
            self._entries[path] = (kind, self._content(parent, name, path, found))
            self.files += 1
        else:
            raise _CannotTellError(f"{_shown(path)} is neither a file nor a directory")

    def _is_left_out(self, name: bytes, path: bytes) -> bool:
        if os.fsdecode(name) in ALWAYS_LEFT_OUT:
            return True
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self._patterns)

    def _content(self, parent: int, name: bytes, path: bytes, found: os.stat_result) -> bytes:
        stamp = _stamp(found)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            digest = known[1]
        else:
            fd = os.open(name, _FILE, dir_fd=parent)
            with os.fdopen(fd, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                if _stamp(os.fstat(fd)) != stamp:
                    raise _CannotTellError(f"{_shown(path)} changed while it was read")
        if max(found.st_mtime_ns, found.st_ctime_ns) < self._began - _FRESH:
            self.contents[path] = (stamp, digest)
        return digest

    def _check_link(self, path: bytes) -> None:
        """That all a link leads to is covered. What it leads to is found out from what was seen, not followed."""
        done: list[bytes] = path.split(b"/")[:-1]
        todo = self._parts(path, self._links[path], done)
        links = 1
        while todo:
            part = todo.pop(0)
            if part == b"..":
                if not done:
                    raise _leads_out(path)
                done.pop()
                continue
            done.append(part)
            place = b"/".join(done)
            if place in self._left_out:
                raise _CannotTellError(f"{_shown(path)} is a link to {_shown(place)}, which is left out")
            if place in self._links:
                links += 1
                if links > _MOST_LINKS:
                    return  # a circle leads nowhere
                done.pop()
                todo = self._parts(path, self._links[place], done) + todo

    def _parts(self, link: bytes, target: bytes, base: list[bytes]) -> list[bytes]:
        """What remains to be gone from ``base``, which becomes the root for an absolute target."""
        if target.startswith(b"/"):
            base.clear()
            if target != self._root and not target.startswith(self._root + b"/"):
                raise _leads_out(link)
            target = target[len(self._root) :]
        return [part for part in target.split(b"/") if part not in (b"", b".")]


def _leads_out(link: bytes) -> _CannotTellError:
    return _CannotTellError(f"{_shown(link)} is a link that leads out of the project")


def _has_file(fd: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _stamp(found: os.stat_result) -> Stamp:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _shown(path: bytes) -> str:
    return os.fsdecode(path) or "the project's directory"
