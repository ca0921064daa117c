"""Installs packages for sandboxed programs, before any of them runs. Linux only. Floor: sandbox.

Two phases: pip runs in a sandbox of its own that can write one directory and reach one index, or none when there are
wheels on disk; then that sandbox is gone with its way out, and programs see the directory read-only. Building a
package runs code of its author, so it is as untrusted as what is run later. The host's environment is never written:
what it has already is used, and what would have to replace a part of it is an error.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from ipybox.errors import PolicyError, ProgramStartError
from ipybox.sandbox.hosts import parse_host
from ipybox.sandbox.launcher import PROXY_PORT, Program
from ipybox.sandbox.parent_proxy import ParentProxies
from ipybox.sandbox.policy import FilesystemPolicy, NetworkPolicy, Packages, SandboxPolicy

PYPI = "https://pypi.org/simple"
PYPI_FILES = "files.pythonhosted.org"
_LINES = 30
_LINE_BYTES = 2000


def site_directories(prefix: str) -> list[str]:
    """Where a Python may look for what was installed below a prefix; distributions differ."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return [
        f"{prefix}/lib/{version}/site-packages",
        f"{prefix}/lib64/{version}/site-packages",
        f"{prefix}/local/lib/{version}/dist-packages",
    ]


def install_policy(policy: SandboxPolicy, prefix: str, hosts: Sequence[tuple[str, str | None]]) -> SandboxPolicy:
    """What pip may touch.

    Args:
        policy: That of the programs; its limits apply as well.
        prefix: The directory to install into.
        hosts: Hosts of the index and their addresses, None for one that a parent proxy leads to or that is an address.
    """
    packages = policy.packages
    port = urlsplit(packages.index or PYPI).port
    rules = tuple(str(parse_host(name)) if port is None else f"{parse_host(name)}:{port}" for name, _ in hosts)
    files = policy.filesystem
    return replace(
        policy,
        network=NetworkPolicy(
            allowed_domains=rules,
            hosts=tuple((name, address) for name, address in hosts if address is not None),
            parent_proxy=policy.network.parent_proxy,
        ),
        filesystem=FilesystemPolicy(
            deny_read=files.deny_read, allow_read=(*files.allow_read, *_wheels(packages)), allow_write=(prefix,)
        ),
    )


async def index_hosts(
    packages: Packages, parent_proxy: str | None, environment: Mapping[str, str]
) -> tuple[tuple[str, str | None], ...]:
    """The index's hosts with the addresses that this machine knows for them. None for wheels on disk.

    They are looked up here, by those who run the machine, so an index may well have a private address. A host that is
    reached through a parent proxy has none: only that proxy knows it.

    Raises:
        PolicyError: A host has no address.
    """
    if packages.wheels is not None:
        return ()
    url = urlsplit(packages.index or PYPI)
    plain = url.scheme == "http"
    proxies = ParentProxies(parent_proxy, environment)
    found: list[tuple[str, str | None]] = []
    for name in (url.hostname or "", *([PYPI_FILES] if packages.index is None else [])):
        port = url.port or (80 if plain else 443)
        host = parse_host(name)
        direct = host.address is None and proxies.for_host(host, port, plain=plain) is None
        found.append((name, await _address(name) if direct else None))
    return tuple(found)


def installation(packages: Packages, python: str, prefix: str, certificates: Mapping[str, str]) -> Program:
    """The program that installs them."""
    # Named like this, the proxy also leads to an index on this machine, which programs may not reach themselves.
    source = ["--index-url", packages.index or PYPI, "--proxy", f"http://127.0.0.1:{PROXY_PORT}"]
    if packages.wheels is not None:
        source = ["--no-index", "--find-links", os.path.abspath(os.path.expanduser(packages.wheels))]
    options = ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--no-warn-script-location"]
    return Program(
        argv=[python, "-P", "-s", "-m", "pip", "install", "--prefix", prefix, *options, *source, *packages.install],
        env={
            **certificates,
            "PATH": f"{os.path.dirname(python)}:/usr/bin:/bin",
            "HOME": "/run/home",
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
        },
        cwd="/tmp",
        fds=[1, 2],
    )


async def last_lines(fd: int) -> list[str]:
    """Reads all that comes from a pipe, which it takes over, and returns the last lines, cut where they are long."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    lines: deque[str] = deque(maxlen=_LINES)
    rest = b""
    with os.fdopen(fd, "rb") as pipe:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while data := await reader.read(65536):
                *whole, last = data.split(b"\n")
                for line in whole:
                    lines.append(_text(rest + line))
                    rest = b""
                rest = (rest + last)[:_LINE_BYTES]
        finally:
            transport.close()
    return [*lines, *([_text(rest)] if rest else [])][-_LINES:]


def _text(line: bytes) -> str:
    return line[:_LINE_BYTES].decode("utf-8", "replace").rstrip()


def failure(packages: Packages, ending: str, lines: list[str]) -> ProgramStartError:
    """The error for an installation that ended badly."""
    names = ", ".join(packages.install)
    said = [f"packages could not be installed ({names}): pip ended with {ending}", *lines]
    if any("Read-only file system" in line for line in lines):
        said.append("one of them would have to replace a package of the host's environment, which is never changed")
    return ProgramStartError("\n".join(said))


async def _address(name: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=1)
    except OSError as error:
        raise PolicyError(
            "packages.index", f"{name!r} has no address: {error}", "use packages.wheels offline"
        ) from error
    return str(found[0][4][0])


def _wheels(packages: Packages) -> tuple[str, ...]:
    return (packages.wheels,) if packages.wheels is not None else ()
