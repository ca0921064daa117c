"""A program that puts itself under a filter, then makes the system calls it is asked for, or plays ordinary programs.

Reads a request from standard input and writes the answer to standard output, both JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import multiprocessing
import os
import pty
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ipybox.sandbox import seccomp

LIBC = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int | str) -> str:
    """Name of the error that a call ends with, or ``ok``. Processes and files that it makes are not kept."""
    words = [
        ctypes.c_char_p(os.fsencode(each)) if isinstance(each, str) else ctypes.c_ulong(each) for each in arguments
    ]
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(number), *words)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def in_a_child(number: int, *arguments: int | str) -> str:
    """As :func:`call`, where a success would change the calling process, or end it: then the name of the signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, call(number, *arguments).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return answer or f"signal {os.WTERMSIG(status)}"


def outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


# ---- ordinary programs --------------------------------------------------------------------------------------------


def square(number: int) -> int:
    return number * number


def pool(method: str) -> list[int]:
    with multiprocessing.get_context(method).Pool(2) as workers:
        return workers.map(square, range(5), chunksize=1)


def files() -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file"
        path.write_text("text")
        path.chmod(0o755)
        os.mkfifo(path.with_name("fifo"), 0o600)
        os.mkdir(path.with_name("folder"), 0o1777)
        anonymous = os.open(name, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.close(anonymous)
        return sorted(os.listdir(name))


def set_id() -> dict[str, str]:
    """Every way of Python's to make a file with set-user-ID or set-group-ID, or a device."""
    create = os.O_CREAT | os.O_WRONLY
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file"
        path.touch()
        here = os.open(name, os.O_RDONLY)
        file = os.open(path, os.O_RDONLY)
        actions: dict[str, Callable[[], object]] = {
            "open": lambda: os.open(f"{name}/a", create, 0o4755),
            "open relative": lambda: os.open("b", create, 0o2755, dir_fd=here),
            "open without name": lambda: os.open(name, os.O_TMPFILE | os.O_RDWR, 0o6755),
            "chmod": lambda: os.chmod(path, 0o4755),
            "chmod group": lambda: os.chmod(path, 0o2755),
            "chmod relative": lambda: os.chmod("file", 0o4755, dir_fd=here),
            "fchmod": lambda: os.fchmod(file, 0o6755),
            "mknod": lambda: os.mknod(f"{name}/c", 0o104755),
            "mknod character": lambda: os.mknod(f"{name}/d", 0o020600, os.makedev(1, 3)),
            "mknod block": lambda: os.mknod(f"{name}/e", 0o060600, os.makedev(7, 0)),
            "mknod relative": lambda: os.mknod("f", 0o020600, os.makedev(0, 0), dir_fd=here),
        }
        outcomes = {what: outcome(action) for what, action in actions.items()}
        os.close(here)
        os.close(file)
        return outcomes | {"left behind": " ".join(sorted(os.listdir(name)))}


def terminal() -> dict[str, str]:
    leader, follower = pty.openpty()
    inject = ctypes.create_string_buffer(b"x")
    outcomes = {}
    for name, request in {
        "TIOCSTI": 0x5412,
        "TIOCSTI, with bits above": 0x7_0000_5412,
        "TIOCLINUX": 0x541C,
        "TIOCSETD": 0x5423,
        "TIOCGWINSZ": 0x5413,
    }.items():
        ctypes.set_errno(0)
        result = LIBC.ioctl(ctypes.c_int(follower), ctypes.c_ulong(request), inject if request != 0x5413 else bytes(8))
        outcomes[name] = "ok" if result == 0 else errno.errorcode[ctypes.get_errno()]
    os.write(leader, b"typed\n")
    return outcomes | {"read": os.read(follower, 100).decode()}


def sockets() -> dict[str, str]:
    """By name of family and kind; numbers, as Python need not know them all."""
    kinds = {
        "inet stream": (2, 1, 0),
        "inet stream tcp": (2, 1 | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 6),
        "inet datagram udp": (2, 2, 17),
        "inet raw": (2, 3, 1),
        "inet packet": (2, 10, 3),
        "inet icmp": (2, 2, 1),
        "inet sctp": (2, 1, 132),
        "inet mptcp": (2, 1, 262),
        "unix": (1, 1, 0),
        "netlink route": (16, 3, 0),
        "netlink audit": (16, 3, 9),
        "netlink netfilter": (16, 3, 12),
        "packet": (17, 3, 3),
        "alg": (38, 5, 0),
        "vsock": (40, 1, 0),
        "bluetooth": (31, 3, 1),
        "tipc": (30, 1, 0),
        "xdp": (44, 3, 0),
    }
    return {name: outcome(partial(_open_and_close, *kind)) for name, kind in kinds.items()}


def _open_and_close(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def pair() -> str:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"through")
        return right.recv(100).decode()


def loopback() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"through")
            return client.recv(100).decode()


def thread() -> list[int]:
    done: list[int] = []
    threads = [threading.Thread(target=done.append, args=(each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sorted(done)


def programs() -> list[str]:
    shell = subprocess.run(["/bin/sh", "-c", "echo $((6 * 7)) | cat"], capture_output=True, text=True, check=True)
    python = subprocess.run([sys.executable, "-c", "print(43)"], capture_output=True, text=True, check=True)
    spawned = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", "exit 44"], dict(os.environ))
    return [shell.stdout, python.stdout, str(os.waitstatus_to_exitcode(os.waitpid(spawned, 0)[1]))]


def start_nothing() -> str:
    return outcome(lambda: os.execv("/bin/sh", ["/bin/sh", "-c", "exit"]))


def numbers() -> float:
    import numpy as np

    matrix = np.ones((64, 64))
    return float((matrix @ matrix).sum())


def states() -> list[list[str]]:
    """``Seccomp`` and ``NoNewPrivs`` of every thread."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        found.append([fields["Seccomp"].strip(), fields["NoNewPrivs"].strip()])
    return found


def again() -> str:
    """A second filter, on top of the first, that is stricter."""
    seccomp.install(seccomp.program(seccomp.Filter(inet=False)))
    return outcome(lambda: _open_and_close(2, 1, 0))


ACTIONS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        *(again, files, in_a_child, loopback, numbers, pair, pool, programs, set_id, sockets, start_nothing, states),
        *(terminal, thread),
    )
}


def main() -> None:
    request = json.load(sys.stdin)
    if request.get("threads"):
        for _ in range(request["threads"]):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    if request["filter"] is not None:
        seccomp.install(
            seccomp.program(seccomp.Filter(**request["filter"])), all_threads=request.get("all_threads", False)
        )
    json.dump([ACTIONS[name](*arguments) for name, *arguments in request["actions"]], sys.stdout)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
