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

from ipybox.process.liveness import status_fields
from ipybox.process.memory import proportional

MARKER = "IPYBOX_KERNEL_ID"
_LINUX = sys.platform.startswith("linux")
_QUIET_SCANS = 5
"""Scans in a row that must find nobody: a family that forks while we look can hide from one of them."""
_WORTH_WHEN_MISSED = 0.1
"""What such a scan is worth when a process went away under it, which may have been one of the family."""
_CHASE = 300
"""How many processes are looked at in a chase, each newer than the one before."""
_STATE, _GROUP, _SESSION = 0, 2, 3
_FLAGS, _THREADS, _STARTED = 6, 17, 19
_ENVIRONMENT_BEGINS, _ENVIRONMENT_ENDS = 47, 48
"""Places in what :func:`status_fields` gives."""
_IS_OF_THE_SYSTEM = 0x00200000
"""A thread of the kernel itself (``PF_KTHREAD``), which never had an environment."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a family."""

    pid: int
    group: int


def members(session_id: int, marker: str) -> list[Member]:
    """Living processes of a session, or with the marker in their environment."""
    return _Look(session_id, marker).again()[0]


def kill(session_id: int, marker: str, patience: float = 5.0) -> bool:
    """Kills a family until none of it is left. False when some were still there after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    own_group = os.getpgrp()
    look = _Look(session_id, marker)
    quiet = 0.0
    while quiet < _QUIET_SCANS:
        alive, missed = look.again()
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


class _Look:
    """Looks for a family, and remembers what it has seen."""

    def __init__(self, session_id: int, marker: str) -> None:
        self._session_id, self._marker = session_id, marker
        self._needle = f"\0{MARKER}={marker}\0".encode()
        self._found: set[tuple[int, bytes]] = set()
        self._ended: set[tuple[int, bytes]] = set()

    def again(self) -> tuple[list[Member], bool]:
        """The members, and whether one may have been missed: somebody was there and ended under our eyes."""
        return self._scan_proc() if _LINUX else (_scan_psutil(self._session_id, self._marker), False)

    def _scan_proc(self) -> tuple[list[Member], bool]:
        # Newest first: a child that is forked while we look comes after the parent that we then kill.
        found = []
        missed = False
        for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
            member, ended = self._examine(pid)
            missed |= ended
            if member is not None:
                found.append(member)
        if missed and not found:
            found = self._chase()
        return found, missed

    def _chase(self) -> list[Member]:
        """Those who fork and end are never there for as long as a scan takes. So for a while only the newest process
        of all is looked at; their group, once known, is killed as a whole."""
        seen = 0
        for _ in range(_CHASE):
            newest = _newest_pid()
            if newest == seen:
                break  # nobody forks
            seen = newest
            member, _ = self._examine(newest)
            if member is not None:
                return [member]
        return []

    def _examine(self, pid: int) -> tuple[Member | None, bool]:
        """The process as a member, and whether it has ended under our eyes, so that nobody can tell."""
        try:
            fields = status_fields(pid)
            name = pid, fields[_STARTED]
            if _is_over(fields):
                is_news = name not in self._ended
                self._ended.add(name)
                return None, is_news
            # What is ending has no environment any more, but may still hold files: who was found stays one of them.
            if int(fields[_SESSION]) != self._session_id and name not in self._found:
                if int(fields[_FLAGS]) & _IS_OF_THE_SYSTEM:
                    return None, False
                environment = _environment(pid)
                if not environment.strip(b"\0"):
                    return None, not _has_no_environment(status_fields(pid))
                if self._needle not in environment:
                    return None, False
            self._found.add(name)
            return Member(pid, int(fields[_GROUP])), False
        except (FileNotFoundError, ProcessLookupError):
            return None, True
        except (OSError, IndexError, ValueError):
            return None, False


def _newest_pid() -> int:
    """The process that was made last; 0 where that is not told."""
    try:
        with open("/proc/loadavg", "rb") as file:
            return int(file.read().split()[-1])
    except (OSError, IndexError, ValueError):
        return 0


def _is_over(fields: list[bytes]) -> bool:
    # A process whose first thread has ended looks like a zombie while its other threads run on.
    return fields[_STATE] in (b"Z", b"X") and int(fields[_THREADS]) <= 1


def _has_no_environment(fields: list[bytes]) -> bool:
    """Whether it was started with an empty one, and is neither ending nor about to become another program."""
    return fields[_ENVIRONMENT_BEGINS] == fields[_ENVIRONMENT_ENDS] != b"0"


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
