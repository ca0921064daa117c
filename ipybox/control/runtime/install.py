"""Installs packages for sessions and templates, in a sandbox that reaches the index only. Floor: control.

Building a package runs code of its author, so it is as untrusted as what is run later. What comes of it lies beside the
directory that it is for until pip has done all of it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ipybox.control.errors import InstallError
from ipybox.control.inside.installer import CONFLICT, EARLIER, InstallerSettings
from ipybox.control.inside.places import PACKAGES, SESSIONS, TEMPLATE
from ipybox.control.records import Dependency, InstalledDependency, NetworkRules, ResourceLimits
from ipybox.control.runtime import installed, site
from ipybox.control.runtime.room import Room
from ipybox.control.runtime.site import Site
from ipybox.errors import IpyboxError
from ipybox.process import bootstrap, warden
from ipybox.process.teardown import to_the_end
from ipybox.sandbox import packages
from ipybox.sandbox.hosts import parse_host
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.policy import Packages, SandboxPolicy
from ipybox.sandbox.python_paths import site_packages
from ipybox.sandbox.supervisor import Supervisor

_LOOK_SECONDS = 1.0
_TAG = "packages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What is to be installed.

    Attributes:
        dependencies: What was asked for.
        into: The prefix.
        source: Where from, and what.
        is_trusted: Whether that index may be anywhere, a private network included.
        template: Prefix of the template's packages; None for none.
        limits: What pip and all that it builds may use.
        timeout: Seconds for all of it.
        allow_conflicts: Whether packages may be there afterwards that do not go together.
    """

    dependencies: tuple[Dependency, ...]
    into: Path
    source: Packages
    is_trusted: bool
    template: Path | None
    limits: ResourceLimits
    timeout: float
    allow_conflicts: bool

    @property
    def requirements(self) -> tuple[str, ...]:
        """As pip takes them."""
        return tuple(each.requirement for each in self.dependencies)


def source(
    dependencies: Sequence[Dependency], index_url: str | None, default_index: str | None
) -> tuple[Packages, bool]:
    """Where packages come from, and whether whoever runs the server said so.

    Raises:
        ValueError: An index, or a requirement, that can't be.
    """
    requirements = tuple(each.requirement for each in dependencies)
    is_trusted = index_url is None or index_url == default_index
    url = default_index if index_url is None else index_url
    if url is None:
        return Packages(install=requirements), False
    parts = urlsplit(url)
    if parts.scheme == "file" and is_trusted:
        folder = unquote(parts.path)
        if any(name.endswith((".whl", ".tar.gz")) for name in os.listdir(folder)):
            return Packages(install=requirements, wheels=folder), True
        return Packages(install=requirements, index=url), True
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"an index is a URL that begins with https:// or http://, got {url!r}")
    if not is_trusted and parse_host(parts.hostname).address is not None:
        # A rule for an address would let it be reached, whatever network it is in.
        raise ValueError(f"an index is named and not numbered, got {url!r}")
    return Packages(install=requirements, index=url), is_trusted


async def install(here: Site, wanted: Installation) -> tuple[InstalledDependency, ...]:
    """Installs; returns what was asked for, as it is there now.

    Raises:
        InstallError: It did not work; nothing of it is in the directory.
    """
    fresh = wanted.into.parent / f".{wanted.into.name}.installing-{secrets.token_hex(8)}"
    began = datetime.now(UTC)
    try:
        await asyncio.to_thread(_make_room, wanted.into, fresh)
        async with asyncio.timeout(wanted.timeout):
            await _run(here, wanted, fresh)
        found = await asyncio.to_thread(_found, wanted, fresh, began)
        await to_the_end(asyncio.to_thread(installed.exchange, fresh, wanted.into))
        return found
    except TimeoutError:
        raise InstallError(wanted.requirements, f"it took longer than {wanted.timeout:g} seconds") from None
    except (OSError, ValueError) as error:
        raise InstallError(wanted.requirements, str(error)) from error
    except InstallError:
        raise
    except IpyboxError as error:
        raise InstallError(wanted.requirements, str(error)) from error
    finally:
        await to_the_end(asyncio.to_thread(_remove, fresh))


