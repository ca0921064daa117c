"""From an allowed host to a connection: resolve once, check every address, dial what was checked. Floor: sandbox.

With a parent proxy a name can't be resolved here. It is then checked by the rules only, and where it leads is up to the
parent proxy; IP addresses are checked by their class all the same. Pinned names are dialled, never sent to the parent.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from ipybox.sandbox.addresses import IPAddress, forbidden
from ipybox.sandbox.hosts import Host, HostRules, Pin
from ipybox.sandbox.parent_proxy import ParentProxies, ParentProxy
from ipybox.sandbox.streams import Stream

Resolver = Callable[[str], Awaitable[Sequence[IPAddress]]]
"""Addresses of a name, best first. Raises ``OSError`` for a name that has none."""

Connector = Callable[[IPAddress, int], Awaitable[socket.socket]]
"""Makes a TCP connection to an address; the socket does not block. Raises ``OSError``."""

_MOST_ADDRESSES = 4
_LOOKUPS_AT_ONCE = 4
_LONGEST_PARENT_LINE = 8192
_MOST_PARENT_LINES = 100


class RefusedError(Exception):
    """What was asked for is not allowed.

    Attributes:
        reason: The class of refusal. It names no address that a name resolved to.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnreachableError(Exception):
    """What was asked for is allowed, but can't be reached. The message names no address."""


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to a host: through the parent proxy, or to one of these checked addresses, tried in this order."""

    host: Host
    port: int
    addresses: tuple[IPAddress, ...] = ()
    parent: ParentProxy | None = None


class OwnInterfaces:
    """The addresses of this host's interfaces, as they are at the moment of asking."""

    def __init__(self) -> None:
        # With ip_nonlocal_bind a socket can be bound to any address, so that binding tells nothing.
        self._binding_tells = {4: not _can_bind("240.0.0.1", 4), 6: not _can_bind("2001:db8:ffff::ffff", 6)}

    def __contains__(self, address: object) -> bool:
        if not hasattr(address, "version"):
            return False
        version = 6 if isinstance(address, IPv6Address) else 4
        if self._binding_tells[version]:
            return _can_bind(str(address), version)
        return _is_source_for_itself(str(address), version)


