"""The sides of the comparison, as the work sees them. Runs in the worker, in each side's own interpreter.

``ipybox`` and the peer are driven through the public API that they share. ``raw`` is jupyter_client with a stock
ipykernel and no gateway: the floor under everybody who runs code in a kernel.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import metadata
from queue import Empty
from typing import Any, Protocol

from benchmarks.plan import SideName

HOST = "127.0.0.1"
_PACKAGES = ("ipybox", "ipykernel", "ipython", "jupyter_client", "jupyter_server")


class Kernel(Protocol):
    """A connected kernel."""

    async def execute(self, code: str, timeout: float = 60.0) -> str:
        """Runs code and returns its text; raises ``TimeoutError``."""


class Gateway(Protocol):
    """Something that starts kernels."""

    def kernel(self) -> AbstractAsyncContextManager[Kernel]:
        """A fresh kernel: entering connects, leaving ends it."""


class Side(Protocol):
    """One of those who are compared."""

    def gateway(self) -> AbstractAsyncContextManager[Gateway]:
        """Entering starts a gateway, leaving stops it."""


def side(name: SideName) -> Side:
    """The side with a name."""
    sides: dict[SideName, Callable[[], Side]] = {"ipybox": IpyboxSide, "peer": PeerSide, "raw": RawSide}
    return sides[name]()


def versions(name: SideName) -> dict[str, str]:
    """Versions of what takes part on a side, as installed here."""
    return {package: metadata.version(package) for package in _PACKAGES if name != "raw" or package != "ipybox"}


class IpyboxSide:
    """This ipybox, with a sandbox for each kernel where the system is Linux: nobody else has one there."""

    def gateway(self) -> AbstractAsyncContextManager[Gateway]:
        """A gateway of its own."""
        return self.gateway_with(sandbox=sys.platform.startswith("linux"))

    @asynccontextmanager
    async def gateway_with(self, **options: Any) -> AsyncIterator[Gateway]:
        """A gateway with options that only we have."""
        from ipybox.kernel_mgr.server import KernelGateway

        async with KernelGateway(host=HOST, port=0, **options) as gateway:
            yield _ClientKernels(gateway.port, self._connect)

    async def _connect(self, client: Any) -> None:
        await client.connect()


class PeerSide:
    """The peer. It has the same API, except that it picks no port and that its gateway returns before it listens."""

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        """A gateway of its own; its kernels have no sandbox."""
        from ipybox.kernel_mgr.server import KernelGateway

        with socket.create_server((HOST, 0)) as listener:
            port = int(listener.getsockname()[1])
        async with KernelGateway(host=HOST, port=port):
            yield _ClientKernels(port, self._connect)

    async def _connect(self, client: Any) -> None:
        # By default it looks once a second, which would cost it up to a second at the start of a gateway.
        await client.connect(retries=1500, retry_interval=0.02, kernel_init_timeout=30)


class _ClientKernels:
    def __init__(self, port: int, connect: Callable[[Any], Any]) -> None:
        self._port = port
        self._connect = connect

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Kernel]:
        from ipybox.kernel_mgr.client import KernelClient

        client = KernelClient(host=HOST, port=self._port)
        try:
            async with asyncio.timeout(60):
                await self._connect(client)
            yield _ClientKernel(client)
        finally:
            await client.disconnect()


class _ClientKernel:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute(self, code: str, timeout: float = 60.0) -> str:
        async with asyncio.timeout(timeout):
            return (await self._client.execute(code)).text or ""


class RawSide:
    """Bare Jupyter."""

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        """There is none."""
        yield self

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Kernel]:
        """A kernel as jupyter_client starts it."""
        from jupyter_client.blocking.client import BlockingKernelClient
        from jupyter_client.manager import AsyncKernelManager

        manager = AsyncKernelManager()
        await manager.start_kernel()
        # Knows its manager: else it takes a kernel that starts slowly for dead.
        client = BlockingKernelClient(parent=manager, **manager.get_connection_info(session=True))
        try:
            client.start_channels()
            # Blocks; kernels that are started at the same time must not wait for each other.
            await asyncio.to_thread(client.wait_for_ready, timeout=60)
            yield _RawKernel(client)
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)


class _RawKernel:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute(self, code: str, timeout: float = 60.0) -> str:
        # Blocks, on purpose: nothing but the kernel and its sockets is measured here.
        try:
            return self._execute(code, time.monotonic() + timeout)
        except Empty:
            raise TimeoutError("no answer") from None

    def _execute(self, code: str, deadline: float) -> str:
        request = self._client.execute(code)
        texts: list[str] = []
        while True:
            message = self._client.iopub_channel.get_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
            elif message["msg_type"] in ("execute_result", "display_data"):
                texts.append(content["data"].get("text/plain", ""))
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        while True:
            reply = self._client.shell_channel.get_msg(timeout=max(0.0, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == request:
                break
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
        return "".join(texts).strip()
