"""Why there is no sandbox here, and what would help. Linux only. Floor: sandbox."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipybox.errors import SandboxUnavailableError


@dataclass(frozen=True, slots=True)
class _Symptom:
    """What somebody said who tried, and what that means.

    Attributes:
        said: Words in it, all of them.
        cause: The cause in words.
        remedies: What helps.
    """

    said: tuple[str, ...]
    cause: str
    remedies: tuple[str, ...]


_UNCONFINED = "run the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
_SYMPTOMS = (
    _Symptom(
        ("symbolic links",),
        "a protected name in the working directory is a symbolic link, and here nothing keeps it from being replaced",
        ("replace the link by what it leads to, or work in another directory",),
    ),
    _Symptom(
        ("mount proc",),
        "parts of /proc are covered, as in a container",
        ("Docker: --security-opt systempaths=unconfined", "Podman: --security-opt unmask=ALL"),
    ),
    _Symptom(
        ("staging: unshare", "not permitted"),
        "root has no CAP_SYS_ADMIN here",
        ("run ipybox as a plain user", "Docker, Podman: --cap-add SYS_ADMIN"),
    ),
    *(
        _Symptom(
            said,
            "the limit of user namespaces is reached, or they are switched off (user.max_user_namespaces)",
            ("sysctl -w user.max_user_namespaces=15000",),
        )
        for said in (("ENOSPC",), ("unshare", "No space left on device"))
    ),
)
_SYSCTLS = (
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "sysctl -w user.max_user_namespaces=15000",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "install an AppArmor profile that lets bwrap make user namespaces (Ubuntu: apt install apparmor-profiles, "
        "profile bwrap-userns-restrict), or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def unavailable(reasons: Sequence[str], root: str = "/") -> SandboxUnavailableError:
    """The error for walls that could not be built: what prevents it, as far as that can be told, and what was tried.

    Args:
        reasons: What was tried and how it failed, the best way first.
        root: Where to look for ``proc``; for tests.
    """
    causes, remedies = _by_words(reasons)
    for found_causes, found_remedies in (_by_sysctl(root), _by_surroundings(root)):
        if not causes:
            causes, remedies = found_causes, found_remedies
    reason = "; ".join(causes) if causes else "bubblewrap can't build a wall"
    tried = "; ".join(reason.replace("\n", " / ") for reason in reasons)
    return SandboxUnavailableError(
        f"{reason} (tried: {tried})", remedies or ["see what was tried, and `ipybox doctor`"]
    )


def _by_words(reasons: Sequence[str]) -> tuple[list[str], list[str]]:
    for symptom in _SYMPTOMS:
        if any(all(word in reason for word in symptom.said) for reason in reasons):
            return [symptom.cause], list(symptom.remedies)
    return [], []


def _by_sysctl(root: str) -> tuple[list[str], list[str]]:
    causes, remedies = [], []
    for name, bad, remedy in _SYSCTLS:
        if _read(Path(root, "proc/sys", name)) == bad:
            causes.append(f"{name.replace('/', '.')} is {bad}")
            remedies.append(remedy)
    return causes, remedies


def _by_surroundings(root: str) -> tuple[list[str], list[str]]:
    container = any(os.path.exists(os.path.join(root, name)) for name in (".dockerenv", "run/.containerenv"))
    status = _read(Path(root, "proc/self/status"))
    filtered = any(line.split() == ["Seccomp:", "2"] for line in status.splitlines())
    if container or filtered:
        return ["a container or service manager around this process forbids user namespaces"], [_UNCONFINED]
    return [], []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
