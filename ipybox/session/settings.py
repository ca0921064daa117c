"""What a sandbox is created with, and what that means for the walls around it. Floor: session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ipybox import arguments
from ipybox.command.binaries import find_binary
from ipybox.errors import PolicyError, SandboxUnavailableError, UnknownTemplateError
from ipybox.kernel_mgr import warm_kernel
from ipybox.sandbox import bubblewrap, staging
from ipybox.sandbox.access import SANDBOX_HOME, HostFacts
from ipybox.sandbox.packages import site_directories
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import LOWEST, FilesystemPolicy, Limits, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.python_paths import python_paths
from ipybox.sandbox.view import Mount, View, kernel_view
from ipybox.sandbox.wall import WallPlan
from ipybox.session.inside_files import WORKSPACE

TEMPLATES = ("code-interpreter", "python")
"""What a sandbox can be created from; two names for the same thing."""
LIFE_SECONDS = 3600.0
"""How long a sandbox lives if nothing else is said."""
DISK = 256 * 1024 * 1024
"""Bytes of ``/workspace``, and of ``/tmp``, the home and ``/dev/shm``, if nothing else is said."""
_INSTALLED = f"{SANDBOX_HOME}/.packages"
_NOWHERE = "/usr"
"""Stands in for a working directory of the host, which a sandbox has none of: readable in every sandbox."""
_PRIVATE = ("/tmp", "/var/tmp", "/dev/shm", SANDBOX_HOME)
_VARIABLE = "BWRAP_BIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """What a sandbox is created with, checked.

    Attributes:
        template: One of :data:`TEMPLATES`.
        timeout_seconds: How long it lives.
        env_vars: Environment of code and commands, besides what they have anyway.
        network: False for none, True for any public host, or the hosts that may be reached.
        memory: Bytes that all of it may use together; None is half of the machine's.
        disk: Bytes of ``/workspace``, and of each other private place.
        processes: Processes and threads.
        readable_paths: Files and directories of this machine that can be read inside, at the same path.
    """

    template: str = TEMPLATES[0]
    timeout_seconds: float = LIFE_SECONDS
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: bool | tuple[str, ...] = False
    memory: int | None = None
    disk: int = DISK
    processes: int = 512
    readable_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise UnknownTemplateError(str(self.template), TEMPLATES)
        arguments.seconds("timeout_seconds", self.timeout_seconds)
        object.__setattr__(self, "env_vars", arguments.environment("env_vars", self.env_vars))
        if not isinstance(self.network, bool):
            object.__setattr__(self, "network", _texts("network", self.network))
        if self.memory is not None:
            arguments.size("memory", self.memory, LOWEST["memory"])
        arguments.size("disk", self.disk, LOWEST["scratch"])
        arguments.count("processes", self.processes, 4)
        paths = tuple(os.path.abspath(path) for path in _texts("readable_paths", self.readable_paths))
        object.__setattr__(self, "readable_paths", paths)

    @property
    def policy(self) -> SandboxPolicy:
        """The same in the terms of the walls."""
        hosts = self.network if isinstance(self.network, tuple) else ()
        return SandboxPolicy(
            network=NetworkPolicy(allowed_domains=hosts),
            filesystem=FilesystemPolicy(deny_read=(), allow_read=self.readable_paths, allow_write=()),
            limits=Limits(memory=self.memory, processes=self.processes, scratch=self.disk, shared_memory=self.disk),
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment of code and commands."""
        here = os.path.dirname(os.path.abspath(sys.executable))
        programs = (f"{_INSTALLED}/bin", here, "/usr/local/bin", "/usr/bin", "/bin")
        # What pip installs goes where it can be written, and is found there; what is installed already counts.
        path = (*site_directories(_INSTALLED), *filter(None, [self.env_vars.get("PYTHONPATH")]))
        return {
            "PATH": os.pathsep.join(programs),
            "LANG": "C.UTF-8",
            "HOME": SANDBOX_HOME,
            "TMPDIR": "/tmp",
            "USER": "sandbox",
            "LOGNAME": "sandbox",
            "SHELL": "/bin/sh",
            "MPLBACKEND": "agg",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_NO_WARN_SCRIPT_LOCATION": "1",
            "PIP_PREFIX": _INSTALLED,
            **self.env_vars,
            "PYTHONPATH": os.pathsep.join(path),
        }

    @property
    def can_be_forked(self) -> bool:
        """Whether nothing in the environment is heeded only by a Python that starts."""
        early = warm_kernel.launcher_environment(self.env_vars)
        return warm_kernel.obstacle(self.env_vars) is None and not any(name.startswith("PYTHON") for name in early)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of str, got {value!r}")
    return tuple(arguments.text(f"{name}[{index}]", each) for index, each in enumerate(value))


def refuse_elsewhere() -> None:
    """Raises :class:`SandboxUnavailableError` on other systems than Linux."""
    if sys.platform != "linux":
        raise SandboxUnavailableError(
            f"sandboxes of this kind need Linux, and this is {sys.platform}",
            ["run it in a Linux container or virtual machine"],
        )


class Site:
    """What sandboxes need that is the same for all of them on this machine.

    Raises:
        SandboxUnavailableError: There can be no sandbox here.
    """

    def __init__(self) -> None:
        refuse_elsewhere()
        binary = None
        if os.environ.get(_VARIABLE):
            binary = find_binary("bwrap", _VARIABLE, remedy=f"unset {_VARIABLE}, or name an installed one")
        self._binary = bubblewrap.find(binary=binary, outside=())
        self._uid = staging.sandbox_uid() if os.geteuid() == 0 else None

    def plan(self, policy: SandboxPolicy) -> WallPlan:
        """The wall around sandboxes with a policy."""
        return WallPlan(bubblewrap=self._binary, view=self.view(policy), uid=self._uid, python=sys.executable)

    def view(self, policy: SandboxPolicy) -> View:
        """What a sandbox sees: what a command does, and a workspace of its own."""
        uid = self._uid
        facts = HostFacts(
            home=os.path.realpath(os.path.expanduser("~")),
            working_dir=_NOWHERE,
            python_paths=python_paths(),
            uid=os.getuid() if uid is None else uid,
            gid=os.getgid() if uid is None else uid,
        )
        _check_readable(policy.filesystem.allow_read)
        view = kernel_view(policy, facts)
        for note in view.notes:
            where, _, reason = note.partition(": ")
            if where.startswith("filesystem."):
                raise PolicyError("readable_paths", reason)
        # First, so that a Python that lies in there on this machine is mounted into it.
        workspace = Mount("tmpfs", WORKSPACE, size=policy.limits.scratch, mode=0o1777)
        others = (mount for mount in view.mounts if mount.target != WORKSPACE)
        return replace(view, mounts=(workspace, *others), private=(*view.private, WORKSPACE))


def _check_readable(paths: tuple[str, ...]) -> None:
    for index, path in enumerate(paths):
        where, real = f"readable_paths[{index}]", os.path.realpath(path)
        if not os.path.lexists(path):
            raise PolicyError(where, f"{path} does not exist", "create it first, or leave it out")
        if is_below(path, [WORKSPACE]) or is_below(real, [WORKSPACE]):
            raise PolicyError(where, f"{path} is in {WORKSPACE}, which is private to each sandbox", "copy it")
        if real != path and is_below(path, _PRIVATE):
            reason = f"{path} is a link to {real}, and its place is private to each sandbox"
            raise PolicyError(where, reason, f"name {real}")
