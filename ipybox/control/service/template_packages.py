"""Packages of templates: installed once for all that name the same, and removed when nobody does. Floor: control."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

from ipybox.control.db.database import Database
from ipybox.control.records import Template
from ipybox.control.runtime.host import SessionHost

log = logging.getLogger("ipybox.control")

_INSTALL_SECONDS = 900.0
_COMPLETE = ".complete"
_PAGE = 200


class TemplatePackages:
    """Keeps a directory for each set of packages.

    Args:
        db: Where templates and sessions are kept.
        host: What installs.
        root: Directory of the directories, of this server alone.
        node: The server's name: its sessions are those that have to find their packages here.
    """

    def __init__(self, db: Database, host: SessionHost, root: Path, node: str) -> None:
        self._db, self._host, self._root, self._node = db, host, root, node
        self._busy: dict[str, asyncio.Lock] = {}

    async def installed(self, template: Template) -> Path | None:
        """The directory with a template's packages, after their installation; None for a template without any.

        Raises:
            InstallError: They could not be installed.
        """
        name = _name(template)
        if name is None:
            return None
        place = self._root / name
        async with self._lock(name):
            done = place / _COMPLETE
            if not await asyncio.to_thread(done.exists):
                await asyncio.to_thread(shutil.rmtree, place, True)
                await asyncio.to_thread(place.mkdir, mode=0o755, parents=True)
                await self._host.install(
                    template.packages,
                    into=place,
                    index_url=template.package_index_url,
                    limits=template.limits,
                    timeout=_INSTALL_SECONDS,
                )
                await asyncio.to_thread(done.touch)
        return place

    async def remove_unneeded(self) -> list[str]:
        """Removes what no template names any more, and no session that is alive was made with; gives their names.

        Raises:
            OSError: A file could not be removed. What is left counts as not installed, and is removed next time.
        """
        there = await asyncio.to_thread(self._there)
        unneeded = there - await self._needed() if there else set()
        removed = []
        for name in sorted(unneeded):
            async with self._lock(name):
                # Whoever has begun to use it since has a record by now; whoever begins after this installs it again.
                if name not in await self._needed():
                    await asyncio.to_thread(self._remove, name)
                    removed.append(name)
        if removed:
            log.info("packages that nobody uses are removed", extra={"directories": removed})
        return removed

    async def _needed(self) -> set[str]:
        found: list[Template | None] = []
        while True:
            page = await self._db.templates.list(limit=_PAGE, offset=len(found))
            found += page.items
            if len(page.items) < _PAGE:
                break
        # Asked for last: a session is only made of a template that was there before it.
        found += (session.template for session in await self._db.sessions.alive(self._node))
        return {name for template in found if template is not None and (name := _name(template)) is not None}

    def _there(self) -> set[str]:
        return {each.name for each in self._root.iterdir() if each.is_dir()}

    def _remove(self, name: str) -> None:
        place = self._root / name
        (place / _COMPLETE).unlink(missing_ok=True)  # first, so that half of it is never taken for all
        shutil.rmtree(place)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._busy.setdefault(name, asyncio.Lock())


def _name(template: Template) -> str | None:
    """Of the directory of a template's packages; None if it has none."""
    if not template.packages:
        return None
    said = [asdict(each) for each in template.packages], template.package_index_url, platform.python_version()
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]
