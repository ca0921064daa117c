"""Keeps one command's whole family of processes, and lets none of it outlive its owner. Floor: process.

Run as a script, ``python -I -S warden.py --owner-fd N [--grace S] [--remove DIR] [--unset NAME] -- command ...``, with
nothing but the standard library, so that it starts in a few milliseconds and stays small. More options are
``--status-fd N`` (where it says how the start and the end went, one JSON object a line), ``--session yes`` (the command
leads a session of its own), ``--cwd DIR``, ``--cpu-time SECONDS`` and ``--undo JSON`` (a command to run when the other
one did not end by itself), ``--lc-ctype VALUE``, ``--go-fd N`` (where the owner says ``+`` when it has made what the
command needs, and anything else when there is to be none; see ``warded.py``). It

* adopts every orphan below the command (on Linux it is a "child subreaper"), also daemons with a session of their own,
* watches its owner through a descriptor that becomes readable when the owner is gone: a pidfd, or the read end of a
  pipe whose write end only the owner holds,
* and when the command ends, when the owner is gone (SIGKILL included), or on SIGTERM or SIGQUIT (without grace), ends
  all of them, removes DIR, and exits with the command's exit status, 128+N for signal N.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_RESET = (
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGXFSZ,
)
"""Signals that Python or we handle, and that the command shall find as a shell would leave them."""
_LINUX = sys.platform.startswith("linux")
UNDO_SECONDS = 20.0
"""That a command may take which undoes what another one did."""


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def parents() -> dict[int, int]:
    """Every process's parent, zombies included."""
    if not _LINUX:
        listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False)
        pairs = (line.split() for line in listing.stdout.splitlines())
        return {int(pair[0]): int(pair[1]) for pair in pairs if len(pair) == 2}
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    # The name in parentheses may hold anything; state and parent follow its last parenthesis.
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if len(fields) > 1:
                found[int(entry)] = int(fields[1])
    return found


def descendants(root: int, tree: dict[int, int]) -> list[int]:
    """All processes below ``root``."""
    children: dict[int, list[int]] = {}
    for pid, parent in tree.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _signal_all(pids: Iterable[int], signum: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signum)
        except OSError:
            pass


def _reap() -> dict[int, int]:
    """Collects every child that has ended: pid to wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _end_all(command: int, grace: float, wakeup: int, is_in_a_hurry: Callable[[], bool]) -> int | None:
    """Ends every process below this one and returns the command's wait status, if it was collected here."""
    status: int | None = None
    me = os.getpid()
    asked_until = time.monotonic() + grace
    try:
        os.killpg(command, signal.SIGTERM)
    except OSError:
        _signal_all([command], signal.SIGTERM)  # it leads no group
    while grace and time.monotonic() < asked_until and not is_in_a_hurry():
        select.select([wakeup], [], [], max(0.0, asked_until - time.monotonic()))
        _drain(wakeup)
        status = _reap().get(command, status)
        if status is not None:
            break
    # Stop first, then kill: a family that forks faster than we list it can't outrun that.
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        status = _reap().get(command, status)
        # Zombies count: they become ours to collect only when their own parent is gone.
        left = descendants(me, parents())
        if not left:
            break
        _signal_all(left, signal.SIGSTOP)
        _signal_all(descendants(me, parents()), signal.SIGKILL)
        select.select([wakeup], [], [], 0.02)
        _drain(wakeup)
    return status


def remove_tree(path: str) -> None:
    """Removes a directory and all in it. Follows no link, asks no permission bits, and no nesting is too deep.

    Nobody may be working in it any more. Raises ``OSError`` for what can't be removed.
    """
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _open(os.path.basename(path), parent)
        try:
            _empty(fd)
        finally:
            os.close(fd)
        os.rmdir(os.path.basename(path), dir_fd=parent)
    finally:
        os.close(parent)


def _open(name: str, parent: int) -> int:
    """Opens a directory whatever its permissions are; never what a link points to."""
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        try:
            os.chmod(name, 0o700, dir_fd=parent)
        except OSError:
            pass  # of another user, and maybe open to all
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _empty(root: int) -> None:
    """Removes everything in a directory. What lies deep is brought up first, so that no path is ever long."""
    fresh = (f"{os.urandom(8).hex()}.{number}" for number in itertools.count())
    while entries := _entries(root):
        for name, is_directory in entries:
            if not is_directory:
                os.unlink(name, dir_fd=root)
                continue
            directory = _open(name, root)
            try:
                for each, is_deeper in _entries(directory):
                    if is_deeper:
                        os.close(_open(each, directory))  # what moves is written itself, so it must be writable
                        os.rename(each, next(fresh), src_dir_fd=directory, dst_dir_fd=root)
                    else:
                        os.unlink(each, dir_fd=directory)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=root)