async def _run(here: Site, wanted: Installation, fresh: Path) -> None:
    policy = await _policy(wanted)
    plan = await asyncio.to_thread(here.plan, policy, wanted.template)
    async with Supervisor(policy, plan, kept=True) as supervisor:
        read, write = os.pipe()
        try:
            program = await supervisor.start(_program(here, wanted, fresh), [write, write], _TAG)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        too_large: list[str] = []
        room = Room(fresh, wanted.limits.disk_bytes)

        async def look() -> None:
            while not too_large:
                await asyncio.sleep(_LOOK_SECONDS)
                problem = await asyncio.to_thread(room.problem, program.init_pid)
                if problem is not None:
                    too_large.append(_of_packages(problem))
            program.kill()

        looking = asyncio.ensure_future(look())
        try:
            lines, status = await asyncio.gather(packages.last_lines(read), supervisor.finish(program, _TAG))
        finally:
            looking.cancel()
            await asyncio.wait([looking])
        # Once more at the end: what came last is looked at by nobody else.
        problem = await asyncio.to_thread(room.problem, None)
    if problem is not None and not too_large and not status.code:
        too_large.append(_of_packages(problem))
    if too_large:
        raise InstallError(wanted.requirements, too_large[0])
    if status.code:
        ended = "packages do not go together" if status.code == CONFLICT else f"pip ended with {status}"
        raise InstallError(wanted.requirements, _without_password("\n".join([ended, *lines]), wanted.source.index))
    if status.reason != "exited":
        raise InstallError(wanted.requirements, "\n".join([f"pip ended with {status}", *lines]))


async def _policy(wanted: Installation) -> SandboxPolicy:
    policy = replace(site.policy(wanted.limits, NetworkRules()), packages=wanted.source)
    if wanted.source.wheels is not None or urlsplit(wanted.source.index or packages.PYPI).scheme == "file":
        hosts: tuple[tuple[str, str | None], ...] = ()
    elif wanted.is_trusted:
        hosts = await packages.index_hosts(wanted.source, None, os.environ)
    else:  # the proxy finds their addresses, and refuses private ones
        names = [urlsplit(wanted.source.index or packages.PYPI).hostname or ""]
        names += [packages.PYPI_FILES] if wanted.source.index is None else []
        hosts = tuple((name, None) for name in names)
    installing = packages.install_policy(policy, PACKAGES, hosts)
    readable = () if wanted.source.wheels is None else (wanted.source.wheels,)
    if wanted.source.index is not None and urlsplit(wanted.source.index).scheme == "file":
        readable = (unquote(urlsplit(wanted.source.index).path),)
    return replace(installing, filesystem=replace(policy.filesystem, allow_read=readable))


def _program(here: Site, wanted: Installation, fresh: Path) -> Program:
    pip = packages.installation(wanted.source, sys.executable, PACKAGES, {})
    settings = InstallerSettings(
        command=list(pip.argv)[pip.argv.index("-m") :],
        prefix=PACKAGES,
        own=packages.site_directories(PACKAGES),
        template=packages.site_directories(TEMPLATE) if wanted.template is not None else [],
        allow_conflicts=wanted.allow_conflicts,
    )
    binds = [(here.inside(fresh), PACKAGES, True), (here.inside(wanted.into), EARLIER, False)]
    argv = bootstrap.command(
        sys.executable,
        "ipybox.control.inside.installer",
        settings.to_json(),
        sites=site_packages(),
        ignore_environment=False,
    )
    return replace(pip, argv=argv, binds=binds, hidden=(SESSIONS,))


def _found(wanted: Installation, fresh: Path, began: datetime) -> tuple[InstalledDependency, ...]:
    there = installed.packages(fresh)
    template = installed.packages(wanted.template) if wanted.template is not None else {}
    result = []
    for each in wanted.dependencies:
        name = installed.normal(each.name.partition("[")[0])
        own = there.get(name)
        found = own or template.get(name)
        if found is None:
            raise InstallError(wanted.requirements, f"pip says that it has installed {each.name}, but it is not there")
        prefix = PACKAGES if own is not None else TEMPLATE
        result.append(
            InstalledDependency(
                name=found.name,
                version=found.version,
                install_location=f"{prefix}/{found.place}",
                install_time=began,
                is_from_template=own is None,
            )
        )
    return tuple(result)


def _make_room(into: Path, fresh: Path) -> None:
    for name in os.listdir(into.parent):
        if name.startswith(f".{into.name}.installing-"):  # of a server that was killed
            warden.remove_tree(str(into.parent / name))
    fresh.mkdir(mode=0o755)


def _remove(fresh: Path) -> None:
    if os.path.lexists(fresh):
        warden.remove_tree(str(fresh))


def _of_packages(problem: str) -> str:
    return problem.replace("the workspace", "what is installed")


def _without_password(text: str, index: str | None) -> str:
    password = urlsplit(index or "").password
    return text.replace(password, "****") if password else text
