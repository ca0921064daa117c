"""Why there is no sandbox here, and what would help. Linux only. Floor: sandbox."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ipybox.errors import SandboxUnavailableError

_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "install an AppArmor profile that allows bwrap user namespaces (Ubuntu: apt install apparmor-profiles, "
        "profile bwrap-userns-restrict), or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def unavailable(reasons: Sequence[str], root: str = "/") -> SandboxUnavailableError:
    """The error for walls that could not be built, with what on this machine prevents it.

    Args:
        reasons: What was tried and how it failed.
        root: Where to look for ``proc``; for tests.
    """
    causes, remedies = causes_here(root)
    reason = "; ".join(causes) if causes else "bubblewrap can't build a wall"
    tried = "; ".join(reason.replace("\n", " / ") for reason in reasons)
    return SandboxUnavailableError(f"{reason} (tried: {tried})", remedies)


def causes_here(root: str = "/") -> tuple[list[str], list[str]]:
    """What on this machine stands against user namespaces, and what would help."""
    causes, remedies = [], []
    for name, bad, remedy in _SYSCTLS:
        if _read(Path(root, "proc/sys", name)) == bad:
            causes.append(f"{name.replace('/', '.')} is {bad}")
            remedies.append(remedy)
    if _in_container(root):
        causes.append("this is a container whose seccomp or LSM profile may forbid user namespaces")
        remedies.append("run the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined")
    if not remedies:
        remedies.append("run `ipybox doctor` for what is enforced here")
    return causes, remedies


def _in_container(root: str) -> bool:
    if any(os.path.exists(os.path.join(root, name)) for name in (".dockerenv", "run/.containerenv")):
        return True
    status = _read(Path(root, "proc/self/status"))
    return any(line.split() == ["Seccomp:", "2"] for line in status.splitlines())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
