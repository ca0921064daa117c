"""Makes a fork of the agent a Python process like any other. Floor: control."""

from __future__ import annotations

import fcntl
import importlib
import io
import os
import resource
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import FrameType, ModuleType

from ipybox.control.inside import families
from ipybox.control.inside.places import PACKAGES, WORKSPACE
from ipybox.kernel_mgr import renewal, warm_kernel
from ipybox.process import child_setup, late_site
from ipybox.process.late_site import PythonFacts
from ipybox.sandbox import confine
from ipybox.sandbox.packages import site_directories


def needs_start(env: Mapping[str, str]) -> bool:
    """Whether something in an environment is heeded only by a Python that starts."""
    early = warm_kernel.launcher_environment(env)
    return warm_kernel.obstacle(env) is not None or any(name.startswith("PYTHON") for name in early)


def has_other_versions(imported: Collection[str]) -> bool:
    """Whether the session has packages of its own of what was imported for all."""
    for site in site_directories(PACKAGES):
        with suppress(OSError):
            if any(name.partition(".")[0] in imported for name in os.listdir(site)):
                return True
    return False


def place(numbers: Mapping[int, int]) -> None:
    """Gives descriptors the numbers that a program expects them under, and closes all above."""
    top = max([*numbers, *numbers.values()]) + 1
    aside = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, top) for number, fd in numbers.items()}
    for number, fd in aside.items():
        os.dup2(fd, number)
    os.closerange(max(numbers) + 1, os.sysconf("SC_OPEN_MAX"))


def settle(stdout: int, stderr: int, *, keep: Collection[int], processes: int) -> None:
    """The first steps of any execution: its session, its outputs, its limit, and nothing else that was open.

    Args:
        stdout, stderr: Descriptors that become 1 and 2.
        keep: Descriptors that stay open, all of them higher than 2.
        processes: Processes and threads that there may be in the sandbox for it to make another one.
    """
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    child_setup.close_all_but(keep)
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    families.adopt_orphans()
    os.chdir(WORKSPACE)


def become_program(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Executes a command, or says on stderr why not, and ends."""
    child_setup.default_signals()
    confine.dumpable()
    try:
        os.execvpe(argv[0], list(argv), dict(env))
    except OSError as error:
        os.write(2, f"can't execute {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def become_python(env: Mapping[str, str], python: PythonFacts | None, name: str) -> ModuleType:
    """Goes on as Python; returns its fresh ``__main__``. SIGINT stays blocked, see :func:`unblock`."""
    confine.dumpable()
    confine.process_name(name)
    late_site.come_up(env, python)
    renewal.renew()
    importlib.invalidate_caches()
    own = [entry for entry in sys.path if entry.startswith(f"{PACKAGES}/")]
    sys.path[:] = list(dict.fromkeys([*own, "", *sys.path]))
    sys.argv[:] = [""]
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout, sys.stderr = stream(1), stream(2)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    return main


def flush_when_told_to_end() -> None:
    """Writes what is still to be written before SIGTERM ends this process."""

    def on_term(signum: int, frame: FrameType | None) -> None:
        flush()
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, on_term)


def unblock() -> None:
    """Interrupts are raised from now on, one that came before as well."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def stream(fd: int) -> io.TextIOWrapper:
    """A text stream to a descriptor that takes any text, line by line."""
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def flush() -> None:
    """Writes what is still to be written, whatever code has made of the streams."""
    for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(Exception):
            each.flush()  # type: ignore[union-attr]
