"""Entry point of the gateway process: ``python -m ipybox.kernel_mgr.gateway_process FD``. Floor: kernel_mgr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipybox.kernel_mgr.gateway_start import kernel_argv
from ipybox.kernel_mgr.settings import GatewaySettings

if TYPE_CHECKING:
    from ipybox.kernel_mgr.forked_kernels import ForkedKernels

_UNUSED_FORMATS = ("isoduration", "rfc3987_syntax")
"""Format checkers that ``jsonschema`` imports when they are there, and does without when they are not.

Nothing in a gateway validates documents with such formats, and the two take more than half of its start: one of them
compiles a grammar at import.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the gateway; the argument is the descriptor with its settings."""
    for name in _UNUSED_FORMATS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # makes importing it an ImportError
    with os.fdopen(int(arguments[0]), encoding="utf-8") as file:
        settings = GatewaySettings.from_json(file.read())
    forked = fork_server(settings)  # so that it does its imports while we do ours
    from ipybox.kernel_mgr import gateway

    gateway.main(settings, forked)


def fork_server(settings: GatewaySettings) -> ForkedKernels | None:
    """What kernels without a sandbox are forked from; None when they are executed, or started by a supervisor."""
    if settings.preload is None or settings.supervisor_fd is not None or settings.seatbelt is not None:
        return None
    from ipybox.kernel_mgr.forked_kernels import ForkedKernels

    return ForkedKernels(settings.preload, kernel_argv(), settings.kernel_env, settings.working_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
