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
