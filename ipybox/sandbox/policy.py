"""What sandboxed code may touch, as plain data. Floor: sandbox.

Whoever builds a policy in code gets the same bounds as whoever writes a file; here they are ``TypeError`` and
``ValueError`` that name the field, in ``policy_file`` they are a :class:`~ipybox.errors.PolicyError` with the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3

LOWEST: Mapping[str, int] = {
    "memory": 16 * MIB,
    "processes": 1,
    "open_files": 16,
    "cpu_time": 1,
    "file_size": 1,
    "scratch": 4 * KIB,
    "shared_memory": 4 * KIB,
}
"""The smallest value of each of the :class:`Limits` with which any program can run. A kernel needs more."""

HIGHEST: Mapping[str, int] = {
    "memory": 2**60,
    "processes": 2**22,  # the kernel's own ceiling for process ids
    "open_files": 2**20,  # the kernel's usual fs.nr_open
    "cpu_time": 2**31 - 1,
    "file_size": 2**60,
    "scratch": 2**60,
    "shared_memory": 2**60,
}
"""The largest value of each of the :class:`Limits` that systems take."""


def path_problem(path: str) -> tuple[str, str] | None:
    """What is wrong with a path of a policy, and the way out; None when it can be one."""
    if not path:
        return "must not be empty", "'.' is the working directory"
    if "\0" in path:
        return f"has a NUL character, got {path!r}", ""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"is not text that a file system can take, got {path!r}", ""
    if path.startswith("~") and path != "~" and not path.startswith("~/"):
        return (
            f"is in somebody else's home, got {path!r}",
            "write an absolute path, or './~...' for a file of that name",
        )
    return None


def _texts(name: str, value: Any, *, paths: bool = False) -> None:
    if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name} must be a tuple of str, got {value!r}")
    for index, each in enumerate(value):
        if paths and (problem := path_problem(each)):
            raise ValueError(f"{name}[{index}] {problem[0]}")
        if not each:
            raise ValueError(f"{name}[{index}] must not be empty")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def _optional_text(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, got {value!r}")
    if value == "":
        raise ValueError(f"{name} must not be empty; None means unset")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPolicy:
    """What may be reached over the network.

    Attributes:
        allowed_domains: Hosts that may be reached: ``example.org``, ``*.example.org``, ``example.org:8443``,
            ``192.0.2.7``, ``[2001:db8::1]:443``. A rule without a port means ports 80 and 443. Empty: no network.
        denied_domains: Hosts that may not, whatever is allowed. A rule without a port means every port.
        allow_local_binding: Servers inside the sandbox. Always possible on Linux, where each kernel has a loopback
            interface of its own.
        allow_unix_sockets: Unix sockets of the host that may be connected to.
        allow_all_unix_sockets: Unix sockets inside the sandbox (those of the host stay out of reach).
        hosts: Name to ``address`` or ``address:port``, used in place of DNS; such an address may be a private one.
        parent_proxy: URL of the proxy that the host itself needs; None is what the host's environment says.
    """

    allowed_domains: tuple[str, ...] = ()
    denied_domains: tuple[str, ...] = ()
    allow_local_binding: bool = True
    allow_unix_sockets: tuple[str, ...] = ()
    allow_all_unix_sockets: bool = False
    hosts: tuple[tuple[str, str], ...] = ()
    parent_proxy: str | None = None

    def __post_init__(self) -> None:
        for name in ("allowed_domains", "denied_domains"):
            _texts(name, getattr(self, name))
        _texts("allow_unix_sockets", self.allow_unix_sockets, paths=True)
        for name in ("allow_local_binding", "allow_all_unix_sockets"):
            _flag(name, getattr(self, name))
        if not isinstance(self.hosts, tuple):
            raise TypeError(f"hosts must be a tuple of pairs of str, got {self.hosts!r}")
        for pair in self.hosts:
            _texts("hosts", pair)
            if len(pair) != 2:
                raise ValueError(f"hosts must be pairs of a name and an address, got {pair!r}")
        _optional_text("parent_proxy", self.parent_proxy)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemPolicy:
    """Which files may be read and written. Paths are absolute, start with ``~``, or are relative to the working
    directory; ``**`` and ``*`` are globs where a path is denied.

    Attributes:
        deny_read: Not readable, whatever else is said; unless a longer path in ``allow_read`` lies inside it.
        allow_read: Readable, besides the system, the Python environment and the working directory.
        allow_write: Writable (and readable).
        deny_write: Not writable, whatever is said in ``allow_write``.
    """

    deny_read: tuple[str, ...] = (".env",)
    allow_read: tuple[str, ...] = ()
    allow_write: tuple[str, ...] = (".",)
    deny_write: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for each in fields(self):
            _texts(each.name, getattr(self, each.name), paths=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one kernel or command, with its children, may use. Sizes in bytes; None is no limit.

    Attributes:
        memory: Memory of all processes together; above it the kernel is killed. None: half of the machine's.
        processes: Processes and threads.
        open_files: Open files per process.
        cpu_time: Seconds of processor time per process.
        file_size: Size of one file.
        scratch: Size of the private home and of the private ``/tmp``, each.
        shared_memory: Size of the private ``/dev/shm``.
    """

    memory: int | None = None
    processes: int = 512
    open_files: int = 4096
    cpu_time: int | None = None
    file_size: int | None = None
    scratch: int = GIB
    shared_memory: int = 256 * MIB

    def __post_init__(self) -> None:
        for each in fields(self):
            name, value = each.name, getattr(self, each.name)
            if value is None and each.default is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if not LOWEST[name] <= value <= HIGHEST[name]:
                raise ValueError(f"{name} must be from {LOWEST[name]} to {HIGHEST[name]}, got {value}")

    def within(self, most: Limits) -> Limits:
        """The same, but nowhere more than others."""
        lower: dict[str, Any] = {}
        for each in fields(self):
            wanted = [value for limits in (self, most) if (value := getattr(limits, each.name)) is not None]
            lower[each.name] = min(wanted, default=None)
        return Limits(**lower)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """Packages that are installed before any untrusted code runs.

    Attributes:
        install: Requirements, as pip takes them.
        index: URL of the package index; None is PyPI.
        wheels: Directory with wheels to install from, without any network.
    """

    install: tuple[str, ...] = ()
    index: str | None = None
    wheels: str | None = None

    def __post_init__(self) -> None:
        _texts("install", self.install)
        for index, each in enumerate(self.install):
            if each.startswith("-"):  # pip would read it as an option, such as another index
                raise ValueError(f"install[{index}] must be a requirement, not an option of pip, got {each!r}")
        _optional_text("index", self.index)
        _optional_text("wheels", self.wheels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPolicy:
    """All of it."""

    network: NetworkPolicy = field(default_factory=NetworkPolicy)
    filesystem: FilesystemPolicy = field(default_factory=FilesystemPolicy)
    limits: Limits = field(default_factory=Limits)
    packages: Packages = field(default_factory=Packages)
