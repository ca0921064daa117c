"""Whether a process is there, right now. Linux only. Floor: process."""

from __future__ import annotations

from ipybox.process.descriptors import is_readable

_STATE, _FLAGS = 0, 6
"""Places in what :func:`status_fields` gives."""
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
        fields = status_fields(pid)
        return fields[_STATE] in (b"Z", b"X") or bool(int(fields[_FLAGS]) & _IS_ENDING)
    except (OSError, IndexError, ValueError):
        return False


def status_fields(pid: int) -> list[bytes]:
    """What ``/proc/PID/stat`` has behind the name: the third field of proc(5) comes first. Raises ``OSError``."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name in parentheses may hold anything; the fields follow its last parenthesis.
        return file.read().rpartition(b")")[2].split()


def pid_of(pidfd: int) -> int | None:
    """The pid of a process; None when it is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                pid = int(line.split()[1])
                return pid if pid > 0 else None
    return None
