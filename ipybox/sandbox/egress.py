"""The only way out of the sandbox: a proxy that reaches allowed hosts and nothing else. Floor: sandbox.

It runs in the host's network namespace and accepts on listeners that were made inside those of the kernels; which
listener a connection comes from says which kernel it is, so no credentials are needed. It speaks HTTP CONNECT, plain
HTTP with absolute URLs, and SOCKS5, told apart by the first byte.

What it can't prevent: data sent to an allowed host, whatever an allowed host passes on, other names inside an encrypted
or non-TLS tunnel (fronting by ``Host`` header), and, behind a parent proxy, names that lead to inner addresses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Container, Mapping
from types import TracebackType

from ipybox.sandbox.addresses import IPAddress
from ipybox.sandbox.dialing import Connector, Dialler, OwnInterfaces, Resolver, SystemResolver, connect
from ipybox.sandbox.egress_conversation import Conversation, answer
from ipybox.sandbox.egress_gate import LEARNED, EgressEvent, EgressLimits, Gate, OnEvent
from ipybox.sandbox.hosts import HostRules, NarrowedRules, parse_pins
from ipybox.sandbox.parent_proxy import ParentProxies
from ipybox.sandbox.policy import NetworkPolicy
from ipybox.sandbox.streams import Stream

__all__ = ["LEARNED", "EgressEvent", "EgressLimits", "EgressProxy", "OnEvent", "Resolver"]

log = logging.getLogger("ipybox.egress")

_ACCEPT_PAUSE = 0.1


class EgressProxy:
    """The egress proxy of one gateway, as an async context manager; all of it runs in one event loop.

    Args:
        policy: What may be reached.
        resolver: Addresses of a name, best first; None asks the host's own resolver.
        environment: Where the host's ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` are; None is ``os.environ``.
        own_addresses: Addresses of this host's interfaces; None finds them when they matter.
        learn: Let through what no rule denies, with events that say ``"learned"``. Addresses are checked all the same.
        on_event: Awaited for every decision, before sandboxed code hears of it; its errors are logged and dropped.
        limits: What one kernel may use.
        connector: Makes the connections to addresses that were checked.

    Raises:
        PolicyError: A rule, a pin or a parent proxy that can't be.
    """

    def __init__(
        self,
        policy: NetworkPolicy,
        *,
        resolver: Resolver | None = None,
        environment: Mapping[str, str] | None = None,
        own_addresses: Container[IPAddress] | None = None,
        learn: bool = False,
        on_event: OnEvent | None = None,
        limits: EgressLimits | None = None,
        connector: Connector = connect,
    ) -> None:
        self._limits = limits or EgressLimits()
        self._rules = HostRules.parse(policy.allowed_domains, policy.denied_domains)
        parents = ParentProxies(policy.parent_proxy, os.environ if environment is None else environment)
        own = OwnInterfaces() if own_addresses is None else own_addresses
        pins = parse_pins(policy.hosts)

        def dialler(rules: HostRules) -> Dialler:
            return Dialler(rules, pins, parents, own, connector, self._limits.dial)

        self._dialler = dialler
        self._resolver, self._learn, self._on_event = resolver, learn, on_event
        self._kernels: dict[str, _Kernel] = {}
        self._closed = False

    async def __aenter__(self) -> EgressProxy:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def listen(self, listener: socket.socket, tag: str, own: HostRules | None = None) -> None:
        """Serve a listening TCP socket, which the proxy owns from now on.

        Args:
            listener: Made by somebody else, such as inside a kernel's network namespace.
            tag: Names the kernel. Several listeners may have the same tag, and share its limits and its rules.
            own: What this kernel may reach of what the policy allows; None is all of it.

        Raises:
            RuntimeError: The proxy is closed. The listener is closed too, so that nobody waits in its queue.
        """
        if self._closed:
            listener.close()
            raise RuntimeError("the egress proxy is closed")
        if tag not in self._kernels:
            resolver = SystemResolver() if self._resolver is None else self._resolver
            rules = self._rules if own is None else NarrowedRules(self._rules, own)
            gate = Gate(tag, rules, self._dialler(rules), resolver, self._learn, self._on_event)
            self._kernels[tag] = _Kernel(gate, resolver, self._limits)
        self._kernels[tag].listen(listener)

    async def forget(self, tag: str) -> None:
        """Close the listeners and all connections of a kernel that is gone. Unknown tags are ignored."""
        kernel = self._kernels.pop(tag, None)
        if kernel is not None:
            await kernel.close()

    async def close(self) -> None:
        """Close everything. May be called more than once."""
        self._closed = True
        while self._kernels:
            await self.forget(next(iter(self._kernels)))


class _Kernel:
    """The listeners and connections of one kernel."""

    def __init__(self, gate: Gate, resolver: Resolver, limits: EgressLimits) -> None:
        self._gate, self._resolver, self._limits = gate, resolver, limits
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        # Not loop.sock_accept: cancelling that can lose a connection that was just accepted.
        try:
            connected, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # such as too many open files; it would be reported again at once
            log.warning("can't accept a connection: %s", error)
            self._loop.remove_reader(listener)
            self._pauses[listener] = self._loop.call_later(_ACCEPT_PAUSE, self._resume, listener)
            return
        if len(self._tasks) >= self._limits.connections:
            _turn_away(connected)
            return
        connected.setblocking(False)
        task = self._loop.create_task(self._serve(connected))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never gets to close what it was given.
        task.add_done_callback(lambda _: connected.close())

    def _resume(self, listener: socket.socket) -> None:
        del self._pauses[listener]
        self._loop.add_reader(listener, self._accept, listener)

    async def _serve(self, connected: socket.socket) -> None:
        try:
            try:
                client = await Stream.of(connected)
            except OSError:
                return  # gone before we got to it
            try:
                await Conversation(client, self._gate, self._limits).run()
            finally:
                client.abort()
        except Exception:  # a bug ends this connection, not the others
            log.exception("a connection was closed after an unexpected error")

    async def close(self) -> None:
        for listener in self._listeners:
            if pause := self._pauses.pop(listener, None):
                pause.cancel()
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener)
                listener.close()
        self._listeners.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports that were aborted close their sockets in the next round of the loop.
        await asyncio.sleep(0)
        if isinstance(self._resolver, SystemResolver):
            self._resolver.close()


def _turn_away(connected: socket.socket) -> None:
    with connected:
        connected.setblocking(False)
        try:
            connected.send(answer(503, "too many connections at once from this kernel"))
        except OSError:
            pass
