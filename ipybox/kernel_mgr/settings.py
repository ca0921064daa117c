"""What a gateway process is told by whoever starts it. Floor: kernel_mgr.

It travels as JSON through an inherited descriptor, so that no secret shows up in arguments or environments.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of a gateway process.

    Attributes:
        run_dir: Private directory (mode 0700) for connection files, journals and profiles; the owner removes it.
        working_dir: Working directory of kernels.
        listen_fds: Descriptors of listening sockets.
        ready_fd: Descriptor to which a line is written when the gateway serves.
        allowed_hosts: Values of the ``Host`` header that are answered, without port; None answers all.
        auth_token: Required on every request when set.
        kernel_env: The complete environment of kernels.
        kernel_name: Kernelspec to start by default; None is ipybox's own kernel.
        journal_bytes: How much of its output is kept per kernel for clients that come back.
        memory_limit: Bytes of memory that a kernel and its children may use; None is no limit.
        abandoned_timeout: Seconds after which a kernel without any connection is shut down; None is never.
        supervisor_fd: Socket to the supervisor that starts kernels in sandboxes; None starts them without.
        seatbelt: What kernels may touch where macOS sandboxes them, as ``seatbelt_kernels`` shapes it; None elsewhere.
        max_kernels: How many kernels there may be; None is as many as there is memory for.
        pool_size: How many kernels are kept ready for whoever asks next.
        preload: Modules to import once for all kernels, which are then forked; None executes each kernel.
        log_level: Such as ``"INFO"``.
    """

    run_dir: str
    working_dir: str
    listen_fds: list[int]
    ready_fd: int
    allowed_hosts: list[str] | None = None
    auth_token: str | None = field(default=None, repr=False)
    kernel_env: dict[str, str] = field(default_factory=dict, repr=False)
    kernel_name: str | None = None
    journal_bytes: int = 64 * 1024 * 1024
    memory_limit: int | None = None
    abandoned_timeout: float | None = None
    supervisor_fd: int | None = None
    seatbelt: dict[str, Any] | None = field(default=None, repr=False)
    max_kernels: int | None = None
    pool_size: int = 0
    preload: list[str] | None = None
    log_level: str = "INFO"

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GatewaySettings:
        """Reads what :meth:`to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        return cls(**data)
