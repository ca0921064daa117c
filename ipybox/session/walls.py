"""Walls that sandboxes of one event loop share. Floor: session.

Building one takes half a second, a sandbox behind it milliseconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from ipybox.process.late_site import PythonFacts
from ipybox.process.teardown import to_the_end
from ipybox.process.warm import Warmth
from ipybox.sandbox.access import SANDBOX_HOME
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.python_paths import site_packages
from ipybox.sandbox.supervisor import Supervisor
from ipybox.session import agent
from ipybox.session.settings import SandboxSettings, Site

Key = tuple[SandboxPolicy, bool]


@dataclass
class _Shared:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    supervisor: Supervisor | None = None
    users: int = 0
    idle: asyncio.TimerHandle | None = None


class Walls:
    """The walls of one event loop, one for each policy that is in use.

    Args:
        linger: Seconds for which a wall is kept that nobody uses any more.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self._linger = linger
        self._shared: dict[Key, _Shared] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, settings: SandboxSettings) -> Supervisor:
        """The supervisor of a wall; to be given back.

        Raises:
            SandboxUnavailableError: There can be no sandbox here.
        """
        key = _key(settings)
        shared = self._shared.setdefault(key, _Shared())
        shared.users += 1
        try:
            async with shared.lock:
                if shared.idle is not None:
                    shared.idle.cancel()
                    shared.idle = None
                if shared.supervisor is None:
                    shared.supervisor = await _supervisor(Site(), *key).__aenter__()
                return shared.supervisor
        except BaseException:
            await self.give_back(settings)
            raise

    async def give_back(self, settings: SandboxSettings) -> None:
        """What was taken is not needed any more; the wall goes with the last who used it."""
        await to_the_end(self._give_back(_key(settings)))

    async def close(self) -> None:
        """Takes down those that nobody uses."""
        for key in list(self._shared):
            await self._close_unused(key)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _give_back(self, key: Key) -> None:
        shared = self._shared[key]
        shared.users -= 1
        if shared.users:
            return
        if not self._linger:
            return await self._close_unused(key)
        if shared.supervisor is not None:
            shared.idle = asyncio.get_running_loop().call_later(self._linger, self._close_later, key)

    def _close_later(self, key: Key) -> None:
        task = asyncio.get_running_loop().create_task(self._close_unused(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_unused(self, key: Key) -> None:
        shared = self._shared.get(key)
        if shared is None:
            return
        async with shared.lock:
            if shared.users:
                return
            if shared.idle is not None:
                shared.idle.cancel()
                shared.idle = None
            supervisor, shared.supervisor = shared.supervisor, None
            if supervisor is not None:
                await supervisor.close()
            if not shared.users:
                self._shared.pop(key, None)


_walls: WeakKeyDictionary[asyncio.AbstractEventLoop, Walls] = WeakKeyDictionary()


def walls_here() -> Walls:
    """Those of the running event loop."""
    return _walls.setdefault(asyncio.get_running_loop(), Walls())


def keep_here(linger: float) -> Walls:
    """Has the running event loop keep its walls for so many seconds after their last use."""
    walls = _walls[asyncio.get_running_loop()] = Walls(linger)
    return walls


def _key(settings: SandboxSettings) -> Key:
    return settings.policy, settings.network is True


def _supervisor(site: Site, policy: SandboxPolicy, learn: bool) -> Supervisor:
    warmth = Warmth(
        module=agent.MODULE,
        settings=agent.settings(PythonFacts.of_this_one(site_packages())),
        path=tuple(site_packages()),
        env={"LANG": "C.UTF-8", "HOME": SANDBOX_HOME, "TMPDIR": "/tmp"},
    )
    plan = replace(site.plan(policy), warmth=warmth)
    return Supervisor(policy, plan, refresh=lambda: site.view(policy), learn=learn, kept=True)
