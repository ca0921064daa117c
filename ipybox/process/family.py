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
from dataclasses import dataclass

import psutil

from ipybox.process.memory import proportional

MARKER = "IPYBOX_KERNEL_ID"
_LINUX = sys.platform.startswith("linux")
_QUIET_SCANS = 5
"""Scans in a row that must find nobody: a family that forks while we look can hide from one of them."""
_WORTH_WHEN_MISSED = 0.1
"""What such a scan is worth when a process went away under it, which may have been one of the family."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a family."""

    pid: int
    group: int


def members(session_id: int, marker: str) -> list[Member]:
    """Living processes of a session, or with the marker in their environment."""
    return _look(session_id, marker)[0]


def _look(session_id: int, marker: str) -> tuple[list[Member], bool]:
    """The members, and whether one may have been missed: somebody was there and gone when it was looked at."""
    return _scan_proc(session_id, marker) if _LINUX else (_scan_psutil(session_id, marker), False)


def kill(session_id: int, marker: str, patience: float = 5.0) -> bool:
    """Kills a family until none of it is left. False when some were still there after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    own_group = os.getpgrp()
    quiet = 0.0
    while quiet < _QUIET_SCANS:
        alive, missed = _look(session_id, marker)
        if not alive:
            quiet += _WORTH_WHEN_MISSED if missed else 1
            continue
        quiet = 0.0
        for group in {member.group for member in alive} - {own_group, 0, 1}:
            _ignore_gone(os.killpg, group)
        for member in alive:
            _ignore_gone(os.kill, member.pid)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)  # they are not our children, so there is nothing to wait for
    return True


def memory(session_id: int, marker: str) -> int:
    """Bytes of memory of a family; what processes share counts once, or on macOS once per process."""
    found = members(session_id, marker)
    return sum(proportional(member.pid) if _LINUX else _resident(member.pid) for member in found)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):
        return 0


def _ignore_gone(send: object, target: int) -> None:
    try:
        send(target, signal.SIGKILL)  # type: ignore[operator]
    except OSError:
        pass


def _scan_proc(session_id: int, marker: str) -> tuple[list[Member], bool]:
    # Newest first: a child that is forked while we look comes after the parent that we then kill.
    needle = f"\0{MARKER}={marker}\0".encode()
    found = []
    missed = False
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name in parentheses may hold anything; the fields follow its last parenthesis.
                fields = file.read().rpartition(b")")[2].split()
            # A process whose first thread has ended looks like a zombie while its other threads run on.
            if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
                continue
            if int(fields[3]) == session_id or needle in _environment(pid):
                found.append(Member(pid, int(fields[2])))
        except (FileNotFoundError, ProcessLookupError):
            missed = True
        except (OSError, IndexError, ValueError):
            continue
    return found, missed


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        environment = file.read()
    if not environment:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/environ", "rb") as file:
                environment += file.read()
    return b"\0" + environment + b"\0"


def _scan_psutil(session_id: int, marker: str) -> list[Member]:
    found = []
    for process in psutil.process_iter():
        try:
            is_member = os.getsid(process.pid) == session_id or process.environ().get(MARKER) == marker
            if is_member and process.status() != psutil.STATUS_ZOMBIE:
                found.append(Member(process.pid, os.getpgid(process.pid)))
        except (psutil.Error, OSError):
            continue
    return found