def _entries(directory: int) -> list[tuple[str, bool]]:
    """Names in a directory, and whether each is a directory itself."""
    with os.scandir(directory) as found:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


class _Report:
    """What the owner is told, where it asked for that."""

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, **facts: object) -> None:
        if self.fd is not None:
            try:
                os.write(self.fd, json.dumps(facts).encode() + b"\n")
            except OSError:
                pass  # the owner is gone


def _execute(command: list[str], values: Mapping[str, str], failure: int, warden: int) -> None:
    """Becomes the command, or says why not. Called in the child, and never returns."""
    is_exec = False
    try:
        if "--session" in values:
            os.setsid()
        for signum in _RESET:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _RESET)
        # Should the warden itself be killed, the command is asked to end its own family.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.environ.pop(values.get("--unset", ""), None)
        if "--lc-ctype" in values:
            os.environ["LC_CTYPE"] = values["--lc-ctype"]
        if "--cpu-time" in values:
            _limit_cpu_time(int(values["--cpu-time"]))
        if "--cwd" in values:
            os.chdir(values["--cwd"])
        if os.getppid() == warden:
            is_exec = True
            os.execvp(command[0], command)
    except BaseException as error:
        number, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
        if isinstance(error, OSError) and error.filename is not None and not is_exec:
            text = f"{text}: {error.filename}"
        os.write(failure, json.dumps({"errno": number, "error": text, "is_exec": is_exec}).encode())
        if "--status-fd" not in values:
            os.write(2, f"can't run {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _limit_cpu_time(seconds: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = seconds + 1 if hard == resource.RLIM_INFINITY else min(seconds + 1, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (min(seconds, most), most))


def _failure(fd: int) -> dict[str, object]:
    """Why the command could not be executed; empty when it was, which closes the other end."""
    text = b""
    while data := os.read(fd, 4096):
        text += data
    os.close(fd)
    return json.loads(text) if text else {}


def _may_begin(go: int, owner: int) -> bool:
    """Waits for the owner's word, and says whether it is one to begin."""
    readable, _, _ = select.select([go, owner], [], [])
    begins = owner not in readable and os.read(go, 1) == b"+"
    os.close(go)
    return begins


def _remove(path: str | None) -> None:
    if path is not None:
        try:
            remove_tree(path)
        except OSError:
            pass  # of another user; the owner says so, if there is one


def _undo(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=UNDO_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        pass  # there is nobody left to tell


def main(arguments: list[str]) -> int:
    """Runs until the command and everything below it is gone; returns the command's exit status."""
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    values = dict(zip(options[::2], options[1::2], strict=True))
    owner_fd = int(values["--owner-fd"])
    grace = float(values.get("--grace", "2"))
    os.set_inheritable(owner_fd, False)

    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup_read, wakeup_write = os.pipe()
    for fd in (wakeup_read, wakeup_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    told_to_stop = in_a_hurry = False

    def stop(signum: int, frame: object) -> None:
        nonlocal told_to_stop, in_a_hurry
        told_to_stop = True
        in_a_hurry = in_a_hurry or signum == signal.SIGQUIT

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGQUIT, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)

    if "--go-fd" in values and not _may_begin(int(values["--go-fd"]), owner_fd):
        _remove(values.get("--remove"))
        return 0
    report = _Report(int(values["--status-fd"]) if "--status-fd" in values else None)
    failed, failure = os.pipe()
    me = os.getpid()
    # Blocked, a signal that comes between fork and exec waits for the command instead of hitting a handler of ours.
    signal.pthread_sigmask(signal.SIG_BLOCK, _RESET)
    child = os.fork()
    if child == 0:
        _execute(command, values, failure, me)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _RESET)
    os.close(failure)
    if report.fd is not None:
        report.tell(**(_failure(failed) or {"pid": child}))
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # the command's, and nobody else is to keep them open
            os.dup2(null, number)

    # Only the owner and the command may hold what we inherited for the command.
    for number in map(int, os.listdir("/proc/self/fd" if _LINUX else "/dev/fd")):
        if number > 2 and number not in (owner_fd, wakeup_read, wakeup_write, report.fd):
            try:
                os.close(number)
            except OSError:
                pass

    status: int | None = None
    while status is None and not told_to_stop:
        readable, _, _ = select.select([owner_fd, wakeup_read], [], [])
        _drain(wakeup_read)
        status = _reap().get(child)
        if owner_fd in readable:
            break
    ended = _end_all(child, grace if status is None else 0.0, wakeup_read, lambda: in_a_hurry)
    if status is None and "--undo" in values:
        _undo(json.loads(values["--undo"]))
    _remove(values.get("--remove"))
    final = status if status is not None else ended
    report.tell(status=final)
    if final is None:
        return 0
    code = os.waitstatus_to_exitcode(final)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
