"""What a sandbox keeps on a disk though it has no name there any more. Floor: control.

A file that was removed takes its room for as long as it is open, mapped into memory, or on its way through a socket.
Found by looking into the processes from outside, so they have no say in it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ipybox.process import warden

MOST = 100_000
"""Open files that are looked at."""
_BLOCK = 512
_MAPPED = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) .* \(deleted\)\n")

_ON_THE_WAY = re.compile(rb"^scm_fds:\s*([1-9])", re.MULTILINE)

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


class TooManyFilesError(Exception):
    """There are more than can be looked at."""


def unnamed(root: int, device: int) -> Unnamed:
    """What processes below one keep on a device in files that have no name.

    Args:
        root: A pid; what that process itself has mapped does not count, as those below have it from there.
        device: Number of the device.

    Raises:
        TooManyFilesError: There are more than :data:`MOST` open files.
    """
    sizes: dict[Key, int] = {}
    known = set(_mapped(root))
    left, is_sending = MOST, False
    for pid in _below(root):
        for number, status in _opened(pid):
            left -= 1
            if left < 0:
                raise TooManyFilesError
            if status.st_nlink == 0 and status.st_dev == device:
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
            elif stat.S_ISSOCK(status.st_mode):
                is_sending = is_sending or _is_sending(pid, number)
        for key, size in _mapped(pid).items():
            if key[0] == device and key not in known and key not in sizes:
                sizes[key] = size
    return Unnamed(sum(sizes.values()), is_sending)


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


def _opened(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    directory = f"/proc/{pid}/fd"
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                yield entry.name, os.stat(f"{directory}/{entry.name}")


def _is_sending(pid: int, number: str) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
        return _ON_THE_WAY.search(file.read()) is not None
    return False


def _mapped(pid: int) -> dict[Key, int]:
    found: dict[Key, int] = {}
    with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            if line.endswith(b" (deleted)\n") and (match := _MAPPED.fullmatch(line)):
                begin, end, major, minor = (int(part, 16) for part in match.groups()[:4])
                key = os.makedev(major, minor), int(match[5])
                found[key] = found.get(key, 0) + end - begin
    return found
