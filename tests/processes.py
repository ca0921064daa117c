"""Processes that a test has started, among those that others in this one have left running."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def below() -> set[psutil.Process]:
    """All processes that this one has started, and what they have."""
    return set(psutil.Process().children(recursive=True))


@contextmanager
def adopting() -> Iterator[None]:
    """Has orphans become children of this process, where :func:`below` finds them, and not of the machine's init.

    Those that have ended stay zombies, as nobody here knows which of them somebody else waits for.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "can't adopt orphans")
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def facts(processes: set[psutil.Process]) -> list[dict[str, Any]]:
    """Pid, name and status of those of them that are still there."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(process.as_dict(["pid", "name", "status"]))
    return found
