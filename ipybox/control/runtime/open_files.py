"""What a sandbox keeps on a disk though it has no name there any more. Floor: control.

A file that was removed takes its room for as long as it is open, or mapped into memory. Found by looking into the
processes from outside, so they have no say in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

from ipybox.process import warden

MOST = 100_000
"""Open files that are looked at."""
_BLOCK = 512
_MAPPED = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) .* \(deleted\)\n")

Key = tuple[int, int]


class TooManyFilesError(Exception):
    """There are more than can be looked at."""


def unnamed_bytes(root: int, device: int) -> int:
    """Bytes that processes below one keep on a device in files that have no name.

    Args:
        root: A pid; what that process itself has mapped does not count, as those below have it from there.
        device: Number of the device.

    Raises:
        TooManyFilesError: There are more than :data:`MOST` open files.
    """
    sizes: dict[Key, int] = {}
    known = set(_mapped(root))
    left = MOST
    for pid in _below(root):
        for key, size in _opened(pid):
            left -= 1
            if left < 0:
                raise TooManyFilesError
            if key[0] == device:
                sizes[key] = size
        for key, size in _mapped(pid).items():
            if key[0] == device and key not in known and key not in sizes:
                sizes[key] = size
    return sum(sizes.values())


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


def _opened(pid: int) -> Iterator[tuple[Key, int]]:
    directory = f"/proc/{pid}/fd"
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                status = os.stat(f"{directory}/{entry.name}")
                is_unnamed = status.st_nlink == 0
                yield (status.st_dev if is_unnamed else -1, status.st_ino), status.st_blocks * _BLOCK


def _mapped(pid: int) -> dict[Key, int]:
    found: dict[Key, int] = {}
    with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            if line.endswith(b" (deleted)\n") and (match := _MAPPED.fullmatch(line)):
                begin, end, major, minor = (int(part, 16) for part in match.groups()[:4])
                key = os.makedev(major, minor), int(match[5])
                found[key] = found.get(key, 0) + end - begin
    return found
