"""Sessions on a real host, and what their executions say."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ipybox.control.records import NetworkRules, ResourceLimits
from ipybox.control.runtime.host import RunOutcome, RunRequest, SessionSpec, WarmSpec
from ipybox.control.runtime.local import LocalHost
from ipybox.control.runtime.session import LocalSession
from ipybox.control.states import ExecutionKind, ExecutionStatus, SessionMode

MIB = 1024 * 1024
HANG = 30.0
"""Seconds after which something counts as hung."""
LIMITS = ResourceLimits(cpu_cores=64, memory_bytes=512 * MIB, disk_bytes=64 * MIB, max_processes=64)
OUTPUT = 256 * 1024
_numbers = itertools.count(1)


@dataclass
class Ran:
    """An execution that ended."""

    outcome: RunOutcome
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    @property
    def status(self) -> ExecutionStatus:
        return self.outcome.status

    def text(self, stream: str = "stdout") -> str:
        return "".join(data["text"] for kind, data in self.events if kind == stream)

    def shown(self, *kinds: str) -> list[Mapping[str, Any]]:
        return [data for kind, data in self.events if kind in kinds]


class Box:
    """A session to run things in."""

    def __init__(self, session: LocalSession, workspace: Path, packages: Path) -> None:
        self.session, self.workspace, self.packages = session, workspace, packages

    async def run(
        self,
        kind: ExecutionKind,
        code: str,
        *,
        event: Any = None,
        timeout: float = HANG,
        env: Mapping[str, str] | None = None,
        id: str | None = None,
        on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
    ) -> Ran:
        events: list[tuple[str, Mapping[str, Any]]] = []

        def take(what: str, data: Mapping[str, Any]) -> None:
            events.append((what, data))
            if on_event is not None:
                on_event(what, data)

        request = RunRequest(
            execution_id=id or f"exec-{next(_numbers)}",
            kind=kind,
            code=code,
            timeout=timeout,
            event=event,
            env_vars=env or {},
        )
        async with asyncio.timeout(2 * HANG):
            return Ran(await self.session.run(request, take), events)

    async def python(self, code: str, **options: Any) -> Ran:
        return await self.run(ExecutionKind.HANDLER, code, **options)

    async def shell(self, code: str, **options: Any) -> Ran:
        return await self.run(ExecutionKind.SHELL, code, **options)

    async def cell(self, code: str, **options: Any) -> Ran:
        return await self.run(ExecutionKind.CELL, code, **options)

    async def node(self, code: str, **options: Any) -> Ran:
        return await self.run(ExecutionKind.JAVASCRIPT, code, **options)

    async def value(self, code: str, **options: Any) -> Any:
        """What a handler returns."""
        ran = await self.python(code, **options)
        assert ran.status is ExecutionStatus.COMPLETED, (ran.outcome, ran.events)
        return ran.outcome.return_value


class Boxes:
    """Makes sessions on a host."""

    def __init__(self, host: LocalHost, root: Path) -> None:
        self.host, self.root = host, root
        self.made: list[Box] = []

    def warm_spec(self, **changes: Any) -> WarmSpec:
        return replace(WarmSpec(limits=LIMITS, network=NetworkRules()), **changes)

    def directory(self, name: str) -> Path:
        path = self.root / f"{name}-{next(_numbers)}"
        path.mkdir()
        return path

    async def make(
        self,
        *,
        stateful: bool = False,
        warm: WarmSpec | None = None,
        limits: ResourceLimits = LIMITS,
        network: NetworkRules | None = None,
        env: Mapping[str, str] | None = None,
        workspace: Path | None = None,
        own: Mapping[str, str] | None = None,
    ) -> Box:
        workspace = workspace or self.directory("workspace")
        packages = self.directory("packages")
        for path, text in (own or {}).items():
            (packages / path).parent.mkdir(parents=True, exist_ok=True)
            (packages / path).write_text(text)
        spec = SessionSpec(
            id=f"session-{next(_numbers)}",
            warm=warm or self.warm_spec(),
            workspace=workspace,
            packages_dir=packages,
            mode=SessionMode.STATEFUL if stateful else SessionMode.STATELESS,
            limits=limits,
            network=network or NetworkRules(),
            env_vars=env or {},
        )
        async with asyncio.timeout(HANG):
            box = Box(await self.host.start(spec), workspace, packages)
        self.made.append(box)
        return box

    async def close(self) -> None:
        for box in self.made:
            await box.session.close()
        self.made.clear()


async def eventually(what: Callable[[], Any]) -> Any:
    """What is true at last."""
    async with asyncio.timeout(HANG):
        while True:
            found = what()
            found = await found if isinstance(found, Awaitable) else found
            if found:
                return found
            await asyncio.sleep(0.01)
