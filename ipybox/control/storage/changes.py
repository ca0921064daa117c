"""What code has done to a workspace: what there was before, and what is different after. Floor: control."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from ipybox.control.errors import WorkspaceFileError
from ipybox.control.records import Artifact
from ipybox.control.storage import names
from ipybox.control.storage.beneath import open_file
from ipybox.control.storage.files import moment
from ipybox.control.storage.threads import Stop
from ipybox.control.storage.trees import Walk

MOST_ARTIFACTS = 1_000
MOST_REMEMBERED = 20_000
"""Files that a snapshot knows by name; of others it can only be told whether they changed since its time."""
MOST_CHANGES = 100_000
REMEMBERED_CHARACTERS = 4 * 1024**2
CHANGED_CHARACTERS = 16 * 1024**2
"""Of paths, which can have thousands each: all that is known of files is in memory."""
CHECKSUM_BYTES = 1024**3
CHECKSUM_SECONDS = 5.0

NEVER_COPIED = frozenset({".ipybox", "__pycache__"})
"""Directories that hold nothing of worth: they are neither artifacts nor copied."""
NO_ARTIFACTS = NEVER_COPIED | {
    ".cache",
    ".git",
    ".ipynb_checkpoints",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "node_modules",
}
"""Directories whose files are copied, but are not what somebody asked for."""

_READ = 1024**2
_TICK = 20_000_000  # by which the disk's clock may be behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What files there were.

    Attributes:
        files: Inode, size and time of change, by inner path.
        taken_ns: When, or a little earlier.
        is_complete: Whether ``files`` are all.
    """

    files: Mapping[str, tuple[int, int, int]] = field(repr=False)
    taken_ns: int
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different.

    Attributes:
        artifacts: Of the files made or changed, the first 1,000 by path, without those in directories such as
            ``__pycache__`` and ``.git``. An artifact whose ``checksum`` is empty was beyond what is read for checksums
            per execution: 1 GiB, 5 seconds.
        changed: Paths of all of them, up to 100,000, and to 16 million characters.
        removed: Paths of the files that are gone.
        is_complete: Whether the three are all there is to say.
    """

    artifacts: tuple[Artifact, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    is_complete: bool = True


def take(top: int, stop: Stop | None = None) -> Snapshot:
    """Looks at all files below an open directory."""
    taken = time.time_ns() - _TICK
    files: dict[str, tuple[int, int, int]] = {}
    walk = Walk(top, skip=NEVER_COPIED, stop=stop)
    is_complete, left = True, REMEMBERED_CHARACTERS
    for path, facts in walk:
        if path is None or not stat.S_ISREG(facts.st_mode):
            continue
        left -= len(path)
        if len(files) == MOST_REMEMBERED or left < 0:
            is_complete = False
            break
        files[path] = (facts.st_ino, facts.st_size, facts.st_ctime_ns)
    return Snapshot(files=files, taken_ns=taken, is_complete=is_complete and walk.is_complete)


def compare(top: int, before: Snapshot, stop: Stop | None = None) -> tuple[Changes, list[tuple[str, bool]]]:
    """Looks again: what is different, without artifacts, and what :func:`artifacts` needs for these."""
    changed: list[tuple[str, bool]] = []
    gone = set(before.files)
    walk = Walk(top, skip=NEVER_COPIED, stop=stop)
    is_complete, left = True, CHANGED_CHARACTERS
    for path, facts in walk:
        if path is None or not stat.S_ISREG(facts.st_mode):
            continue
        known = before.files.get(path)
        if known is not None:
            gone.discard(path)
            if known == (facts.st_ino, facts.st_size, facts.st_ctime_ns):
                continue
        elif not before.is_complete and facts.st_ctime_ns < before.taken_ns:
            continue
        left -= len(path)
        if len(changed) == MOST_CHANGES or left < 0:
            is_complete = False
            break
        changed.append((path, known is None))
    is_complete = is_complete and walk.is_complete
    if not changed and not gone:
        return Changes(is_complete=is_complete), []
    changed.sort()
    found = Changes(
        changed=tuple(names.shown(path) for path, _ in changed),
        removed=tuple(sorted(map(names.shown, gone))) if is_complete else (),
        is_complete=is_complete,
    )
    return found, [(path, new) for path, new in changed if NO_ARTIFACTS.isdisjoint(path.split("/")[:-1])]


def artifacts(top: int, wanted: Iterable[tuple[str, bool]], stop: Stop | None = None) -> tuple[Artifact, ...]:
    """Reads files for what is said of them: the first 1,000 inner paths, each with whether it is new."""
    left, ends = CHECKSUM_BYTES, time.monotonic() + CHECKSUM_SECONDS
    found = []
    for path, is_new in islice(wanted, MOST_ARTIFACTS):
        try:
            fd = open_file(top, path)
        except (OSError, WorkspaceFileError):
            continue  # gone, or something else, since a moment ago
        try:
            facts = os.fstat(fd)
            size, checksum = facts.st_size, ""
            if size <= left and time.monotonic() < ends:
                size, checksum = _checksum(fd, size, ends, stop)
                left -= size
        finally:
            os.close(fd)
        found.append(
            Artifact(
                path=names.shown(path),
                size=size,
                mime_type=names.mime_type(path),
                type="artifact" if is_new else "output",
                created_at=moment(facts.st_mtime_ns),
                checksum=checksum,
            )
        )
    return tuple(found)


def _checksum(fd: int, size: int, ends: float, stop: Stop | None) -> tuple[int, str]:
    """Of the first ``size`` bytes, or of fewer if there are no more; none if that takes too long."""
    digest = hashlib.sha256()
    done = 0
    while done < size:
        if stop is not None:
            stop.check()
        if time.monotonic() > ends:
            return size, ""
        data = os.pread(fd, min(_READ, size - done), done)
        if not data:
            break
        digest.update(data)
        done += len(data)
    return done, f"sha256:{digest.hexdigest()}"