def _family(version: int) -> socket.AddressFamily:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _can_bind(address: str, version: int) -> bool:
    try:
        with socket.socket(_family(version), socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_source_for_itself(address: str, version: int) -> bool:
    try:
        with socket.socket(_family(version), socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False


class SystemResolver:
    """What the host's own resolver says. It has few threads: slow names hold up those who ask for them, nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="ipybox-dns")

    async def __call__(self, name: str) -> list[IPAddress]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _look_up, name)

    def close(self) -> None:
        """Forget lookups that have not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(name: str) -> list[IPAddress]:
    infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    # A zone would only be there for link-local addresses, which are refused anyway.
    return list(dict.fromkeys(ip_address(str(info[4][0]).partition("%")[0]) for info in infos))


async def connect(address: IPAddress, port: int) -> socket.socket:
    """A TCP connection to an address. It never asks a resolver."""
    dialled = socket.socket(_family(address.version), socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        await asyncio.get_running_loop().sock_connect(dialled, (str(address), port))
    except BaseException:
        dialled.close()
        raise
    return dialled


class Dialler:
    """Finds the way to an allowed host, and goes there.

    Args:
        rules: Decide about addresses too.
        pins: Where names lead in place of DNS.
        parents: The host's own proxies.
        own: Addresses of this host.
        connector: Makes connections.
        timeout: Seconds for one lookup, and seconds for all attempts to connect together.
    """

    def __init__(
        self,
        rules: HostRules,
        pins: Mapping[Host, Pin],
        parents: ParentProxies,
        own: Container[IPAddress],
        connector: Connector,
        timeout: float,
    ) -> None:
        self._rules, self._pins, self._parents, self._own = rules, pins, parents, own
        self._connector, self._timeout = connector, timeout

    async def route(self, host: Host, port: int, resolver: Resolver, *, plain: bool) -> Route:
        """The way to a host that the rules allow. ``plain`` is a request to an ``http://`` URL.

        Raises:
            RefusedError: It leads to where nobody may go.
            UnreachableError: It has no address.
        """
        if pin := self._pins.get(host):
            dialled = port if pin.port is None else pin.port
            self._check(pin.address, dialled, "leads to", pinned=True)
            return Route(host, dialled, (pin.address,))
        parent = self._parents.for_host(host, port, plain=plain)
        if host.address is not None:
            self._check(host.address, port, "is")
            return Route(host, port, (host.address,), parent)
        if parent is not None:
            return Route(host, port, (), parent)
        addresses, refusals = [], []
        for address in await self._resolve(host.name, resolver):
            try:
                self._check(address, port, "resolves to")
                addresses.append(address)
            except RefusedError as refusal:
                refusals.append(refusal)
        if not addresses:
            raise refusals[0] if refusals else UnreachableError("the name has no address")
        return Route(host, port, tuple(addresses[:_MOST_ADDRESSES]))

    async def _resolve(self, name: str, resolver: Resolver) -> Sequence[IPAddress]:
        try:
            async with asyncio.timeout(self._timeout):
                return await resolver(name)
        except TimeoutError:
            raise UnreachableError("the name could not be resolved in time") from None
        except (OSError, UnicodeError):
            raise UnreachableError("the name could not be resolved") from None

    def _check(self, address: IPAddress, port: int, verb: str, *, pinned: bool = False) -> None:
        if self._rules.denies(address, port):
            raise RefusedError(f"{verb} an address in deniedDomains")
        listed = (address,) if pinned or self._rules.lists(address, port) else ()
        if kind := forbidden(address, own=self._own, listed=listed):
            article = "an" if kind[0] in "aeiou" else "a"
            raise RefusedError(f"{verb} {article} {kind} address")

    async def dial(self, route: Route, *, tunnel: bool) -> Stream:
        """A connection to the host of a route; with a parent proxy, to the host through it if ``tunnel``, else to it.

        Raises:
            UnreachableError: Nobody answers there.
        """
        try:
            async with asyncio.timeout(self._timeout):
                if route.parent is None:
                    return await Stream.of(await self._first(route.addresses, route.port))
                return await self._through(route.parent, route, tunnel)
        except TimeoutError:
            raise UnreachableError("connecting took too long") from None
        except OSError:
            raise UnreachableError("the connection failed") from None

    async def _first(self, addresses: Sequence[IPAddress], port: int) -> socket.socket:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        for left in range(len(addresses), 0, -1):
            address = addresses[len(addresses) - left]
            try:
                # A share of the time for each, so that one that swallows packets does not hide the others.
                async with asyncio.timeout((deadline - loop.time()) / left):
                    return await self._connector(address, port)
            except OSError:  # TimeoutError is one
                if left == 1:
                    raise
        raise OSError("no address")

    async def _through(self, parent: ParentProxy, route: Route, tunnel: bool) -> Stream:
        try:
            addresses: Sequence[IPAddress] = [ip_address(parent.host)]
        except ValueError:
            infos = await asyncio.get_running_loop().getaddrinfo(parent.host, None, type=socket.SOCK_STREAM)
            addresses = [ip_address(str(info[4][0]).partition("%")[0]) for info in infos]
        stream = await Stream.of(await self._first(addresses[:_MOST_ADDRESSES], parent.port))
        if not tunnel:
            return stream
        try:
            authority = f"{route.host}:{route.port}"
            lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
            if parent.authorization:
                lines.append(f"Proxy-Authorization: {parent.authorization}")
            await stream.send("\r\n".join([*lines, "", ""]).encode("ascii"))
            await _read_agreement(stream)
        except BaseException:
            stream.abort()
            raise
        return stream


async def _read_agreement(stream: Stream) -> None:
    """The parent proxy's answer to CONNECT."""
    try:
        status = (await stream.read_line(_LONGEST_PARENT_LINE)).split(b" ", 2)
        if not status[0].startswith(b"HTTP/1.") or len(status) < 2 or not status[1].strip().isdigit():
            raise UnreachableError("the host's own proxy gave no HTTP answer")
        if not 200 <= (code := int(status[1][:4])) < 300:
            raise UnreachableError(f"the host's own proxy refused with status {code}")
        for _ in range(_MOST_PARENT_LINES):
            if (await stream.read_line(_LONGEST_PARENT_LINE)).strip() == b"":
                return
    except (EOFError, ValueError):
        pass
    raise UnreachableError("the host's own proxy gave no HTTP answer")
