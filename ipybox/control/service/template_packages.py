"""Packages of templates: installed once for all that name the same, and removed when nobody does. Floor: control."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import secrets
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from weakref import WeakValueDictionary

from ipybox.control.db.database import Database
from ipybox.control.records import Template
from ipybox.control.runtime.host import SessionHost
from ipybox.process import warden
from ipybox.process.teardown import to_the_end

log = logging.getLogger("ipybox.control")

_INSTALL_SECONDS = 900.0
_ALL = 2**31


class TemplatePackages:
    """Keeps a directory for each set of packages. One that is there is complete; what is not has a name with a dot.

    Args:
        db: Where templates and sessions are kept.
        host: What installs.
        root: Directory of the directories, of this server alone.
        node: The server's name: its sessions are those that have to find their packages here.
    """

    def __init__(self, db: Database, host: SessionHost, root: Path, node: str) -> None:
        self._db, self._host, self._root, self._node = db, host, root, node
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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
            if not await asyncio.to_thread(place.is_dir):
                fresh = self._aside(name)
                try:
                    await to_the_end(asyncio.to_thread(fresh.mkdir, 0o755))
                    await self._host.install(
                        template.packages,
                        into=fresh,
                        index_url=template.package_index_url,
                        limits=template.limits,
                        timeout=_INSTALL_SECONDS,
                    )
                    await to_the_end(asyncio.to_thread(fresh.rename, place))
                except BaseException:
                    await to_the_end(self._remove(fresh.name))
                    raise
        return place

    async def remove_unneeded(self) -> list[str]:
        """Removes what no template names any more, and no session that is alive was made with; gives their names.

        What can't be removed counts as not installed, and is tried again next time.
        """
        there: dict[str, list[str]] = defaultdict(list)
        for each in await asyncio.to_thread(self._there):
            there[_set_of(each)].append(each)
        needed = await self._needed() if there else set()
        removed = []
        for name, directories in there.items():
            unneeded = [each for each in directories if each != name or name not in needed]
            lock = self._lock(name)
            if not unneeded or lock.locked():  # an installation takes minutes; it is looked at next time
                continue
            async with lock:
                # Whoever has begun to use it since has a record by now; whoever begins after this installs it again.
                if name in unneeded and name in await self._needed():
                    unneeded.remove(name)
                for each in unneeded:
                    if await to_the_end(self._remove(each)):
                        removed.append(each)
        if removed:
            log.info("packages that nobody uses are removed", extra={"directories": removed})
        return removed

    async def _needed(self) -> set[str]:
        # All at once: in pages, one might be missed when another one is deleted.
        templates = await self._db.templates.list(limit=_ALL)
        # Asked for last: a session is only made of a template that was there before it.
        sessions = await self._db.sessions.alive(self._node)
        found = (*templates.items, *(session.template for session in sessions))
        return {name for template in found if template is not None and (name := _name(template)) is not None}

    def _there(self) -> list[str]:
        return sorted(each.name for each in self._root.iterdir() if each.is_dir())

    async def _remove(self, directory: str) -> bool:
        try:
            await asyncio.to_thread(self._take_away, directory)
        except OSError as error:  # it is tried again, and others are not to wait for it
            log.warning("packages that nobody uses stay", extra={"directory": directory, "reason": str(error)})
            return False
        return True

    def _take_away(self, directory: str) -> None:
        going = self._root / directory
        with suppress(FileNotFoundError):
            if not directory.startswith("."):
                going = going.rename(self._aside(directory))  # so that half of it is never taken for all
            warden.remove_tree(str(going))

    def _aside(self, name: str) -> Path:
        return self._root / f".{name}.{secrets.token_hex(8)}"

    def _lock(self, name: str) -> asyncio.Lock:
        return self._busy.setdefault(name, asyncio.Lock())


def _set_of(directory: str) -> str:
    """The set of packages that a directory belongs to, also where one is made or removed."""
    return directory.lstrip(".").partition(".")[0]


def _name(template: Template) -> str | None:
    """Of the directory of a template's packages; None if it has none."""
    if not template.packages:
        return None
    packages = [asdict(each) for each in template.packages]
    said = packages, template.package_index_url, platform.python_version()
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]
