"""Decides for one kernel what it may reach, and tells the host before the kernel hears of it. Floor: sandbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from ipybox.sandbox.dialing import Dialler, RefusedError, Resolver, Route, UnreachableError
from ipybox.sandbox.hosts import HostError, HostRules, parse_host
from ipybox.sandbox.streams import Stream

log = logging.getLogger("ipybox.egress")

Protocol = Literal["connect", "http", "socks5"]

LEARNED = "learned"
"""The reason in events for what only learn mode lets through."""

_LONGEST_HOST = 253
_EVENT_TIMEOUT = 10.0


@dataclass(frozen=True)
class EgressEvent:
    """One attempt of sandboxed code to reach a host.

    Attributes:
        tag: Names the kernel, as given to ``listen``.
        host: The host in canonical form; for one that can't be parsed, printable ASCII of what was asked for.
        port: The port that was asked for.
        allowed: Whether it may be reached; not whether it answered.
        reason: The rule that allows it, ``"learned"``, or the class of refusal. Never an address that a name led to.
        protocol: How it was asked for.
    """

    tag: str
    host: str
    port: int
    allowed: bool
    reason: str
    protocol: Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressLimits:
    """What one kernel may use of the proxy. Times in seconds.

    Attributes:
        head: For a complete request.
        hello: For a complete TLS ClientHello, counted from its first bytes.
        dial: For resolving, and again for connecting.
        idle: For a connection on which nothing moves.
        linger: For a client to take the end of an answer.
        connections: Connections per tag at once; what is above gets a 503.
    """

    head: float = 10.0
    hello: float = 10.0
    dial: float = 10.0
    idle: float = 300.0
    linger: float = 2.0
    connections: int = 256


OnEvent = Callable[[EgressEvent], Awaitable[None]]


class Gate:
    """What one kernel may reach.

    Args:
        tag: Names the kernel.
        rules: Which hosts.
        dialler: Which addresses.
        resolver: Asked for names, once for each request.
        learn: Let through what no rule denies, and call it learned.
        on_event: Awaited for every decision, before it takes effect.
    """

    def __init__(
        self, tag: str, rules: HostRules, dialler: Dialler, resolver: Resolver, learn: bool, on_event: OnEvent | None
    ) -> None:
        self._tag, self._rules, self._dialler, self._resolver = tag, rules, dialler, resolver
        self._learn, self._on_event = learn, on_event

    async def admit(self, host_text: bytes | str, port: int, protocol: Protocol) -> Route:
        """The way to a host.

        Raises:
            RefusedError: It is not allowed; the event was delivered.
            UnreachableError: It is allowed, but has no address.
        """
        name = _printable(host_text)
        try:
            host = parse_host(host_text)
            name = str(host)
            decision = self._rules.decide(host, port)
            reason = decision.reason
            if not decision.allowed:
                learnable = self._learn and decision.rule is None and 1 <= port <= 65535
                if not learnable:
                    raise RefusedError(reason)
                reason = LEARNED
            route = await self._dialler.route(host, port, self._resolver, plain=protocol == "http")
        except HostError as error:
            await self.report(name, port, protocol, allowed=False, reason=str(error))
            raise RefusedError(str(error)) from None
        except RefusedError as refusal:
            await self.report(name, port, protocol, allowed=False, reason=refusal.reason)
            raise
        except UnreachableError:  # allowed, but it has no address
            await self.report(name, port, protocol, allowed=True, reason=reason)
            raise
        await self.report(name, port, protocol, allowed=True, reason=reason)
        return route

    async def dial(self, route: Route, *, tunnel: bool) -> Stream:
        """A connection along a route; see :meth:`Dialler.dial`."""
        return await self._dialler.dial(route, tunnel=tunnel)

    async def report(self, host: str, port: int, protocol: Protocol, *, allowed: bool, reason: str) -> None:
        """Tell the host what was decided. What goes wrong there changes nothing here."""
        if not allowed:
            log.info("kernel %s: refused %s:%d (%s): %s", self._tag, host, port, protocol, reason)
        if self._on_event is None:
            return
        try:
            async with asyncio.timeout(_EVENT_TIMEOUT):
                await self._on_event(EgressEvent(self._tag, host, port, allowed, reason, protocol))
        except Exception:  # whatever the host does with events must not open or break the proxy
            log.warning("the host's handler of egress events failed", exc_info=True)


def _printable(text: bytes | str) -> str:
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    return ascii(text[:_LONGEST_HOST])[1:-1]
