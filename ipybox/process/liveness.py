"""Whether a process is there, right now. Linux only. Floor: process."""

from __future__ import annotations

from ipybox.process.descriptors import is_readable

_STATE, _FLAGS = 0, 6
"""Where ``/proc/PID/stat`` has what, counted from behind the name."""
_IS_ENDING = 0x4
"""It has begun to end (``PF_EXITING``)."""


def is_alive(pid: int, pidfd: int) -> bool:
    """Whether a process can still do something.

    A pidfd tells when all of its threads are gone. One whose first thread is gone is about to follow it.
    """
    return not is_ending(pid) and not is_readable(pidfd)


def is_ending(pid: int) -> bool:
    """Whether a process that nobody has collected yet has begun to end: it lets go of its descriptors some time before
    anybody can wait for it. False where it can't be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[_STATE] in (b"Z", b"X") or bool(int(fields[_FLAGS]) & _IS_ENDING)
    except (OSError, IndexError, ValueError):
        return False


def pid_of(pidfd: int) -> int | None:
    """The pid of a process; None when it is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                pid = int(line.split()[1])
                return pid if pid > 0 else None
    return None
