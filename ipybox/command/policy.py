"""What one command may use and touch, as plain data that is checked when it is made. Floor: command."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from ipybox import arguments
from ipybox.command.environment import LOADER_VARIABLES, is_loader_variable
from ipybox.errors import PolicyError
from ipybox.sandbox.hosts import HostRules
from ipybox.sandbox.policy import HIGHEST

MEBIBYTE = 1024**2
SMALLEST_MEMORY = MEBIBYTE
SMALLEST_CAP = 1024
_UNITS = {"": 1, "K": 1024, "M": MEBIBYTE, "G": 1024 * MEBIBYTE}
_MOST_CPUS = 4096
_DIGITS = 30
"""More of them are more than there can be."""

Network = bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """What one command may use and touch. Immutable: each ``with_*`` gives another policy.

    Nothing is clamped: a value that makes no sense is a ``TypeError`` or ``ValueError`` that names the field. What a
    driver can't enforce it refuses, see :class:`~ipybox.command.driver.CommandDriver`.

    Attributes:
        base_dir: Existing directory in which drivers make their private work directories, and in which the host
            driver runs. Made absolute.
        timeout: Seconds from start to end, 5 by default.
        idle_timeout: Seconds without any output; None (the default) is no such limit.
        memory: Bytes of all processes of the command together; as text with ``K``, ``M`` or ``G`` (powers of 1024).
            128 MiB by default.
        cpus: Processors at once, such as 0.5; None is the driver's default.
        cpu_time: Whole seconds of processor time per process; None is no limit but ``timeout``.
        processes: Processes and threads; None is the driver's default.
        readable_paths: Existing files and directories that may be read, besides the system and this Python. They
            are found inside at the same path.
        writable_paths: Those that may be written as well.
        env: Set for the command. Variables that make a program load code (``LD_*``, ``DYLD_*``) are refused.
        inherit_env: Whether the caller's environment is passed on: always without secrets and without variables
            that make programs load code, see :mod:`ipybox.command.environment`.
        network: False (the default), True, or the hosts that may be reached (``example.org``, ``*.example.org``,
            ``example.org:8443``).
        stdout_cap: Bytes of stdout that a result keeps: the last ones. 1 MiB by default.
        stderr_cap: The same for stderr.
    """

    base_dir: str
    timeout: float = 5.0
    idle_timeout: float | None = None
    memory: int = 128 * MEBIBYTE
    cpus: float | None = None
    cpu_time: int | None = None
    processes: int | None = None
    readable_paths: tuple[str, ...] = ()
    writable_paths: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    inherit_env: bool = False
    network: Network = False
    stdout_cap: int = MEBIBYTE
    stderr_cap: int = MEBIBYTE

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "base_dir": os.path.abspath(os.path.expanduser(arguments.path("base_dir", self.base_dir))),
            "timeout": arguments.seconds("timeout", self.timeout),
            "memory": memory_bytes("memory", self.memory),
            "readable_paths": _paths("readable_paths", self.readable_paths),
            "writable_paths": _paths("writable_paths", self.writable_paths),
            "env": MappingProxyType(_environment(self.env)),
            "inherit_env": arguments.flag("inherit_env", self.inherit_env),
            "network": _network(self.network),
            "stdout_cap": arguments.size("stdout_cap", self.stdout_cap, SMALLEST_CAP),
            "stderr_cap": arguments.size("stderr_cap", self.stderr_cap, SMALLEST_CAP),
        }
        if self.idle_timeout is not None:
            checked["idle_timeout"] = arguments.seconds("idle_timeout", self.idle_timeout)
        if self.cpus is not None:
            checked["cpus"] = _cpus(self.cpus)
        for name in ("cpu_time", "processes"):
            value = getattr(self, name)
            if value is not None and arguments.count(name, value, 1) > HIGHEST[name]:
                raise ValueError(f"{name} must be at most {HIGHEST[name]}, got {value}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def in_dir(cls, base_dir: str | os.PathLike[str]) -> ExecutionPolicy:
        """The default policy for a directory."""
        return cls(base_dir)  # type: ignore[arg-type]  # a path becomes text when it is checked

    @classmethod
    def default(cls) -> ExecutionPolicy:
        """The default policy, in ``/tmp``."""
        return cls("/tmp")

    def with_base_dir(self, base_dir: str | os.PathLike[str]) -> ExecutionPolicy:
        """In another directory."""
        return replace(self, base_dir=base_dir)  # type: ignore[arg-type]  # a path becomes text when it is checked

    def with_timeout(self, seconds: float) -> ExecutionPolicy:
        """With another limit from start to end."""
        return replace(self, timeout=seconds)

    def with_idle_timeout(self, seconds: float | None) -> ExecutionPolicy:
        """With another limit without output; None clears it."""
        return replace(self, idle_timeout=seconds)

    def with_memory(self, memory: int | str) -> ExecutionPolicy:
        """With another amount of memory, in bytes or such as ``"512M"``."""
        return replace(self, memory=memory_bytes("memory", memory))

    def with_cpus(self, cpus: float | None) -> ExecutionPolicy:
        """With another share of the processors."""
        return replace(self, cpus=cpus)

    def with_cpu_time(self, seconds: int | None) -> ExecutionPolicy:
        """With another amount of processor time."""
        return replace(self, cpu_time=seconds)

    def with_processes(self, processes: int | None) -> ExecutionPolicy:
        """With another number of processes."""
        return replace(self, processes=processes)

    def with_readable_paths(self, *paths: str | os.PathLike[str]) -> ExecutionPolicy:
        """With these readable paths in place of those before."""
        return replace(self, readable_paths=paths)  # type: ignore[arg-type]  # paths become text when they are checked

    def with_writable_paths(self, *paths: str | os.PathLike[str]) -> ExecutionPolicy:
        """With these writable paths in place of those before."""
        return replace(self, writable_paths=paths)  # type: ignore[arg-type]  # as above

    def with_env(self, env: Mapping[str, str], *, inherit: bool | None = None) -> ExecutionPolicy:
        """With this environment in place of the one before."""
        return replace(self, env=env, inherit_env=self.inherit_env if inherit is None else inherit)

    def with_inherited_env(self, inherit: bool = True) -> ExecutionPolicy:
        """With or without the caller's environment."""
        return replace(self, inherit_env=inherit)

    def with_network(self, network: bool | Iterable[str]) -> ExecutionPolicy:
        """With no network, with all of it, or with these hosts."""
        if isinstance(network, bool | str) or not isinstance(network, Iterable):
            return replace(self, network=network)  # type: ignore[arg-type]  # anything but a bool is refused by name
        return replace(self, network=tuple(network))

    def with_output_caps(self, stdout: int, stderr: int) -> ExecutionPolicy:
        """With other amounts of output that a result keeps."""
        return replace(self, stdout_cap=stdout, stderr_cap=stderr)

    def __reduce__(self) -> tuple[Any, ...]:
        values = tuple(getattr(self, each.name) for each in fields(self))
        return type(self), tuple(dict(value) if isinstance(value, Mapping) else value for value in values)

    def __hash__(self) -> int:
        values = (getattr(self, each.name) for each in fields(self))
        return hash(tuple(frozenset(value.items()) if isinstance(value, Mapping) else value for value in values))


