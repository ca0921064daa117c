"""What a supervisor process is told by whoever starts it. Floor: sandbox.

It travels as JSON through an inherited descriptor.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ipybox.process.warm import Warmth
from ipybox.sandbox.policy import FilesystemPolicy, Limits, NetworkPolicy, Packages, SandboxPolicy

SANDBOX_WARNING = "sandbox warning: "
"""What a line of the supervisor's log begins with that somebody should read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """Settings of a supervisor process.

    Attributes:
        policy: What sandboxed programs may touch.
        home: The caller's home directory.
        working_dir: The directory that relative paths of the policy start from.
        python: Interpreter of sandboxed programs.
        python_paths: What of the file system that interpreter needs.
        certificates: Variables of the environment that name certificates, which programs may read.
        config_file: The policy's own file, which nobody inside may write.
        packages_dir: Where packages are installed for programs; None when there are none to install.
        run_dir: Private directory of the gateway; it sees that, programs don't.
        client_argv: Command of the client that asks for programs, behind a wall of its own.
        client_env: Its environment.
        client_fds: Descriptors that it inherits from us.
        control_fd: Our end of the socket to it.
        ready_fd: Where to say that the walls stand, or why they can't.
        learn: Whether hosts that are not allowed are let through and noted.
        warmth: What programs are forked from that ask for it; None executes all of them.
    """

    policy: SandboxPolicy
    home: str
    working_dir: str
    python: str
    python_paths: tuple[str, ...]
    certificates: dict[str, str] = field(default_factory=dict)
    config_file: str | None = None
    packages_dir: str | None = None
    run_dir: str
    client_argv: tuple[str, ...]
    client_env: dict[str, str] = field(repr=False)
    client_fds: tuple[int, ...]
    control_fd: int
    ready_fd: int
    learn: bool = False
    warmth: Warmth | None = None

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SupervisorSettings:
        """Reads what :meth:`to_json` wrote."""
        data: dict[str, Any] = _tuples(json.loads(text))
        data["policy"] = policy_from_dict(data["policy"])
        if data["warmth"] is not None:
            data["warmth"] = Warmth(**_tuples(data["warmth"]))
        return cls(**data)


def policy_from_dict(data: dict[str, Any]) -> SandboxPolicy:
    """A policy from what ``dataclasses.asdict`` and JSON made of it."""
    network = dict(data["network"])
    network["hosts"] = tuple((name, address) for name, address in network["hosts"])
    return SandboxPolicy(
        network=NetworkPolicy(**_tuples(network)),
        filesystem=FilesystemPolicy(**_tuples(data["filesystem"])),
        limits=Limits(**data["limits"]),
        packages=Packages(**_tuples(data["packages"])),
    )


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
