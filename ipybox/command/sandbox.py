"""Where users begin: a policy and the name of a driver give something that runs commands. Floor: command."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ipybox.command.policy import ExecutionPolicy

if TYPE_CHECKING:
    from ipybox.command.bubblewrap import BubblewrapDriver
    from ipybox.command.containers import DockerDriver, PodmanDriver
    from ipybox.command.driver import CommandDriver
    from ipybox.command.firejail import FirejailDriver
    from ipybox.command.host import HostDriver

DRIVERS = {
    "host": "ipybox.command.host:HostDriver",
    "bubblewrap": "ipybox.command.bubblewrap:BubblewrapDriver",
    "firejail": "ipybox.command.firejail:FirejailDriver",
    "docker": "ipybox.command.containers:DockerDriver",
    "podman": "ipybox.command.containers:PodmanDriver",
}
"""The drivers, by name. Each is imported when it is asked for."""


class Sandbox:
    """Commands under a policy::

        sandbox = Sandbox.from_policy(ExecutionPolicy.in_dir("/tmp").with_timeout(30)).using("bubblewrap")
        result = await sandbox.execute(["python3", "-c", "print(6 * 7)"])

    Each driver takes ``waive=`` for what it can't enforce, see :class:`~ipybox.command.driver.CommandDriver`;
    ``bubblewrap`` and ``firejail`` take ``binary=``; ``docker`` and ``podman`` take ``binary=`` and ``image=``.
    """

    def __init__(self, policy: ExecutionPolicy) -> None:
        if not isinstance(policy, ExecutionPolicy):
            raise TypeError(f"policy must be an ExecutionPolicy, got {policy!r}")
        self._policy = policy

    @classmethod
    def from_policy(cls, policy: ExecutionPolicy) -> Sandbox:
        """Commands under this policy, by a driver still to be named."""
        return cls(policy)

    @property
    def policy(self) -> ExecutionPolicy:
        """What each command may use and touch."""
        return self._policy

    def using(self, driver: str, **options: Any) -> CommandDriver:
        """The driver of that name.

        Args:
            driver: One of :data:`DRIVERS`.
            options: What that driver takes.

        Raises:
            ValueError: There is none of that name.
            PolicyNotEnforcedError: It can't enforce some of the policy.
            SandboxUnavailableError: What it needs is not on this machine.
        """
        if driver not in DRIVERS:
            near = difflib.get_close_matches(str(driver), DRIVERS, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"driver must be one of {', '.join(DRIVERS)}, got {driver!r}{meant}")
        module, _, name = DRIVERS[driver].partition(":")
        return cast("CommandDriver", getattr(import_module(module), name)(self._policy, **options))

    @classmethod
    def host(cls, policy: ExecutionPolicy, **options: Any) -> HostDriver:
        """No isolation at all; takes ``waive="isolation"``, which says so."""
        return cast("HostDriver", cls(policy).using("host", **options))

    @classmethod
    def bubblewrap(cls, policy: ExecutionPolicy, **options: Any) -> BubblewrapDriver:
        """The sandbox that kernels get as well; the one to use on Linux."""
        return cast("BubblewrapDriver", cls(policy).using("bubblewrap", **options))

    @classmethod
    def firejail(cls, policy: ExecutionPolicy, **options: Any) -> FirejailDriver:
        """Firejail."""
        return cast("FirejailDriver", cls(policy).using("firejail", **options))

    @classmethod
    def docker(cls, policy: ExecutionPolicy, **options: Any) -> DockerDriver:
        """A Docker container for each command."""
        return cast("DockerDriver", cls(policy).using("docker", **options))

    @classmethod
    def podman(cls, policy: ExecutionPolicy, **options: Any) -> PodmanDriver:
        """A Podman container for each command."""
        return cast("PodmanDriver", cls(policy).using("podman", **options))