def memory_bytes(name: str, value: Any) -> int:
    """Bytes from a number of them, or from text such as ``128M``."""
    text = value.strip() if isinstance(value, str) else value
    if text in (-1, "-1"):
        raise ValueError(f"{name} must have a bound, got {value!r}: unbounded memory is not possible")
    if isinstance(text, str):
        found = re.fullmatch(r"(\d+)([KMG]?)", text.upper(), re.ASCII)
        if found is None:
            raise ValueError(f"{name} must be a number of bytes, or a text such as '128M' or '1G', got {value!r}")
        text = int(found[1]) * _UNITS[found[2]] if len(found[1]) <= _DIGITS else HIGHEST["memory"] + 1
    if arguments.size(name, text, SMALLEST_MEMORY) > HIGHEST["memory"]:
        raise ValueError(f"{name} must be at most {HIGHEST['memory']} bytes, got {value!r:.40}")
    return int(text)


def _cpus(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"cpus must be a number, got {value!r}")
    if not 0.01 <= value <= _MOST_CPUS:  # neither is NaN
        raise ValueError(f"cpus must be from 0.01 to {_MOST_CPUS}, got {value}")
    return float(value)


def _paths(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a tuple of paths, got {value!r}")
    checked = (arguments.path(f"{name}[{index}]", each) for index, each in enumerate(value))
    return tuple(os.path.abspath(os.path.expanduser(path)) for path in checked)


def _environment(env: Any) -> dict[str, str]:
    checked = arguments.environment("env", env)
    for name in checked:
        if is_loader_variable(name):
            raise ValueError(
                f"env must not have {name}: {', '.join(LOADER_VARIABLES)} would be loaded by what starts the command "
                f"as well; run it as ['env', '{name}=...', command]"
            )
    return checked


def _network(value: Any) -> Network:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"network must be True, False or a tuple of hosts, got {value!r}")
    hosts = tuple(value)
    for index, host in enumerate(hosts):
        if not isinstance(host, str):
            raise TypeError(f"network[{index}] must be a str, got {host!r}")
        try:
            HostRules.parse([host])
        except PolicyError as error:
            raise ValueError(f"network[{index}]: {error.reason}{f'; {error.hint}' if error.hint else ''}") from None
    if not hosts:
        raise ValueError("network must name a host; False is no network")
    return hosts
