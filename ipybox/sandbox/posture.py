"""What is enforced on this process, found out by trying. Runs inside a sandbox. Linux only. Floor: sandbox.

``ipybox doctor`` has a sandboxed kernel call it and shows the result, so that its matrix tells what is, not what was
meant to be.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress


def posture() -> dict[str, tuple[bool, str]]:
    """Name of each protection: whether it holds, and in what form it was seen."""
    return {name: look() for name, look in _LOOKS.items()}


def _status(key: str) -> str:
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(key + ":"):
                return line.split(":", 1)[1].strip()
    return ""


def _capabilities() -> tuple[bool, str]:
    sets = [_status(key) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    return all(int(value, 16) == 0 for value in sets), "none" if len(set(sets)) == 1 else ", ".join(sets)


def _no_new_privileges() -> tuple[bool, str]:
    return _status("NoNewPrivs") == "1", f"NoNewPrivs {_status('NoNewPrivs')}"


def _system_calls() -> tuple[bool, str]:
    refused = []
    for family in ("AF_VSOCK", "AF_PACKET", "AF_ALG", "AF_UNIX"):
        try:
            socket.socket(getattr(socket, family), socket.SOCK_STREAM).close()
        except OSError as error:
            if error.errno == errno.EPERM:
                refused.append(family)
    held = _status("Seccomp") == "2" and {"AF_VSOCK", "AF_PACKET", "AF_ALG"} <= set(refused)
    return held, f"filter mode {_status('Seccomp')}, no {', '.join(refused)}"


def _identity() -> tuple[bool, str]:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        lines = file.read().split("\n")
    return os.getuid() != 0 and len(lines) == 2, f"uid {os.getuid()}, one id in the user namespace"


def _processes() -> tuple[bool, str]:
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    with open("/proc/1/comm", encoding="ascii") as file:
        first = file.read().strip()
    return first == "ipybox-init", f"{len(pids)} visible, pid 1 is {first}"


def _network() -> tuple[bool, str]:
    names = [name for _, name in socket.if_nameindex()]
    reached = True
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reached = False
        probe.connect(("192.0.2.1", 9))  # sends nothing; needs a route
        reached = True
    return names == ["lo"] and not reached, f"interfaces: {', '.join(names)}; no route"


def _files() -> tuple[bool, str]:
    readable = [
        path for path in ("/etc/shadow", "/sys/kernel", "/boot", "/var/log", "/run/user") if os.access(path, os.R_OK)
    ]
    writable = [path for path in ("/", "/usr", "/etc", "/dev") if os.access(path, os.W_OK)]
    seen = f"readable: {', '.join(readable) or 'nothing that is not its own'}"
    return not readable and not writable, f"{seen}; writable: {', '.join(writable) or 'no system directory'}"


def _scratch() -> tuple[bool, str]:
    sizes = {path: os.statvfs(path) for path in ("/tmp", "/dev/shm", os.path.expanduser("~"))}
    text = ", ".join(f"{path} {fs.f_blocks * fs.f_frsize // 2**20} MiB" for path, fs in sizes.items())
    return all(fs.f_blocks > 0 for fs in sizes.values()), text


def _limits() -> tuple[bool, str]:
    kinds = {"processes": resource.RLIMIT_NPROC, "open files": resource.RLIMIT_NOFILE, "data": resource.RLIMIT_DATA}
    values = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    core = resource.getrlimit(resource.RLIMIT_CORE)[1] <= 1
    text = ", ".join(f"{name} {value}" for name, value in values.items())
    return core and all(value != resource.RLIM_INFINITY for value in values.values()), f"{text}, no core files"


_LOOKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "identity": _identity,
    "capabilities": _capabilities,
    "no new privileges": _no_new_privileges,
    "system calls": _system_calls,
    "processes": _processes,
    "network": _network,
    "files": _files,
    "scratch space": _scratch,
    "limits": _limits,
}
