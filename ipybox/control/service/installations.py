"""Packages of single sessions, and what the database says about them. Floor: control."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ipybox.control.db.database import Database
from ipybox.control.errors import InstallError
from ipybox.control.records import Dependency, InstalledDependency, Session
from ipybox.control.runtime.host import SessionHost
from ipybox.control.service.ids import now
from ipybox.control.service.retries import Retries
from ipybox.control.states import InstallStatus, SessionStatus
from ipybox.control.storage.workspaces import Workspaces
from ipybox.process.teardown import to_the_end

_ALIVE = (SessionStatus.CREATING, SessionStatus.RUNNING)


class Installations:
    """Installs packages, and writes down what came of it, whatever that is."""

    def __init__(self, db: Database, host: SessionHost, workspaces: Workspaces, retries: Retries) -> None:
        self._db, self._host, self._workspaces, self._retries = db, host, workspaces, retries

    async def of_new(self, session: Session, template: Path | None) -> None:
        """Installs what a new session has asked for, if it is not there.

        Args:
            template: Where the packages of its template are; None if it has none.

        Raises:
            InstallError: It did not work, and the session is not to be without.
        """
        if not session.requested_dependencies or not await self._needs_packages(session):
            return
        error = await self.install(
            session,
            session.requested_dependencies,
            session.python_package_index_url,
            session.install_timeout,
            allow_conflicts=session.allow_version_conflicts,
            template=template,
            is_first=True,
        )
        if error is not None and session.fail_on_dependency_error:
            raise error

    async def install(
        self,
        session: Session,
        dependencies: tuple[Dependency, ...],
        index_url: str | None,
        timeout: float,
        *,
        allow_conflicts: bool,
        template: Path | None,
        is_first: bool = False,
    ) -> InstallError | None:
        """Installs packages beside those that are there; gives why it did not work.

        Args:
            is_first: The session is about to begin: if this is cancelled, the next server does it.
        """
        requested = {each.name.lower(): each for each in (*session.requested_dependencies, *dependencies)}
        changes: dict[str, Any] = {
            "install_status": InstallStatus.INSTALLING,
            "install_error": None,
            "install_started_at": now(),
            "install_completed_at": None,
            "requested_dependencies": tuple(requested.values()),
        }
        await self._note(session.id, **changes)
        try:
            found = await self._host.install(
                dependencies,
                into=self._workspaces.packages(session.id),
                index_url=index_url,
                limits=session.limits,
                timeout=timeout,
                allow_conflicts=allow_conflicts,
                template=template,
            )
        except BaseException as error:
            if is_first and isinstance(error, asyncio.CancelledError):
                raise
            said = str(error) or "it was called off"
            facts: dict[str, Any] = {"installed_dependencies": ()} if is_first else {}
            failed = InstallStatus.FAILED
            await to_the_end(
                self._note(session.id, install_status=failed, install_error=said, install_completed_at=now(), **facts)
            )
            if isinstance(error, InstallError):
                return error
            raise
        installed: dict[str, InstalledDependency] = {
            each.name.lower(): each for each in (*session.installed_dependencies, *found)
        }
        await self._note(
            session.id,
            install_status=InstallStatus.COMPLETED,
            installed_dependencies=tuple(installed.values()),
            install_completed_at=now(),
        )
        return None

    async def call_off(self, session_id: str) -> None:
        """Says of a session that ends that its packages will not be installed any more."""
        failed, text = InstallStatus.FAILED, "the session ended before"
        await self._retries.until_taken(
            lambda: self._db.sessions.change(
                session_id, expect_install=(InstallStatus.INSTALLING,), install_status=failed, install_error=text
            ),
            f"the packages of {session_id}",
        )

    async def _needs_packages(self, session: Session) -> bool:
        """Not if they are there already; they are not if this is another disk than they were installed on."""
        if session.install_status is InstallStatus.INSTALLING:
            return session.epoch == 0  # otherwise it is going on beside its sandboxes, and may fail without ending them
        packages = self._workspaces.packages(session.id)
        is_there = await asyncio.to_thread(lambda: packages.is_dir() and any(packages.iterdir()))
        return session.install_status is InstallStatus.COMPLETED and not is_there

    async def _note(self, session_id: str, **facts: Any) -> None:
        await self._retries.until_taken(
            lambda: self._db.sessions.change(session_id, expect=_ALIVE, **facts), f"the packages of {session_id}"
        )
