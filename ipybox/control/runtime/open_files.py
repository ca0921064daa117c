"""What a sandbox keeps on a disk though it has no name there any more. Floor: control.

A file that was removed takes its room for as long as it is open, mapped into memory, or on its way through a socket.
Found by looking into the processes from outside, so they have no say in it. What would take too long, or can't be seen,
is said to be so: a look that takes its time is one that code has outrun.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ipybox.process import warden
from ipybox.sandbox.syscalls import MACHINES, number

MOST = 100_000
"""Open files that are looked at, and threads that may have some."""
MOST_MAPPED = 200_000
"""Mappings that are looked at, of all processes together."""
_BLOCK = 512
_KCMP_FILES = 2
_MOST_COMPARED = 64
_MAPPED = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) .* \(deleted\)\n")

_MOUNT = re.compile(r"^mnt_id:\s*(\d+)", re.MULTILINE)
_ON_THE_WAY = re.compile(rb"^scm_fds:\s*([1-9])", re.MULTILINE)

_MACHINE = os.uname().machine
_SYS_KCMP = number("kcmp", _MACHINE) if _MACHINE in MACHINES else None
_libc = ctypes.CDLL(None, use_errno=True)

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Unnamed:
    """What was found.

    Attributes:
        bytes: Of files that are open or mapped.
        is_sending: Whether descriptors are on their way through a socket, of which nobody can say what they are.
    """

    bytes: int
    is_sending: bool


class UnseenFilesError(Exception):
    """What there is can't be looked at; the message says why."""


def unnamed(root: int, device: int, places: Collection[str] = ()) -> Unnamed:
    """What processes below one keep on a device in files that have no name.

    Args:
        root: A pid; what that process itself has mapped does not count, as those below have it from there.
        device: Number of the device.
        places: Where these processes have it mounted. One that we may not look into must have nothing open there.

    Raises:
        UnseenFilesError: There are more than :data:`MOST` open files or :data:`MOST_MAPPED` mappings, or a process
            hides what it has open.
    """
    sizes: dict[Key, int] = {}
    looks = _Looks()
    known = set(looks.mapped(root))
    is_sending = False
    mounts: frozenset[str] | None = None
    for pid in _below(root):
        for thread in _with_files_of_its_own(pid):
            looks.count_file()
            try:
                for name, status in _opened(thread):
                    looks.count_file()
                    if status.st_nlink == 0 and status.st_dev == device:
                        sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
                    elif stat.S_ISSOCK(status.st_mode):
                        is_sending = is_sending or _is_sending(thread, name)
            except PermissionError:
                mounts = _mounts(root, places) if mounts is None else mounts
                if mounts and _has_open(thread, mounts):
                    raise UnseenFilesError(
                        "a process hides which files it has open, so the room that they take can't be measured"
                    ) from None
        for key, size in looks.mapped(pid).items():
            if key[0] == device and key not in known and key not in sizes:
                sizes[key] = size
    return Unnamed(sum(sizes.values()), is_sending)


class _Looks:
    """Counts what is looked at."""

    def __init__(self) -> None:
        self._files, self._mapped = MOST, MOST_MAPPED

    def count_file(self) -> None:
        """One more."""
        self._files -= 1
        if self._files < 0:
            raise UnseenFilesError(f"more than {MOST} files are open, so the room that they take can't be measured")

    def mapped(self, pid: int) -> dict[Key, int]:
        """Files without a name that a process has mapped, and how much of each."""
        found: dict[Key, int] = {}
        for thread in (pid, *_others(pid)):
            before = self._mapped
            with suppress(OSError), open(f"/proc/{thread}/maps", "rb") as file:
                for line in file:
                    self._mapped -= 1
                    if self._mapped < 0:
                        raise UnseenFilesError(
                            f"more than {MOST_MAPPED} pieces of memory are mapped, so the room that files among them "
                            "take can't be measured"
                        )
                    if line.endswith(b" (deleted)\n") and (match := _MAPPED.fullmatch(line)):
                        begin, end, major, minor = (int(part, 16) for part in match.groups()[:4])
                        key = os.makedev(major, minor), int(match[5])
                        found[key] = found.get(key, 0) + end - begin
            if self._mapped < before:
                break  # it is the same for all of its threads, but for a first one that has ended
        return found


def _below(root: int) -> Iterator[int]:
    queue = [root]
    while queue:
        pid = queue.pop()
        children = _children(pid)
        if children is None:  # a kernel that does not list them
            yield from warden.descendants(root, warden.parents())
            return
        yield from children
        queue += children


def _children(pid: int) -> list[int] | None:
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found  # it is gone
    for task in tasks:
        path = f"/proc/{pid}/task/{task}/children"
        try:
            with open(path, "rb") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.isdir(os.path.dirname(path)):
                return None
        except OSError:
            continue
    return found


def _others(pid: int) -> list[int]:
    """Threads of a process besides the first one, which may have ended before them."""
    with suppress(OSError):
        return [int(task) for task in os.listdir(f"/proc/{pid}/task") if int(task) != pid]
    return []


def _with_files_of_its_own(pid: int) -> list[int]:
    """Threads of a process of which each has other open files: mostly its first one alone."""
    found = [pid]
    for thread in _others(pid):
        if not any(_share_files(thread, other) for other in found[:_MOST_COMPARED]):
            found.append(thread)
    return found


def _share_files(one: int, other: int) -> bool:
    """Whether that is known; where the system does not say it, each thread is looked at."""
    return _SYS_KCMP is not None and _libc.syscall(_SYS_KCMP, one, other, _KCMP_FILES, 0, 0) == 0


def _opened(thread: int) -> Iterator[tuple[str, os.stat_result]]:
    """What is open, with its number. Raises ``PermissionError`` where that is hidden, and of what has ended already."""
    directory = f"/proc/{thread}/fd"
    try:
        entries = os.scandir(directory)
    except PermissionError:
        raise
    except OSError:
        return
    with suppress(OSError), entries:
        for entry in entries:
            with suppress(OSError):
                yield entry.name, os.stat(f"{directory}/{entry.name}")


def _is_sending(thread: int, name: str) -> bool:
    with suppress(OSError), open(f"/proc/{thread}/fdinfo/{name}", "rb") as file:
        return _ON_THE_WAY.search(file.read()) is not None
    return False


def _mounts(pid: int, places: Collection[str]) -> frozenset[str]:
    """Numbers of what is mounted at these places."""
    with suppress(OSError), open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split() for line in file]
        return frozenset(parts[0] for parts in lines if len(parts) > 4 and parts[4] in places)
    return frozenset()


def _has_open(thread: int, mounts: frozenset[str]) -> bool:
    """Whether something is open that is mounted there, or nobody tells us; nothing is in what has ended."""
    directory = f"/proc/{thread}/fdinfo"
    try:
        for name in os.listdir(directory):
            with suppress(FileNotFoundError, ProcessLookupError), open(f"{directory}/{name}", encoding="ascii") as file:
                found = _MOUNT.search(file.read())
                if found is not None and found[1] in mounts:
                    return True
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return not _is_dead(thread)
    return False


def _is_dead(thread: int) -> bool:
    with suppress(OSError, IndexError), open(f"/proc/{thread}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    return True
