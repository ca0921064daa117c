"""Kernels under macOS's ``sandbox-exec``, with the policy rendered as a seatbelt profile. Floor: kernel_mgr.

Written from documentation: the project has no Mac. There are no namespaces there, so the kernel stays a child of the
gateway, processes of the user are visible, and the loopback interface is shared with everybody.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ipybox.sandbox import seatbelt
from ipybox.sandbox.egress import EgressEvent, EgressProxy
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.settings import policy_from_dict
from ipybox.sandbox.supervision import OnEgress
from ipybox.sandbox.supervisor import proxy_environment


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatbeltSettings:
    """What is the same for all kernels of a gateway.

    Attributes:
        policy: What they may touch.
        home: The user's home.
        working_dir: What relative paths of the policy start from.
        python_paths: What Python needs to read.
        protected: Files that are never writable, such as the policy's own.
        environment: Variables that name a proxy which the machine needs.
        learn: Whether hosts that are not allowed are let through and noted.
    """

    policy: SandboxPolicy
    home: str
    working_dir: str
    python_paths: tuple[str, ...]
    protected: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    learn: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A shape for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SeatbeltSettings:
        """Reads what :meth:`to_dict` and JSON made."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**{**values, "policy": policy_from_dict(data["policy"])})


class SeatbeltKernels:
    """Confines the commands of kernels.

    Args:
        settings: What they may touch.
        run_dir: Private directory of the gateway; each kernel gets one in it.
        on_egress: Called with what the egress proxy decided.
    """

    def __init__(self, settings: SeatbeltSettings, run_dir: Path, on_egress: OnEgress) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._on_egress = on_egress
        self._proxy: EgressProxy | None = None
        if settings.policy.network.allowed_domains or settings.learn:
            self._proxy = EgressProxy(
                settings.policy.network,
                environment=settings.environment,
                learn=settings.learn,
                on_event=self._tell,
            )

    def directory(self, kernel_id: str) -> Path:
        """The directory that a kernel may write."""
        return self._run_dir / f"kernel-{kernel_id[:8]}"

    async def confine(
        self, kernel_id: str, argv: Sequence[str], env: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        """The command of a kernel under its profile, and its environment.

        Raises:
            PolicyError: The policy can't be rendered as a profile.
            SandboxUnavailableError: There is no ``sandbox-exec``.
        """
        directory = self.directory(kernel_id)
        shutil.rmtree(directory, ignore_errors=True)  # of the kernel before a restart
        for part in ("home", "tmp"):
            (directory / part).mkdir(parents=True, mode=0o700)
        env = {**env, "HOME": str(directory / "home"), "TMPDIR": str(directory / "tmp")}
        port: int | None = None
        if self._proxy is not None:
            listener = socket.create_server(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
            await self._proxy.forget(kernel_id)
            await self._proxy.listen(listener, kernel_id)
            env |= proxy_environment(port)
        facts = seatbelt.SeatbeltFacts(
            home=self._settings.home,
            working_dir=self._settings.working_dir,
            python_paths=self._settings.python_paths,
            run_dir=str(directory),
            tmp_dir=str(directory / "tmp"),
            proxy_port=port,
            protected=self._settings.protected,
        )
        return seatbelt.command(seatbelt.profile(self._settings.policy, facts), argv), env

    async def forget(self, kernel_id: str) -> None:
        """A kernel is gone: closes its way out and removes its directory."""
        if self._proxy is not None:
            await self._proxy.forget(kernel_id)
        shutil.rmtree(self.directory(kernel_id), ignore_errors=True)

    async def _tell(self, event: EgressEvent) -> None:
        self._on_egress(
            {
                "tag": event.tag,
                "host": event.host,
                "port": event.port,
                "allowed": event.allowed,
                "reason": event.reason,
            }
        )
