"""Processes below the agent of a session, and how it ends those of one execution. Floor: control.

What an execution starts stays below it, also what makes itself a daemon, as the execution's first process adopts
orphans. If that one is gone, or has given that up, they come to the agent, which knows its own children: all others are
strays, and end with the next execution that does.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from ipybox.process import warden

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 50

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Makes this process the parent of orphans below it; a program that it executes goes on with that."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tell(pid: int, signum: int) -> None:
    """Signals the process group of an execution."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)  # it has not got its group yet


def end(pid: int) -> None:
    """Ends a process and all below it."""
    _end(lambda tree: [pid, *warden.descendants(pid, tree)])


def end_below(pid: int, spared: Collection[int]) -> None:
    """Ends all below a process, but not itself, nor those that are spared."""
    _end(lambda tree: [each for each in warden.descendants(pid, tree) if each not in spared])


def end_strays(known: Collection[int]) -> bool:
    """Ends children of ours that nobody knows, with all below them; returns whether there are any left to bury."""
    me = os.getpid()

    def find(tree: dict[int, int]) -> list[int]:
        strays = [pid for pid, parent in tree.items() if parent == me and pid not in known]
        return [each for pid in strays for each in (pid, *warden.descendants(pid, tree))]

    _end(find)
    return bury(known)


def bury(known: Collection[int]) -> bool:
    """Takes notice of strays that have ended; returns whether there are others."""
    me, tree = os.getpid(), warden.parents()
    left = False
    for pid in [pid for pid, parent in tree.items() if parent == me and pid not in known]:
        with suppress(ChildProcessError):
            left |= os.waitpid(pid, os.WNOHANG)[0] == 0
    return left


def _end(find: Callable[[dict[int, int]], Iterable[int]]) -> None:
    """Stops first, then kills: who forks faster than we list can't outrun that."""
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        found = set(find(warden.parents())) - stopped
        if not found:
            break
        _send(found, signal.SIGSTOP)
        stopped |= found
    _send(stopped, signal.SIGKILL)


def _send(pids: Iterable[int], signum: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)
