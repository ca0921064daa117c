"""Imports modules once, for all kernels that are forked afterwards. Floor: kernel_mgr.

What a module does when it is imported must survive a fork: threads don't, and a connection or a file that many
processes share is nobody's. Libraries that know how to be forked (OpenBLAS, for one) end their threads before a fork
and start them again when they need some; that is why threads are counted after one.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterable
from importlib import import_module

from ipybox.errors import PreloadError

_KINDS = (
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a device"),
)


def load(modules: Iterable[str], tell: Callable[[str], None]) -> None:
    """Imports modules.

    Args:
        modules: Their names.
        tell: Called with each name before, as an import may also end the process.

    Raises:
        PreloadError: One can't be imported, or leaves a thread or an open descriptor behind.
    """
    for name in modules:
        tell(name)
        before = descriptors()
        threads = thread_names()
        try:
            import_module(name)
        except BaseException as error:  # it may do anything, sys.exit() included
            raise PreloadError(name, f"importing it raised {type(error).__name__}: {error}"[:2000]) from error
        opened = descriptors() - before
        if opened:
            raise PreloadError(name, f"importing it opens {', '.join(sorted(map(_describe, opened)))}")
        _fork_once()
        started = thread_names() - threads
        if started:
            names = ", ".join(sorted(name for _, name in started))
            raise PreloadError(name, f"importing it starts threads, which do not survive a fork ({names})")
    random.seed()  # what a module did to it is not for all kernels


def descriptors() -> set[int]:
    """Open descriptors."""
    with os.scandir("/proc/self/fd") as entries:
        numbers = [int(entry.name) for entry in entries]
    return {number for number in numbers if _is_open(number)}


def thread_names() -> set[tuple[int, str]]:
    """Threads of this process: number and name."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm", encoding="utf-8", errors="replace") as file:
                found.add((int(thread), file.read().strip()))
        except OSError:
            continue
    return found


def _fork_once() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # where nobody waits for children, they need not be waited for


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _describe(number: int) -> str:
    mode = os.fstat(number).st_mode
    kind = next((text for is_kind, text in _KINDS if is_kind(mode)), "a descriptor")
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        target = "?"
    return f"{kind} ({target})"
