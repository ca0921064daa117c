"""Which execution of a session uses the most memory, as the host sees it, and its end. Floor: control."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress

from ipybox.process import memory, warden

_MOST_LOOKED_AT = 16
"""Processes of which it is found out what they share; that takes long, and there can be hundreds."""


def largest(agent: int, known: Collection[int]) -> tuple[int, int] | None:
    """The child of an agent that has the most memory with all below it.

    Args:
        agent: Pid of the agent on this machine.
        known: Children that may be chosen, by the pids that they have inside.

    Returns:
        Its pid on this machine, and the one that it has inside.
    """
    tree = warden.parents()
    families = {}
    for pid in (pid for pid, parent in tree.items() if parent == agent):
        inside = _inside(pid)
        if inside in known:
            families[pid, inside] = [pid, *warden.descendants(pid, tree)]
    if len(families) < 2:
        return next(iter(families), None)
    is_small = sum(map(len, families.values())) <= _MOST_LOOKED_AT
    used = memory.proportional if is_small else memory.resident
    return max(families, key=lambda family: sum(map(used, families[family])))


def end(pid: int) -> None:
    """Kills a process with all below it."""
    for each in (pid, *warden.descendants(pid, warden.parents())):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def end_below(pid: int) -> None:
    """Kills all below a process; who forks meanwhile is found the next time."""
    for each in warden.descendants(pid, warden.parents()):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def _inside(pid: int) -> int:
    """The pid that a process has in its own namespace; 0 when it is gone."""
    with suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0
