"""What a session's limits mean for the walls around it, and what it sees behind them. Floor: control."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from ipybox.control.inside import python_process
from ipybox.control.inside.installer import EARLIER
from ipybox.control.inside.places import INSTALLED, PACKAGES, SESSIONS, TEMPLATE, WORKSPACE
from ipybox.control.records import NetworkRules, ResourceLimits
from ipybox.control.runtime.host import SessionSpec
from ipybox.errors import PolicyError
from ipybox.sandbox import bubblewrap, staging
from ipybox.sandbox.access import SANDBOX_HOME, HostFacts
from ipybox.sandbox.packages import site_directories
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import HIGHEST, LOWEST, FilesystemPolicy, Limits, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.python_paths import python_paths
from ipybox.sandbox.view import Mount, View, kernel_view
from ipybox.sandbox.wall import WallPlan

RESERVED = 24
"""Processes that a sandbox may have above those of its limit, so that its agent can start something at any time."""
_OWN = 2
"""Processes of a sandbox that are ours: its pid 1 and the agent."""
_NOWHERE = "/usr"
"""Stands in for a working directory of the host, which a sandbox has none of: readable in every sandbox."""


def code_processes(limits: ResourceLimits) -> int:
    """Processes that may be there in the sandbox for code to make another one."""
    return limits.max_processes + _OWN


def policy(limits: ResourceLimits, network: NetworkRules) -> SandboxPolicy:
    """Limits and hosts in the terms of the walls. Raises :class:`PolicyError` for limits that nothing can run with."""
    try:
        return _policy(limits, network)
    except (TypeError, ValueError) as error:
        raise PolicyError("limits", str(error)) from None


def _policy(limits: ResourceLimits, network: NetworkRules) -> SandboxPolicy:
    return SandboxPolicy(
        network=NetworkPolicy(
            allowed_domains=network.allowed_domains,
            denied_domains=network.denied_domains,
            allow_all_unix_sockets=True,  # of its own sandbox; nobody else's can be reached
        ),
        filesystem=FilesystemPolicy(deny_read=(), allow_read=(), allow_write=()),
        limits=Limits(
            memory=limits.memory_bytes,
            processes=_between("processes", code_processes(limits) + RESERVED),
            file_size=limits.disk_bytes,
            scratch=limits.disk_bytes,
            shared_memory=_between("shared_memory", min(limits.disk_bytes, limits.memory_bytes // 2)),
        ),
    )


def _between(name: str, value: int) -> int:
    return min(max(value, LOWEST[name]), HIGHEST[name])


def environment(spec: SessionSpec) -> dict[str, str]:
    """The environment of all that runs in a session."""
    here = os.path.dirname(os.path.abspath(sys.executable))
    prefixes = (PACKAGES, TEMPLATE, INSTALLED)
    programs = (*(f"{prefix}/bin" for prefix in prefixes), here, "/usr/local/bin", "/usr/bin", "/bin")
    path = (*(site for prefix in prefixes for site in site_directories(prefix)), spec.env_vars.get("PYTHONPATH", ""))
    return {
        "PATH": os.pathsep.join(programs),
        "LANG": "C.UTF-8",
        "HOME": SANDBOX_HOME,
        "TMPDIR": "/tmp",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "SHELL": "/bin/sh",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_NO_WARN_SCRIPT_LOCATION": "1",
        "PIP_PREFIX": INSTALLED,
        **spec.env_vars,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


def can_be_forked(spec: SessionSpec) -> bool:
    """Whether nothing in its environment is heeded only by a Python that starts."""
    return not python_process.needs_start(spec.env_vars)


class Site:
    """What sandboxes need that is the same for all of them on this machine.

    Args:
        root: The directory that all workspaces and packages are below.

    Raises:
        SandboxUnavailableError: There can be no sandbox here.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._binary = bubblewrap.find(outside=(self._root,))
        self.uid = staging.sandbox_uid() if os.geteuid() == 0 else None
        """The user that root becomes for sandboxes; None when we are not root."""

    def inside(self, path: Path) -> str:
        """Where the launcher sees a directory below the root.

        Raises:
            PolicyError: It is not below the root.
        """
        given = os.path.abspath(path)
        real = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
        if not real.startswith(f"{self._root}/"):
            raise PolicyError(str(path), f"is not below {self._root}")
        return SESSIONS + real[len(self._root) :]

    def plan(self, policy: SandboxPolicy, packages: Path | None) -> WallPlan:
        """The wall around sandboxes with a policy, and packages that all of them see."""
        return WallPlan(bubblewrap=self._binary, view=self._view(policy, packages), uid=self.uid, python=sys.executable)

    def _view(self, policy: SandboxPolicy, packages: Path | None) -> View:
        facts = HostFacts(
            home=os.path.realpath(os.path.expanduser("~")),
            working_dir=_NOWHERE,
            python_paths=python_paths(),
            uid=os.getuid() if self.uid is None else self.uid,
            gid=os.getgid() if self.uid is None else self.uid,
        )
        view = kernel_view(policy, facts)
        for mount in view.mounts:
            if mount.source is not None and mount.kind in ("read", "write") and is_below(self._root, [mount.source]):
                raise PolicyError(
                    str(self._root),
                    f"is in {mount.source}, which every sandbox sees, so sessions would see each other",
                    "keep the state in a directory of its own",
                )
        shown = Mount("dir", TEMPLATE, mode=0o755)
        if packages is not None:
            self.inside(packages)  # which is a check
            shown = Mount("read", TEMPLATE, os.path.realpath(packages))
        own = (
            Mount("dir", WORKSPACE, mode=0o755),
            Mount("dir", PACKAGES, mode=0o755),
            Mount("dir", EARLIER, mode=0o755),
            shown,
            Mount("write", SESSIONS, self._root),
        )
        return replace(view, mounts=(*view.mounts, *own))
