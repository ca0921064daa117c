"""How a gateway and its kernels are started in sandboxes. Floor: kernel_mgr.

Everything here runs in the owner's process, before anything is started. On Linux a supervisor starts the gateway
behind a wall of its own, and later its kernels in sandboxes; on macOS the gateway starts kernels under a profile.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipybox.errors import GatewayStartError, PolicyError, SandboxUnavailableError
from ipybox.kernel_mgr import warm_kernel
from ipybox.kernel_mgr.gateway_start import GatewayStart, kernel_argv
from ipybox.kernel_mgr.seatbelt_kernels import SeatbeltSettings
from ipybox.kernel_mgr.warm_kernel import WarmSettings
from ipybox.process import bootstrap
from ipybox.process.descriptors import memory_file
from ipybox.process.late_site import PythonFacts
from ipybox.process.warm import Warmth
from ipybox.sandbox import seatbelt
from ipybox.sandbox.packages import site_directories
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.policy_file import DEFAULT_POLICY, read_policy
from ipybox.sandbox.python_paths import python_paths, site_packages
from ipybox.sandbox.settings import SupervisorSettings

SANDBOX_HOME = "/run/home"
_LINUX = platform.system() == "Linux"
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_FOR_PIP = ("PIP_CERT",)
_PARENT_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_INSTALL_SECONDS = 600.0


class Sandboxing:
    """The sandbox of one gateway.

    Args:
        config: File with the policy; None is the default one.
        memory_limit: Bytes per kernel, in place of the policy's.
        working_dir: Working directory of kernels.
        learn: Whether hosts that are not allowed are let through and noted.

    Raises:
        PolicyError: The file makes no sense.
    """

    def __init__(self, config: Path | None, *, memory_limit: int | None, working_dir: Path, learn: bool) -> None:
        self.policy: SandboxPolicy = DEFAULT_POLICY
        self.notes: tuple[str, ...] = ()
        self.tier: str | None = None
        if config is not None:
            file = read_policy(config)
            self.policy, self.notes = file.policy, file.notes
        if memory_limit is not None:
            self.policy = replace(self.policy, limits=replace(self.policy.limits, memory=memory_limit))
        wheels = self.policy.packages.wheels
        if wheels is not None:
            wheels = os.path.join(os.path.realpath(working_dir), os.path.expanduser(wheels))
            self.policy = replace(self.policy, packages=replace(self.policy.packages, wheels=wheels))
        self._config = config
        self._working_dir = working_dir
        self._learn = learn
        self._awaited = {"gateway", "walls"} if _LINUX else {"gateway"}

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor starts the gateway and its kernels."""
        return _LINUX

    @property
    def extra_seconds(self) -> float:
        """What a start may take longer than without a sandbox."""
        return _INSTALL_SECONDS if self.policy.packages.install else 0.0

    def check_platform(self) -> None:
        """Says what there is to say against a sandbox on this system, before anything is started.

        Raises:
            SandboxUnavailableError: There is none for it.
            PolicyError: The policy asks for what is done on Linux only.
        """
        self._awaited = {"gateway", "walls"} if _LINUX else {"gateway"}
        if _LINUX:
            return
        if platform.system() != "Darwin":
            raise SandboxUnavailableError(
                f"kernels are sandboxed on Linux and macOS, this is {platform.system()}",
                ["run ipybox in a Linux virtual machine", "use sandbox=False for trusted code only"],
            )
        seatbelt.command("", ["true"])  # raises when there is no sandbox-exec
        if self.policy.packages.install:
            raise PolicyError("packages.install", "packages are installed into sandboxes on Linux only")

    def kernel_env(self, env: Mapping[str, str], run_dir: Path) -> dict[str, str]:
        """The environment of a sandboxed kernel, made from that of one without a sandbox: paths differ."""
        if not _LINUX:
            return dict(env)
        own = {name: value for name, value in env.items() if name not in ("SHELL", "TMPDIR")}
        packages = self._packages_dir(run_dir)
        if packages is not None:
            # In front of what the environment has, none of which they replace: that would have been an error.
            path = [*site_directories(packages), *([own["PYTHONPATH"]] if own.get("PYTHONPATH") else [])]
            own["PYTHONPATH"] = os.pathsep.join(path)
            own["PATH"] = f"{packages}/bin{os.pathsep}{own.get('PATH', os.defpath)}"
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

    def gateway_argv(self, *arguments: str) -> list[str]:
        """The command of the gateway: it reads what kernels say, and must load nothing that they wrote."""
        module = "ipybox.kernel_mgr.gateway_process"
        return bootstrap.command(sys.executable, module, *arguments, sites=site_packages())

    def supervised(
        self,
        gateway: GatewayStart,
        *,
        run_dir: Path,
        kernel_env: Mapping[str, str],
        control_fd: int,
        ready_fd: int,
        preload: Sequence[str] | None,
    ) -> GatewayStart:
        """The supervisor that starts a gateway and its kernels.

        Args:
            gateway: The gateway's command; it gets the other end of ``control_fd`` among its descriptors.
            run_dir: Private directory of the gateway.
            kernel_env: Environment of kernels, which may name certificates.
            control_fd: The supervisor's end of the socket between the two.
            ready_fd: Where both say that they are ready.
            preload: What to import once for all kernels; None executes each of them.
        """
        settings = SupervisorSettings(
            policy=self.policy,
            home=os.path.realpath(os.path.expanduser("~")),
            working_dir=os.path.realpath(self._working_dir),
            python=sys.executable,
            python_paths=python_paths(),
            certificates=_certificates(kernel_env),
            config_file=os.path.realpath(self._config) if self._config is not None else None,
            packages_dir=self._packages_dir(run_dir),
            run_dir=str(run_dir),
            client_argv=tuple(gateway.argv),
            client_env={**gateway.env, "HOME": str(run_dir), "TMPDIR": str(run_dir)},
            client_fds=tuple(gateway.pass_fds),
            control_fd=control_fd,
            ready_fd=ready_fd,
            learn=self._learn,
            warmth=self._warmth(kernel_env, preload) if preload is not None else None,
        )
        fd = memory_file(settings.to_json())
        argv = bootstrap.command(sys.executable, "ipybox.sandbox.supervisor_process", str(fd))
        fds = [fd, control_fd, ready_fd, *gateway.pass_fds]
        return GatewayStart(argv, {**gateway.env, **_parent_proxy()}, fds, [*gateway.own_fds, fd])

    def seatbelt_settings(self) -> dict[str, Any] | None:
        """What a gateway on macOS is told; None elsewhere."""
        if _LINUX:
            return None
        self.tier = "seatbelt (sandbox-exec)"
        settings = SeatbeltSettings(
            policy=self.policy,
            home=os.path.realpath(os.path.expanduser("~")),
            working_dir=os.path.realpath(self._working_dir),
            python_paths=tuple(os.path.realpath(path) for path in python_paths()),
            protected=(os.path.realpath(self._config),) if self._config is not None else (),
            environment=_parent_proxy(),
            learn=self._learn,
        )
        return settings.to_dict()

    def take(self, said: Sequence[dict[str, Any]]) -> bool:
        """Reads what gateway and supervisor said; True when all is ready.

        Raises:
            SandboxUnavailableError, PolicyError, GatewayStartError: As the supervisor reported it.
        """
        for facts in said:
            if "policy" in facts:
                raise PolicyError(*facts["policy"])
            if "unavailable" in facts:
                raise SandboxUnavailableError(*facts["unavailable"])
            if "failed" in facts:
                raise GatewayStartError(facts["failed"])
            self._awaited.difference_update(facts)
            self.tier = facts.get("walls", self.tier)
        return not self._awaited

    def _warmth(self, kernel_env: Mapping[str, str], preload: Sequence[str]) -> Warmth:
        python = PythonFacts.of_this_one(site_packages())
        settings = WarmSettings(modules=tuple(preload), python=python, argv=kernel_argv())
        entries = kernel_env.get("PYTHONPATH", "").split(os.pathsep)  # installed packages are among them
        return Warmth(
            module=warm_kernel.MODULE,
            settings=settings.to_json(),
            path=tuple(site_packages()),
            more_path=tuple(os.path.join(os.path.realpath(self._working_dir), entry) for entry in entries if entry),
            env={**warm_kernel.launcher_environment(kernel_env), "HOME": SANDBOX_HOME, "TMPDIR": "/tmp"},
        )

    def _packages_dir(self, run_dir: Path) -> str | None:
        return str(run_dir / "packages") if self.policy.packages.install else None


def _parent_proxy() -> dict[str, str]:
    names: Sequence[str] = [*_PARENT_PROXY, *(name.lower() for name in _PARENT_PROXY)]
    return {name: os.environ[name] for name in names if name in os.environ}


def _certificates(kernel_env: Mapping[str, str]) -> dict[str, str]:
    named = {**kernel_env, **{name: os.environ[name] for name in _FOR_PIP if name in os.environ}}
    return {name: named[name] for name in (*_CERTIFICATES, *_FOR_PIP) if os.path.exists(named.get(name, ""))}
