"""``ipybox gateway``: a gateway in the foreground. Floor: cli."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from ipybox.cli.env import parse_env
from ipybox.errors import IpyboxError
from ipybox.kernel_mgr.server import KernelGateway, serve


def run_gateway(
    *,
    host: str,
    port: int,
    token: bool,
    working_dir: Path | None,
    env: Sequence[str],
    memory_limit: int | None,
    preload: Sequence[str],
    pool_size: int,
    max_kernels: int | None,
    sandbox: bool,
    sandbox_config: Path | None,
    log_level: str,
) -> int:
    """Runs a gateway until Ctrl-C or SIGTERM and returns the exit code."""
    try:
        gateway = KernelGateway(
            host=host,
            port=port,
            auth_token=token,
            working_dir=working_dir,
            env=parse_env(env),
            memory_limit=memory_limit,
            preload=preload,
            pool_size=pool_size,
            max_kernels=max_kernels,
            sandbox=sandbox,
            sandbox_config=sandbox_config,
            log_level=log_level,
            log_to_stderr=True,
        )
        asyncio.run(serve(gateway, _announce))
    except (IpyboxError, ValueError, TypeError) as error:
        sys.stderr.write(f"ipybox: {error}\n")
        return 1
    return 0


def _announce(gateway: KernelGateway) -> None:
    sys.stdout.write(f"gateway at {gateway.url}\n")
    if gateway.auth_token is not None:
        sys.stdout.write(f"token: {gateway.auth_token}\n")
    sys.stdout.flush()
