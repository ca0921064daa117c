"""What memory a process has, as Linux tells it. Floor: process."""

from __future__ import annotations

import os


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def used(pid: int, limit: int) -> int:
    """Bytes of memory that a process has, as far as they matter for a limit: what it shares counts in part.

    A fork shares most of its memory with what it was forked from. To find that out takes a look at all of its pages,
    which only one that could be above the limit is worth.
    """
    at_most = resident(pid)
    return at_most if at_most <= limit else proportional(pid)


def proportional(pid: int) -> int:
    """Bytes of memory that a process has, shared ones divided by those who share; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        return resident(pid)  # nobody may look closer
    return 0
