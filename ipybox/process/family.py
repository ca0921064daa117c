"""All the processes that one process brought into the world. Floor: process.

A kernel runs in a session of its own, and its environment holds a marker that its children inherit. Children that
stay in the session are found by it, children that made a session of their own by the marker. A child that did both,
made its own session and wiped its environment, is found when the gateway's warden ends everything below it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import psutil

MARKER = "IPYBOX_KERNEL_ID"


def members(session_id: int, marker: str) -> Iterator[psutil.Process]:
    """Living processes of a session, or with the marker in their environment."""
    needle = f"{MARKER}={marker}".encode()
    for process in psutil.process_iter():
        try:
            is_member = os.getsid(process.pid) == session_id or _is_marked(process, marker, needle)
            if is_member and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def kill(session_id: int, marker: str, patience: float = 5.0) -> bool:
    """Kills a family until none of it is left. False when some were still there after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        alive = list(members(session_id, marker))
        if not alive:
            return True
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for process in alive:
                try:
                    process.send_signal(signum)
                except (psutil.Error, OSError):
                    pass
        psutil.wait_procs(alive, timeout=0.05)
        if time.monotonic() > deadline:
            return False


def memory(session_id: int, marker: str) -> int:
    """Resident bytes of a family, pages that they share counted once per process."""
    total = 0
    for process in members(session_id, marker):
        try:
            total += process.memory_info().rss
        except (psutil.Error, OSError):
            continue
    return total


def _is_marked(process: psutil.Process, marker: str, needle: bytes) -> bool:
    if not sys.platform.startswith("linux"):
        return process.environ().get(MARKER) == marker
    # psutil parses the whole environment; a substring is enough and ten times cheaper.
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        return needle in file.read()
