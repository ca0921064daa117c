"""``ipybox doctor``: what works here, and what does not and why. Floor: cli."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from rich.console import Console
from rich.table import Table

from ipybox import __version__
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.sandbox import DRIVERS, Sandbox
from ipybox.errors import IpyboxError, SandboxUnavailableError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway

_LIBRARIES = ("ipykernel", "jupyter_client", "jupyter_server", "jupyter-kernel-gateway", "pyzmq", "websockets")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "fails"]
    detail: str


def diagnose(*, as_json: bool) -> int:
    """Looks at everything, prints it and returns the exit code: 1 when kernels can't run here."""
    findings = [*(look() for look in _LOOKS), *_sandbox(), *(_driver(name) for name in DRIVERS if name != "host")]
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        _print(findings)
    return 1 if any(finding.state == "fails" for finding in findings) else 0


def _print(findings: list[Finding]) -> None:
    table = Table("", "what", "how it is", show_edge=False)
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fails": "[red]FAILS[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, finding.detail)
    Console().print(table)


def _versions() -> Finding:
    found = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return Finding("versions", "ok", f"ipybox {__version__}, Python {platform.python_version()}, {found}")


def _system() -> Finding:
    detail = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() == "Linux":
        return Finding("system", "ok", detail)
    if platform.system() == "Darwin":
        return Finding("system", "note", f"{detail}: supported, but the project's machines have no Mac to test it on")
    return Finding("system", "fails", f"{detail}: only Linux and macOS are supported")


def _cleanup() -> Finding:
    if not sys.platform.startswith("linux"):
        return Finding("clean-up", "note", "daemons that leave their session may survive a gateway on this system")
    if not hasattr(os, "pidfd_open"):
        return Finding("clean-up", "note", "no pidfd: an owner's death is noticed through a pipe")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return Finding("clean-up", "note", f"no pidfd ({error}): an owner's death is noticed through a pipe")
    return Finding("clean-up", "ok", "pidfd and subreaper: nothing outlives its gateway, also after SIGKILL")


def _temporary_files() -> Finding:
    try:
        with tempfile.TemporaryDirectory(prefix="ipybox-") as directory:
            free = os.statvfs(directory)
            return Finding(
                "temporary files", "ok", f"{tempfile.gettempdir()}, {free.f_bavail * free.f_frsize // 2**20} MiB free"
            )
    except OSError as error:
        return Finding("temporary files", "fails", f"{tempfile.gettempdir()}: {error}")


def _kernel() -> Finding:
    async def try_one() -> str:
        async with KernelGateway(port=0, auth_token=True, log_level="ERROR") as gateway:
            started = time.perf_counter()
            images = os.path.join(tempfile.gettempdir(), "ipybox-doctor-images")
            async with KernelClient(
                gateway.host, gateway.port, auth_token=gateway.auth_token, images_dir=images
            ) as client:
                result = await client.execute("print(6 * 7)", timeout=30)
                return f"a kernel answered {result.text} after {time.perf_counter() - started:.2f} s"

    try:
        return Finding("kernel", "ok", asyncio.run(try_one()))
    except (IpyboxError, OSError, ValueError) as error:
        return Finding("kernel", "fails", str(error))


def _sandbox() -> list[Finding]:
    """A row for the sandbox, then one for each protection, as a sandboxed kernel finds it."""
    if not sys.platform.startswith("linux"):
        return [Finding("sandbox", "note", "kernels run under a seatbelt profile, which was never tried on a Mac")]

    async def try_one() -> list[Finding]:
        with tempfile.TemporaryDirectory(prefix="ipybox-") as directory:
            async with KernelGateway(port=0, auth_token=True, sandbox=True, working_dir=directory) as gateway:
                async with KernelClient(
                    gateway.host, gateway.port, auth_token=gateway.auth_token, images_dir=directory
                ) as client:
                    result = await client.execute(_POSTURE, timeout=30)
                    rows: dict[str, tuple[bool, str]] = json.loads(result.text or "{}")
                    tier = gateway.sandbox_tier
                    return [
                        Finding("sandbox", "ok", f"works here: {tier}"),
                        *(
                            Finding(f"sandbox: {name}", "ok" if held else "fails", detail)
                            for name, (held, detail) in rows.items()
                        ),
                    ]

    try:
        return asyncio.run(try_one())
    except SandboxUnavailableError as error:
        return [Finding("sandbox", "note", f"sandbox=True is refused here; {error}")]
    except (IpyboxError, OSError, ValueError) as error:
        return [Finding("sandbox", "fails", str(error))]


def _driver(name: str) -> Finding:
    """A driver of commands, with a command that runs."""
    policy = ExecutionPolicy.in_dir(tempfile.gettempdir()).with_timeout(_COMMAND_SECONDS)
    row = f"commands: {name}"
    try:
        driver = Sandbox.from_policy(policy).using(name)
        if name in ("docker", "podman"):
            return Finding(row, "note", "installed; not tried, as that could download an image")
        result = driver.blocking().execute(["true"])
    except SandboxUnavailableError as error:
        return Finding(row, "note", error.reason)
    except (IpyboxError, OSError, ValueError) as error:
        return Finding(row, "note", str(error))
    if result.success:
        return Finding(row, "ok", f"ran one in {result.duration:.2f} s")
    return Finding(row, "note", (result.combined_output or f"exit code {result.exit_code}").strip())


_COMMAND_SECONDS = 20.0
_POSTURE = "import json; from ipybox.sandbox.posture import posture; print(json.dumps(posture()))"


_LOOKS: tuple[Callable[[], Finding], ...] = (_versions, _system, _cleanup, _temporary_files, _kernel)
