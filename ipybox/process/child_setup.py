"""What a forked process does before it becomes somebody else's. Floor: process.

Standard library only and no threads: it runs between a fork and what comes after it.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Collection, Sequence

_RESET = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGXFSZ", "SIGCHLD", "SIGUSR1", "SIGUSR2")
)


def close_all_but(keep: Collection[int]) -> None:
    """Closes every descriptor above 2 but these."""
    low = 3
    for number in sorted(number for number in keep if number > 2):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def quiet_stdio() -> None:
    """Connects stdin, stdout and stderr with nothing."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
        os.set_inheritable(number, True)  # which it is not where the number was free before
    if null > 2:
        os.close(null)


def set_aside(fds: Sequence[int], keep: int, numbers: Sequence[int]) -> tuple[int, list[int]]:
    """Moves descriptors out of the way and closes all others; the first step, as a place may be taken by another one.

    Args:
        fds: Those that are to get new numbers.
        keep: One more that stays open.
        numbers: The new numbers.

    Returns:
        Where ``keep`` and the others are now, all to be closed on exec. Whatever goes wrong, nothing was closed.
    """
    if len(fds) != len(numbers):
        raise ValueError(f"{len(fds)} descriptors for {len(numbers)} numbers")
    above = max([2, *numbers]) + 1
    keep = fcntl.fcntl(keep, fcntl.F_DUPFD_CLOEXEC, above)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    close_all_but({*moved, keep})
    return keep, moved


def place(moved: Sequence[int], numbers: Sequence[int]) -> None:
    """Gives descriptors their numbers; stdin, stdout and stderr are quiet unless they are among them."""
    quiet_stdio()
    for source, number in zip(moved, numbers, strict=True):
        os.dup2(source, number)
    for source in moved:
        os.close(source)


def default_signals() -> None:
    """Leaves signals as a shell would."""
    signal.set_wakeup_fd(-1)
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def python_signals() -> None:
    """Handles signals as Python does from its start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
