"""Templates: what sessions are made from, and having it warm. Floor: control."""

from __future__ import annotations

import asyncio
import logging
import platform
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

from ipybox.control.access.scopes import Principal
from ipybox.control.db.database import Database
from ipybox.control.errors import (
    ConflictError,
    ForbiddenError,
    RecordNotFoundError,
    RequestRefusedError,
    ServerSettingsError,
)
from ipybox.control.records import Page, ResourceLimits, Template
from ipybox.control.runtime.host import SessionHost, WarmSpec
from ipybox.control.service.bounds import check_network
from ipybox.control.service.ids import now
from ipybox.control.service.template_packages import TemplatePackages
from ipybox.errors import IpyboxError

log = logging.getLogger("ipybox.control")

BUILT_IN = "python"
"""The template that is always there."""
SYSTEM = "system"
"""Whose it is."""
_LANGUAGES = {"nodejs": "node", "java": "java", "go": "go"}


class Templates:
    """Keeps them, and has those warm that ought to be.

    Args:
        db: Where they are kept.
        host: Where their sessions run.
        packages: Their packages.
    """

    def __init__(self, db: Database, host: SessionHost, packages: TemplatePackages) -> None:
        self._db, self._host, self._packages = db, host, packages
        self._warm: dict[str, WarmSpec] = {}
        self._newest: dict[str, Template] = {}
        self._kept: Counter[WarmSpec] = Counter()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures: dict[str, str] = {}
        """Why templates could not be made warm, by id."""

    async def open(self, also_warm: tuple[str, ...] = ()) -> None:
        """Makes the built-in one, and begins to warm up."""
        try:
            await self._db.templates.get(BUILT_IN)
        except RecordNotFoundError:
            at = now()
            version = ".".join(platform.python_version_tuple()[:2])
            built_in = Template(
                id=BUILT_IN,
                owner=SYSTEM,
                name="Python",
                image_url="ipybox",
                runtime_type=f"python{version}",
                limits=ResourceLimits(cpu_cores=4.0, memory_bytes=2 * 1024**3, max_processes=512),
                default_timeout=300,
                created_at=at,
                updated_at=at,
            )
            with suppress(ConflictError):  # another server has made it just now
                await self._db.templates.add(built_in)
        for template_id in {BUILT_IN, *also_warm}:
            try:
                self.warm_up(await self._db.templates.get(template_id))
            except RecordNotFoundError as error:
                raise ServerSettingsError("warm", str(error)) from error

    async def close(self) -> None:
        """Warms nothing up any more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def add(self, principal: Principal, template: Template) -> Template:
        """Keeps a new one. Raises :class:`ConflictError` when its id or its name is taken."""
        check_network(principal, template.network)
        _check_preload(principal, template)
        async with self._turn(template.id):
            await self._db.templates.add(template)
            if template.warm:
                self.warm_up(template)
        return template

    async def get(self, template_id: str) -> Template:
        """One of them."""
        return await self._db.templates.get(template_id)

    async def list(self, *, limit: int, offset: int) -> Page[Template]:
        """Some of them, oldest first."""
        return await self._db.templates.list(limit=limit, offset=offset)

    async def update(
        self, principal: Principal, template_id: str, changes: Callable[[Template], dict[str, Any]]
    ) -> Template:
        """Changes one; sessions that are there keep what they have.

        Args:
            principal: Who asks for it.
            template_id: Which.
            changes: Given the template as it is, its fields that become other ones. Called again when somebody else
                was faster.
        """
        while True:
            old = await self._mine(principal, template_id)
            new = replace(old, **changes(old), updated_at=max(now(), old.updated_at + timedelta(microseconds=1)))
            check_network(principal, new.network)
            _check_preload(principal, new)
            async with self._turn(template_id):  # so that what is warm in the end is what is written down last
                if await self._db.templates.update(new, was=old.updated_at):
                    await self._cool(template_id)
                    if new.warm and new.is_active:
                        self.warm_up(new)
                    return new
            # Somebody has changed it meanwhile, which is not to be taken back.

    async def remove(self, principal: Principal, template_id: str) -> None:
        """Forgets one; sessions that are there go on."""
        template = await self._mine(principal, template_id)
        if template.id == BUILT_IN:
            raise ConflictError(f"the template {BUILT_IN!r} is built in; make one of your own in place of it")
        async with self._turn(template_id):
            await self._db.templates.remove(template_id)
            await self._cool(template_id)

    async def warm_spec(self, template: Template) -> WarmSpec:
        """What its sessions share, with its packages installed.

        Raises:
            InstallError: They could not be.
        """
        return WarmSpec(
            limits=template.limits,
            network=template.network,
            preload=template.preload,
            packages_dir=await self._packages.installed(template),
        )

    def is_warm(self, template_id: str) -> bool:
        """Whether its Python is ready."""
        return template_id in self._warm

    def warm_up(self, template: Template) -> None:
        """Begins to have it ready."""
        self._newest[template.id] = template
        task = asyncio.get_running_loop().create_task(self._warm_up(template))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _warm_up(self, template: Template) -> None:
        try:
            spec = await self.warm_spec(template)
            await self._keep(spec)
        except (IpyboxError, OSError) as error:
            if self._newest.get(template.id) is template:
                self.failures[template.id] = str(error)
            log.warning("a template is not warm", extra={"template_id": template.id, "reason": str(error)})
            return
        if self._newest.get(template.id) is not template:  # it was changed or removed meanwhile
            return await self._let_go(spec)
        self.failures.pop(template.id, None)
        old, self._warm[template.id] = self._warm.get(template.id), spec
        if old is not None:
            await self._let_go(old)

    def _turn(self, template_id: str) -> asyncio.Lock:
        return self._turns.setdefault(template_id, asyncio.Lock())

    async def _cool(self, template_id: str) -> None:
        self._newest.pop(template_id, None)
        self.failures.pop(template_id, None)
        spec = self._warm.pop(template_id, None)
        if spec is not None:
            await self._let_go(spec)

    async def _keep(self, spec: WarmSpec) -> None:
        """Templates that say the same share it, also one with what it was before a change."""
        self._kept[spec] += 1
        try:
            await self._host.warm(spec)
        except BaseException:
            await self._let_go(spec)
            raise

    async def _let_go(self, spec: WarmSpec) -> None:
        self._kept[spec] -= 1
        if not self._kept[spec]:
            del self._kept[spec]
            await self._host.cool(spec)

    async def _mine(self, principal: Principal, template_id: str) -> Template:
        template = await self._db.templates.get(template_id)
        if template.owner != principal.owner and not principal.sees_all:
            raise ForbiddenError(f"the template {template_id!r} belongs to somebody else")
        return template


def _check_preload(principal: Principal, template: Template) -> None:
    """Packages of others are code of others; a warm Python that imports them stands before the sandboxes of many."""
    if template.packages and template.preload and not principal.sees_all:
        raise ForbiddenError("a template with packages that preloads modules needs the scope 'admin'")


def runtime_problem(runtime_type: str) -> str | None:
    """Why sessions with this runtime can't be had here; None if they can."""
    for prefix, program in _LANGUAGES.items():
        if runtime_type.startswith(prefix):
            if program == "node":
                return None if shutil.which("node") else f"{runtime_type} needs node, which is not installed here"
            return f"{runtime_type} can't be run here: this server runs Python, shell and JavaScript"
    return None


def refuse_runtime(template: Template) -> None:
    """Raises :class:`RequestRefusedError` if sessions of a template can't run here."""
    if not template.is_active:
        raise RequestRefusedError(f"the template {template.id!r} is not active", "template_id")
    problem = runtime_problem(template.runtime_type)
    if problem is not None:
        raise RequestRefusedError(problem, "template_id")
