"""Whether a process is there, right now. Linux only. Floor: process."""

from __future__ import annotations

from ipybox.process.descriptors import is_readable


def is_alive(pid: int, pidfd: int) -> bool:
    """Whether a process can still do something.

    A pidfd tells when all of its threads are gone. One whose first thread is gone is about to follow it.
    """
    if is_readable(pidfd):
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False
