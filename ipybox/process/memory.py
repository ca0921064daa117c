"""What memory a process has, as Linux tells it. Floor: process."""

from __future__ import annotations

import os

_LARGE = 1024**3
"""Bytes of addresses from which on the tables that translate them are looked at: these can take a 512th of that, though
nothing is there but zeros, which are nobody's memory."""


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 when it is gone."""
    return _resident(pid) or next(filter(None, map(_resident, _other_threads(pid))), 0)


def used(pid: int, limit: int) -> int:
    """Bytes of memory that a process has, as far as they matter for a limit: what it shares counts in part.

    A fork shares most of its memory with what it was forked from. To find that out takes a look at all of its pages,
    which only one that could be above the limit is worth.
    """
    at_most = resident(pid)
    return at_most if at_most <= limit else proportional(pid)


def proportional(pid: int) -> int:
    """Bytes of memory that a process has, shared ones divided by those who share; 0 when it is gone."""
    return _proportional(pid) or next(filter(None, map(_proportional, _other_threads(pid))), 0)


def _other_threads(pid: int) -> list[int]:
    """A process whose first thread has ended goes on with the others, and only those tell of its memory."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid]
    except OSError:
        return []


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            addresses, present = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in file.read().split()[:2])
            return present + (_page_tables(pid) if addresses > _LARGE else 0)
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024 + _page_tables(pid)
    except (OSError, IndexError, ValueError):
        return _resident(pid)  # nobody may look closer
    return 0


def _page_tables(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmPTE:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return 0
