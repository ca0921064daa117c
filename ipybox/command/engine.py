"""What a container engine says of itself, and how it is told what. Floor: command."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ipybox.command.driver import Field
from ipybox.errors import SandboxUnavailableError

INFO_SECONDS = 30.0
"""An engine that has been idle may have to be started first."""

_CONTROLLERS: Mapping[str, Field] = {"memory": "memory", "cpu": "cpus", "pids": "processes"}
_DOCKER_LIMITS: Mapping[str, Field] = {"MemoryLimit": "memory", "CpuCfsQuota": "cpus", "PidsLimit": "processes"}


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine can do where it runs. Engines drop limits that they can't enforce, and go on.

    Attributes:
        limits: What it can limit.
        has_swap_limit: Whether it can keep a container from using swap besides its memory.
        is_rootless: Whether it runs without privileges, so that its users are not the machine's.
    """

    limits: frozenset[Field]
    has_swap_limit: bool
    is_rootless: bool

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Engine:
        """Reads what ``docker info`` or ``podman info`` said."""
        if "host" not in info:  # Docker
            return cls(
                limits=frozenset(field for key, field in _DOCKER_LIMITS.items() if info.get(key)),
                has_swap_limit=bool(info.get("SwapLimit")),
                is_rootless=any("rootless" in option for option in info.get("SecurityOptions") or ()),
            )
        host = info["host"]
        is_rootless = bool(host.get("security", {}).get("rootless"))
        is_v2 = host.get("cgroupVersion") == "v2"
        # Without privileges, the first version of cgroups is for looking only.
        controllers = () if is_rootless and not is_v2 else host.get("cgroupControllers") or ()
        limits = frozenset(_CONTROLLERS[name] for name in controllers if name in _CONTROLLERS)
        return cls(limits, has_swap_limit=is_v2, is_rootless=is_rootless)


async def ask(binary: str, name: str, env: Mapping[str, str]) -> Engine:
    """Asks an engine about itself.

    Args:
        binary: Its client.
        name: What it is called.
        env: Environment of the client.

    Raises:
        SandboxUnavailableError: It does not answer; with what its client said instead.
    """
    remedies = [f"see whether `{name} info` works", "use the driver 'bubblewrap'"]
    try:
        process = await asyncio.create_subprocess_exec(
            binary,
            *("info", "--format", "{{json .}}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailableError(f"{binary} can't be executed: {error.strerror}", remedies) from None
    try:
        async with asyncio.timeout(INFO_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        raise SandboxUnavailableError(f"{name} did not answer within {INFO_SECONDS:g} s", remedies) from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    said = err.decode("utf-8", "replace").strip()
    try:
        info = json.loads(out)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise SandboxUnavailableError(f"{name} does not say what it can do: {said or 'it said nothing'}", remedies)
    if info.get("ServerErrors"):
        raise SandboxUnavailableError(f"{name} does not run: {'; '.join(map(str, info['ServerErrors']))}", remedies)
    if process.returncode:
        raise SandboxUnavailableError(f"{name} does not run: {said}", remedies)
    return Engine.from_info(info)


def bind_mount(source: str, target: str, *, read_only: bool = False) -> str:
    """A value of ``--mount``. It is a line of CSV, in which paths may hold whatever they want."""
    text = io.StringIO()
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()
