"""How a gateway is started behind a wall, with a supervisor that starts its kernels in sandboxes. Floor: kernel_mgr.

Everything here runs in the owner's process, before anything is started.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipybox.errors import GatewayStartError, PolicyError, SandboxUnavailableError
from ipybox.process.descriptors import memory_file
from ipybox.sandbox.packages import site_directories
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.policy_file import DEFAULT_POLICY, read_policy
from ipybox.sandbox.python_paths import package_parent, python_paths
from ipybox.sandbox.settings import SupervisorSettings

SANDBOX_HOME = "/run/home"
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_FOR_PIP = ("PIP_CERT",)
_PARENT_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def policy_of(config: Path | None, memory_limit: int | None) -> tuple[SandboxPolicy, tuple[str, ...]]:
    """The policy in a file, or the default one, and what is to be said about it once.

    Raises:
        PolicyError: The file makes no sense.
    """
    policy = DEFAULT_POLICY
    notes: tuple[str, ...] = ()
    if config is not None:
        file = read_policy(config)
        policy, notes = file.policy, file.notes
    if memory_limit is not None:
        policy = replace(policy, limits=replace(policy.limits, memory=memory_limit))
    return policy, notes


def kernel_env(env: Mapping[str, str], packages_dir: Path | None = None) -> dict[str, str]:
    """The environment of a sandboxed kernel, made from that of one without a sandbox: paths differ."""
    own = {name: value for name, value in env.items() if name not in ("SHELL", "TMPDIR")}
    if packages_dir is not None:
        # In front of what the environment has, which they don't replace: that would have been an error.
        path = [*site_directories(str(packages_dir)), *([own["PYTHONPATH"]] if own.get("PYTHONPATH") else [])]
        own["PYTHONPATH"] = os.pathsep.join(path)
        own["PATH"] = f"{packages_dir}/bin{os.pathsep}{own.get('PATH', os.defpath)}"
    return {
        **own,
        "HOME": SANDBOX_HOME,
        "TMPDIR": "/tmp",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "SHELL": "/bin/sh",
        "IPYTHONDIR": f"{SANDBOX_HOME}/.ipython",
        "JUPYTER_RUNTIME_DIR": f"{SANDBOX_HOME}/.jupyter",
    }


def control_pair() -> tuple[int, int]:
    """The gateway's end and the supervisor's."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), its.detach()


def sandboxed_start(
    policy: SandboxPolicy,
    *,
    config: Path | None,
    working_dir: Path,
    run_dir: Path,
    gateway_argv: Sequence[str],
    gateway_env: Mapping[str, str],
    gateway_fds: Sequence[int],
    kernel_env: Mapping[str, str],
    control_fd: int,
    ready_fd: int,
    learn: bool,
    packages_dir: Path | None,
) -> tuple[list[str], dict[str, str], list[int], int]:
    """The supervisor's command, its environment, what it inherits, and which of that the caller closes afterwards."""
    settings = SupervisorSettings(
        policy=policy,
        home=os.path.realpath(os.path.expanduser("~")),
        working_dir=os.path.realpath(working_dir),
        python=sys.executable,
        python_paths=python_paths(),
        package_parent=package_parent(),
        certificates=_certificates(kernel_env),
        config_file=os.path.realpath(config) if config is not None else None,
        packages_dir=None if packages_dir is None else str(packages_dir),
        run_dir=str(run_dir),
        client_argv=tuple(gateway_argv),
        client_env={**gateway_env, "HOME": str(run_dir), "TMPDIR": str(run_dir)},
        client_fds=tuple(gateway_fds),
        control_fd=control_fd,
        ready_fd=ready_fd,
        learn=learn,
    )
    fd = memory_file(settings.to_json())
    names = [*_PARENT_PROXY, *(name.lower() for name in _PARENT_PROXY)]
    parent = {name: os.environ[name] for name in names if name in os.environ}
    argv = [sys.executable, "-P", "-s", "-m", "ipybox.sandbox.supervisor_process", str(fd)]
    return argv, {**gateway_env, **parent}, [fd, control_fd, ready_fd, *gateway_fds], fd


def _certificates(kernel_env: Mapping[str, str]) -> dict[str, str]:
    named = {**kernel_env, **{name: os.environ[name] for name in _FOR_PIP if name in os.environ}}
    return {name: named[name] for name in (*_CERTIFICATES, *_FOR_PIP) if os.path.exists(named.get(name, ""))}


def raise_reported(facts: dict[str, Any]) -> None:
    """Raises the error that a supervisor reported, if these facts hold one."""
    if "policy" in facts:
        raise PolicyError(*facts["policy"])
    if "unavailable" in facts:
        raise SandboxUnavailableError(*facts["unavailable"])
    if "failed" in facts:
        raise GatewayStartError(facts["failed"])


def facts_in(lines: bytes) -> list[dict[str, Any]]:
    """What gateway and supervisor said, a JSON object per line."""
    return [json.loads(line) for line in lines.splitlines() if line.endswith(b"}")]
