"""The walls of a host: one for each template that is in use or kept warm. Floor: control.

Building one takes half a second and imports all that the template preloads; a sandbox behind it takes milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ipybox.control.inside import agent
from ipybox.control.inside.places import TEMPLATE
from ipybox.control.runtime import site
from ipybox.control.runtime.host import WarmSpec
from ipybox.control.runtime.site import Site
from ipybox.process.late_site import PythonFacts
from ipybox.process.teardown import to_the_end
from ipybox.process.warm import Warmth
from ipybox.sandbox.access import SANDBOX_HOME
from ipybox.sandbox.egress import EgressEvent
from ipybox.sandbox.packages import site_directories
from ipybox.sandbox.python_paths import site_packages
from ipybox.sandbox.supervisor import Supervisor
from ipybox.sandbox.wall import WallPlan

OnEgress = Callable[[EgressEvent], Awaitable[None]]


def warm_settings(preload: tuple[str, ...]) -> str:
    """What the agents' Python is told."""
    return agent.WarmSettings(python=PythonFacts.of_this_one(site_packages()), preload=preload).to_json()


@dataclass
class _Shared:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    supervisor: Supervisor | None = None
    users: int = 0
    is_kept: bool = False
    idle: asyncio.TimerHandle | None = None


class Walls:
    """Builds walls when they are needed, and takes down those that nobody needs.

    Args:
        site: Where they stand.
        on_egress: Awaited for each attempt of a session to reach a host.
        linger: Seconds for which a wall is kept that nobody uses any more.
    """

    def __init__(self, site: Site, on_egress: OnEgress, linger: float) -> None:
        self._site, self._on_egress, self._linger = site, on_egress, linger
        self._shared: dict[WarmSpec, _Shared] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def keep(self, spec: WarmSpec) -> None:
        """Has a wall ready, and keeps it.

        Raises:
            PreloadError: A module can't be imported once for all.
            SandboxUnavailableError: There can be no sandbox here.
        """
        await self.take(spec)
        self._shared[spec].is_kept = True
        await self.give_back(spec)

    async def drop(self, spec: WarmSpec) -> None:
        """Keeps it no longer than it is used."""
        shared = self._shared.get(spec)
        if shared is not None:
            shared.is_kept = False
            shared.users += 1
            await self.give_back(spec, linger=0.0)

    async def take(self, spec: WarmSpec) -> Supervisor:
        """The supervisor of a wall; to be given back. Raises as :meth:`keep`."""
        shared = self._shared.setdefault(spec, _Shared())
        shared.users += 1
        try:
            async with shared.lock:
                if shared.idle is not None:
                    shared.idle.cancel()
                    shared.idle = None
                if shared.supervisor is None:
                    shared.supervisor = await self._build(spec)
                return shared.supervisor
        except BaseException:
            await self.give_back(spec, linger=0.0)
            raise

    async def give_back(self, spec: WarmSpec, *, linger: float | None = None) -> None:
        """What was taken is not needed any more."""
        await to_the_end(self._give_back(spec, self._linger if linger is None else linger))

    async def close(self) -> None:
        """Takes all of them down, with whatever is behind them."""
        self._is_closed = True
        for spec, shared in list(self._shared.items()):
            async with shared.lock:
                await self._take_down(spec, shared)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def facts(self) -> list[dict[str, object]]:
        """What there is to say about each."""
        return [
            {
                "tier": shared.supervisor.tier,
                "sessions": shared.users,
                "kept": shared.is_kept,
                "preload": list(spec.preload),
                "cold": shared.supervisor.cold,
            }
            for spec, shared in self._shared.items()
            if shared.supervisor is not None
        ]

    async def _build(self, spec: WarmSpec) -> Supervisor:
        policy = site.policy(spec.limits, spec.network)
        plan = await asyncio.to_thread(self._plan, spec)
        supervisor = Supervisor(policy, plan, refresh=lambda: plan.view, kept=True)
        supervisor.on_egress = self._on_egress
        return await supervisor.__aenter__()

    def _plan(self, spec: WarmSpec) -> WallPlan:
        plan = self._site.plan(site.policy(spec.limits, spec.network), spec.packages_dir)
        warmth = Warmth(
            module=agent.MODULE,
            settings=warm_settings(spec.preload),
            path=tuple(site_packages()),
            more_path=tuple(site_directories(TEMPLATE)) if spec.packages_dir is not None else (),
            env={"LANG": "C.UTF-8", "HOME": SANDBOX_HOME, "TMPDIR": "/tmp", "MPLBACKEND": "agg"},
        )
        return WallPlan(bubblewrap=plan.bubblewrap, view=plan.view, uid=plan.uid, python=plan.python, warmth=warmth)

    async def _give_back(self, spec: WarmSpec, linger: float) -> None:
        shared = self._shared.get(spec)
        if shared is None:
            return
        shared.users -= 1
        if shared.users or shared.is_kept:
            return
        if not linger or self._is_closed or shared.supervisor is None:
            return await self._close_unused(spec)
        if shared.idle is None:
            shared.idle = asyncio.get_running_loop().call_later(linger, self._close_later, spec)

    def _close_later(self, spec: WarmSpec) -> None:
        task = asyncio.get_running_loop().create_task(self._close_unused(spec))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_unused(self, spec: WarmSpec) -> None:
        shared = self._shared.get(spec)
        if shared is None:
            return
        async with shared.lock:
            if not shared.users and not shared.is_kept:
                await self._take_down(spec, shared)

    async def _take_down(self, spec: WarmSpec, shared: _Shared) -> None:
        if shared.idle is not None:
            shared.idle.cancel()
            shared.idle = None
        supervisor, shared.supervisor = shared.supervisor, None
        if supervisor is not None:
            await supervisor.close()
        if not shared.users and self._shared.get(spec) is shared:
            del self._shared[spec]
