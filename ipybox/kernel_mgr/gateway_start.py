"""What is run when a gateway is started, and when it starts a kernel. Floor: kernel_mgr."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayStart:
    """A command, and what goes with it.

    Attributes:
        argv: The command.
        env: Its environment.
        pass_fds: Descriptors that it inherits.
        own_fds: Those of them that were made for it, and that the caller closes afterwards.
    """

    argv: list[str]
    env: dict[str, str]
    pass_fds: list[int]
    own_fds: list[int] = field(default_factory=list)


def kernel_argv() -> tuple[str, ...]:
    """The command of ipybox's own kernel."""
    return sys.executable, "-P", "-m", "ipybox.kernel_mgr.kernel_app"
