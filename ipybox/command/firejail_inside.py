"""What runs in a firejail before the command: looks whether it is closed, then becomes the command. Floor: command.

Run as a script, ``python -I -S firejail_inside.py``, with nothing but the standard library. Firejail leaves out what it
can't do, often without a word: inside of containers it even runs programs without any sandbox. And it takes neither
long arguments nor an environment as it is. So the command, its environment, its stdin, stdout and stderr come over a
socket in the work directory, and only to somebody who has found the sandbox to be what was asked for.

What it answers: ``ready``, or an object with ``refused`` (a sentence); then nothing when the command was executed, or
an object with ``errno``. One JSON value a line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Any

SOCKET = ".ipybox"
"""Its name in the work directory."""

_MOST = 8
"""Problems that are told."""
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def problems(asked: dict[str, Any]) -> Iterator[str]:
    """What is not as it was asked for.

    Args:
        asked: ``uid``; ``namespaces`` (those of the caller, by name, that must not be ours); ``shown`` and ``hidden``
            (path, device, inode); ``writable`` (paths).
    """
    if os.getuid() != asked["uid"]:
        yield f"it runs as user {os.getuid()}, not as {asked['uid']}"
    for name, link in asked["namespaces"].items():
        if os.readlink(f"/proc/self/ns/{name}") == link:
            yield f"it has no {name} namespace of its own"
    facts = _facts()
    if facts.get("NoNewPrivs") != "1":
        yield "it may gain privileges"
    if facts.get("Seccomp") != "2":
        yield "no system call is forbidden"
    if any(int(facts.get(name, "0"), 16) for name in _CAPABILITIES):
        yield "it has capabilities"
    for path, device, inode in asked["hidden"]:
        if _identity(path) == (device, inode):
            yield f"{path} can be seen"
    for path, device, inode in asked["shown"]:
        yield from _problems_with(path, (device, inode), asked["writable"])
    for path in _mount_points():
        if not _is_below(path, asked["writable"]) and os.path.isdir(path) and os.access(path, os.W_OK):
            yield f"{path} can be written"


def _problems_with(path: str, identity: tuple[int, int], writable: list[str]) -> Iterator[str]:
    is_directory = os.path.isdir(path)
    if _identity(path) != identity or not os.access(path, os.R_OK | (os.X_OK if is_directory else 0)):
        yield f"{path} can't be read"
    elif path in writable and not (os.access(path, os.W_OK) and not _is_read_only(path)):
        yield f"{path} can't be written"
    elif not _is_below(path, writable) and not _is_read_only(path):
        yield f"{path} can be written"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _is_below(path: str, roots: list[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _facts() -> dict[str, str]:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", "rb") as file:
        # As the kernel writes them: spaces, tabs, line ends and backslashes in octal.
        names = [line.split(b" ", 5)[4] for line in file]
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        names = [name.replace(code, bytes([int(code[1:], 8)])) for name in names]
    return [os.fsdecode(name) for name in names]


def main() -> None:
    """Connects, looks, answers, and becomes the command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        _, fds, _, _ = socket.recv_fds(connection, 1, 4)
        request, *stdio = fds
        if not stat.S_ISREG(os.fstat(request).st_mode):
            raise OSError("no request has come")
        with os.fdopen(request, encoding="utf-8") as file:
            asked = json.load(file)
        found = list(problems(asked))
        if found:
            more = [f"{len(found) - _MOST} more like that"] if len(found) > _MOST else []
            _answer(connection, {"refused": "; ".join([*found[:_MOST], *more])})
            sys.exit(1)
        _answer(connection, "ready")
        try:
            for number, fd in enumerate(stdio):
                os.dup2(fd, number)
            # A session of its own: what it signals as a group is not what encloses it.
            os.setsid()
            for signum in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(signum, signal.SIG_DFL)
            if asked["cpu_time"] is not None:
                _, most = resource.getrlimit(resource.RLIMIT_CPU)  # firejail's, which ends it without a warning
                resource.setrlimit(resource.RLIMIT_CPU, (min(asked["cpu_time"], most), most))
            os.execvpe(asked["argv"][0], asked["argv"], asked["env"])
        except OSError as error:
            _answer(connection, {"errno": error.errno})
            sys.exit(1)


def _answer(connection: socket.socket, value: object) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main()
