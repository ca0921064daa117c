"""The kernels of a gateway: jupyter_server's kernel manager, with a hub per kernel. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.ioloop import AsyncIOLoopKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado import web

from ipybox.errors import KernelStartError, ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.admission import Admission, FullError
from ipybox.kernel_mgr.black_box import OWN_KERNEL
from ipybox.kernel_mgr.connection import JournalConnection
from ipybox.kernel_mgr.gateway_start import kernel_argv
from ipybox.kernel_mgr.hub import KernelHub
from ipybox.kernel_mgr.kernel_pool import KernelPool
from ipybox.kernel_mgr.provisioner import IpyboxProvisioner
from ipybox.kernel_mgr.settings import GatewaySettings
from ipybox.sandbox.supervision import SupervisorLink

if TYPE_CHECKING:
    from ipybox.kernel_mgr.forked_kernels import ForkedKernels
    from ipybox.kernel_mgr.seatbelt_kernels import SeatbeltKernels

KERNEL_NAME = "ipybox"
_POLITE = 1.0
"""Seconds that an idle kernel gets to end by itself, so that its exit handlers run."""
_LONG_START = 5.0
"""Seconds after which a start that is not over takes no processor's time from others any more: it waits, or hangs."""
_IPC_PATH = 100
"""Unix sockets have paths of at most 107 bytes (103 on macOS)."""


class KernelSpecs(KernelSpecManager):
    """Knows ipybox's own kernel, which is not installed anywhere, besides the installed ones."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The spec of a kernel."""
        if kernel_name == KERNEL_NAME:
            return own_kernel_spec()
        return super().get_kernel_spec(kernel_name)

    def find_kernel_specs(self) -> dict[str, str]:
        """Names of all kernels and their resource directories."""
        return {KERNEL_NAME: own_kernel_spec().resource_dir, **super().find_kernel_specs()}


def own_kernel_spec() -> KernelSpec:
    """ipybox's kernel in the gateway's own Python."""
    return KernelSpec(
        argv=[*kernel_argv(), "-f", "{connection_file}"],
        display_name=f"Python {sys.version_info[0]} (ipybox)",
        language="python",
        resource_dir=str(Path(__file__).parent),
        metadata=_provisioned({OWN_KERNEL: True}),
    )


def _provisioned(metadata: dict[str, Any]) -> dict[str, Any]:
    return {**metadata, "kernel_provisioner": {"provisioner_name": "ipybox-provisioner", "config": {}}}


class GatewayKernelManager(AsyncIOLoopKernelManager):
    """One kernel. Never restarts it on its own: a kernel that lost its variables is not the same kernel."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autorestart = False
        directory = os.path.dirname(os.path.abspath(self.connection_file))
        # Unix sockets in the private directory: no port that somebody else can take or connect to.
        if len(f"{directory}/kernel-{self._long_id()}-ipc-9") < _IPC_PATH:
            self.transport = "ipc"
            self.ip = os.path.splitext(os.path.abspath(self.connection_file))[0] + "-ipc"

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """The kernel's spec; installed ones are started by our provisioner as well, unless they name another."""
        spec: KernelSpec | None = super().kernel_spec
        if spec is not None and "kernel_provisioner" not in spec.metadata:
            spec.metadata = _provisioned(spec.metadata)
        return spec

    @property
    def own_provisioner(self) -> IpyboxProvisioner | None:
        """The provisioner, if it is ours."""
        return self.provisioner if isinstance(self.provisioner, IpyboxProvisioner) else None

    _ready: asyncio.Future[None] | None

    async def _async_start_kernel(self, **kwargs: Any) -> None:
        """Starts the kernel."""
        async with self._pending():
            await AsyncIOLoopKernelManager._async_start_kernel.__wrapped__(self, **kwargs)

    start_kernel = _async_start_kernel

    @asynccontextmanager
    async def _pending(self) -> AsyncIterator[None]:
        """The kernel is about to change; like jupyter_client's ``in_pending_state``, which sleeps for 10 ms as well."""
        ready = self._ready = asyncio.get_running_loop().create_future()
        try:
            yield
        except BaseException as error:
            ready.set_exception(error if isinstance(error, Exception) else KernelStartError("it was given up"))
            ready.exception()  # whoever waits gets it; nobody has to
            self.log.error("kernel %s: %s", self.kernel_id, error)
            raise
        ready.set_result(None)

    async def _async_shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Ends the kernel: politely when it is idle, by force when it is busy or does not listen."""
        async with self._pending():
            await self._end(now=now, restart=restart)

    shutdown_kernel = _async_shutdown_kernel

    async def _end(self, *, now: bool, restart: bool) -> None:
        self.shutting_down = True
        provisioner = self.own_provisioner
        if self.has_kernel and provisioner is not None:
            busy = getattr(self, "execution_state", "idle") == "busy"
            if not now and not busy and provisioner.exit_status is None:
                await self._async_request_shutdown(restart=restart)
                await provisioner.wait_gone(_POLITE)
            await provisioner.kill(restart=restart)
            await provisioner.wait()
        elif self.has_kernel:
            await self._async_kill_kernel(restart=restart)
        await self._async_cleanup_resources(restart=restart)
        if self.transport == "ipc":
            with suppress(FileNotFoundError):
                os.unlink(f"{self.ip}-forks")  # jupyter_client knows only its own five

    def _long_id(self) -> str:
        return str(os.path.splitext(os.path.basename(self.connection_file))[0].removeprefix("kernel-"))


class FullHTTPError(web.HTTPError):
    """No kernel can be started now: ``503`` with a ``Retry-After`` header."""

    def __init__(self, error: FullError) -> None:
        super().__init__(503, error.reason, reason="Full")
        self.retry_after = error.retry_after


class GatewayKernels(AsyncMappingKernelManager):
    """All kernels of a gateway."""

    settings: GatewaySettings

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = self.parent.settings
        self.default_kernel_name = self.settings.kernel_name or KERNEL_NAME
        self.hubs: dict[str, KernelHub] = {}
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        for option in (zmq.RCVHWM, zmq.SNDHWM, zmq.LINGER):
            self._zmq.setsockopt(option, 0)
        # A kernel binds its sockets a while after we connect; ZMQ would look again only every 100 ms.
        self._zmq.setsockopt(zmq.RECONNECT_IVL, 5)
        # Stock connections make their sockets in this one; nothing may be dropped for them either.
        for option in (zmq.RCVHWM, zmq.SNDHWM):
            self.context.setsockopt(option, 0)
        self._abandoned: dict[str, asyncio.TimerHandle] = {}
        self._seatbelt: SeatbeltKernels | None = None
        self._farewells: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Task[None]] = set()
        self._admission = Admission(
            self._count, max_kernels=self.settings.max_kernels, at_once=max(2, os.cpu_count() or 1)
        )
        self._unused: set[str] = set()
        self._generation = 0
        self._pool = KernelPool(self.settings.pool_size, self._start_for_pool, self._is_good, self._end_unused)

    @property
    def supervisor(self) -> SupervisorLink | None:
        """Who starts kernels in sandboxes; None when they have none.

        Raises:
            RuntimeError: They are to have one, and there is nobody to start them.
        """
        link: SupervisorLink | None = self.parent.supervisor
        if link is None and self.settings.supervisor_fd is not None:
            raise RuntimeError("kernels are to be sandboxed, and there is no supervisor")
        return link

    @property
    def forked(self) -> ForkedKernels | None:
        """What kernels without a sandbox are forked from; None when each is executed."""
        forked: ForkedKernels | None = self.parent.forked
        return forked

    @property
    def seatbelt(self) -> SeatbeltKernels | None:
        """Who confines kernels on macOS; None when they have no sandbox, or another one."""
        if self.settings.seatbelt is not None and self._seatbelt is None:
            from ipybox.kernel_mgr.seatbelt_kernels import SeatbeltKernels, SeatbeltSettings

            confinement = SeatbeltSettings.from_dict(self.settings.seatbelt)
            self._seatbelt = SeatbeltKernels(confinement, Path(self.settings.run_dir), self.note_egress)
        return self._seatbelt

    def _kernel_manager_class_default(self) -> str:
        return f"{__name__}.GatewayKernelManager"

    def open(self) -> None:
        """Begins to keep kernels ready."""
        self._pool.open()

    async def start_kernel(self, *, kernel_id: str | None = None, path: str | None = None, **kwargs: Any) -> str:
        """Starts a kernel, or gives away one that is up; returns its id.

        Raises:
            FullHTTPError: Not now.
        """
        is_any = kernel_id is None and path is None and not kwargs.get("env")
        if is_any and kwargs.get("kernel_name") in (None, self.default_kernel_name):
            pooled = await self._from_pool()
            if pooled is not None:
                self._unused.discard(pooled)
                self._expect_connection(pooled)
                return pooled
        slot = await self._place()
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(
            self._start_in_turn(slot, started, kernel_id=kernel_id, path=path, **kwargs)
        )
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)
        try:
            return await asyncio.shield(started)
        except ProgramStartError as error:
            raise web.HTTPError(503, str(error)) from error

    async def _from_pool(self) -> str | None:
        if not self._pool:
            return None
        await self._look_again()
        return await self._pool.take()

    async def _look_again(self) -> None:
        """Asks once which view of the files is the current one; kernels that see an older one are not given away."""
        link = self.supervisor
        self._generation = await link.current() if link is not None else 0

    async def _place(self) -> AbstractAsyncContextManager[None]:
        """A place in line. One that nobody uses yet makes room for one that somebody asks for."""
        while True:
            try:
                return self._admission.slot()
            except FullError as error:
                unused = self._pool.give_up()
                if unused is None:
                    raise FullHTTPError(error) from error
                await self._end_unused(unused)

    async def _start_in_turn(
        self, slot: AbstractAsyncContextManager[None], started: asyncio.Future[str], **kwargs: Any
    ) -> None:
        """Starts a kernel when it is its turn, and holds its place until it answers: until then it takes the most."""
        try:
            async with slot:
                kernel_id: str = await super().start_kernel(**kwargs)
                if not started.done():
                    started.set_result(kernel_id)
                hub = self.hubs.get(kernel_id)
                if hub is not None:
                    with suppress(KernelStartError):
                        await hub.wait_ready(_LONG_START)
        except Exception as error:
            if not started.done():
                started.set_exception(error)
                started.exception()  # whoever waits gets it; nobody has to

    def _count(self) -> int:
        pending = {id for id, task in self._pending_kernels.items() if not task.done()}
        return len(self._kernels.keys() | pending)

    async def _start_for_pool(self) -> str:
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        kernel_id: str = self.new_kernel_id()
        slot = self._admission.slot(keep_free=1)
        self._unused.add(kernel_id)
        try:
            await self._start_in_turn(slot, started, kernel_name=self.default_kernel_name, kernel_id=kernel_id)
            started.result()
            self._cancel_abandonment(kernel_id)
            await self._look_again()
            if not await self._is_good(kernel_id):
                raise KernelStartError("it did not come up")
        except BaseException:
            await self._end_unused(kernel_id)
            raise
        return kernel_id

    async def _is_good(self, kernel_id: str) -> bool:
        """Whether a kernel that nobody has used yet is as good as a new one."""
        hub = self.hubs.get(kernel_id)
        if hub is None or not hub.is_ready:
            return False
        provisioner = self._kernels[kernel_id].own_provisioner
        return provisioner is None or provisioner.sees(self._generation)

    async def _end_unused(self, kernel_id: str) -> None:
        if kernel_id in self:
            await self.shutdown_kernel(kernel_id, now=True)
        self._unused.discard(kernel_id)

    def list_kernels(self) -> list[dict[str, Any]]:
        """Every kernel that somebody has. One that is being started, or kept ready, is nobody's yet."""
        ids = [id for id in self.list_kernel_ids() if id in self.hubs and id not in self._unused]
        return [self.kernel_model(id) for id in ids]

    def start_watching_activity(self, kernel_id: str) -> None:
        """A kernel was started: connects its hub."""
        kernel = self._kernels[kernel_id]
        kernel.reason = ""
        kernel.last_activity = utcnow()

        def on_activity(state: str) -> None:
            self.last_kernel_activity = kernel.last_activity = utcnow()
            kernel.execution_state = state

        hub = self.hubs.get(kernel_id)
        if hub is None:
            hub = self.hubs[kernel_id] = KernelHub(
                kernel_id, self._zmq, Path(self.settings.run_dir), self.settings.journal_bytes, on_activity
            )
            self._expect_connection(kernel_id)
        self._open_hub(kernel_id, kernel, hub)

    def stop_watching_activity(self, kernel_id: str) -> None:
        """A kernel is about to be shut down for good: closes its hub."""
        super().stop_watching_activity(kernel_id)
        self._cancel_abandonment(kernel_id)
        hub = self.hubs.pop(kernel_id, None)
        if hub is not None:
            hub.close()

    async def restart_kernel(self, kernel_id: str, now: bool = False) -> None:
        """Replaces the kernel's process; returns when the new one answers."""
        self._check_kernel_id(kernel_id)
        kernel, hub = self.get_kernel(kernel_id), self.hubs[kernel_id]
        kernel.shutting_down = True  # its end is no death to be told of
        kernel.execution_state = "starting"
        provisioner = kernel.own_provisioner
        if provisioner is not None:
            await provisioner.kill()
        await hub.kernel_replaced(provisioner.last_words if provisioner is not None else lambda sent: [])
        await kernel.restart_kernel(now=True)
        self._open_hub(kernel_id, kernel, hub)
        try:
            await hub.wait_ready(self.kernel_info_timeout)
        except KernelStartError as error:
            raise web.HTTPError(503, str(error)) from error
        kernel.execution_state = "idle"

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        """A kernel as the REST interface shows it."""
        model: dict[str, Any] = super().kernel_model(kernel_id)
        hub = self.hubs.get(kernel_id)
        if hub is not None:
            model["incarnation"] = hub.incarnation
            model["journal"] = hub.journal.next
        provisioner = self._kernels[kernel_id].own_provisioner
        if provisioner is not None and provisioner.exit_status is not None:
            model["log"] = provisioner.log_tail
        return model

    async def interrupt_kernel(self, kernel_id: str) -> None:
        """Interrupts what the kernel runs; harmless for one that runs nothing or is dead."""
        self._check_kernel_id(kernel_id)
        kernel = self.get_kernel(kernel_id)
        if kernel.has_kernel:
            await kernel.interrupt_kernel()

    def notify_connect(self, kernel_id: str) -> None:
        """A client is there."""
        super().notify_connect(kernel_id)
        self._cancel_abandonment(kernel_id)

    def notify_disconnect(self, kernel_id: str) -> None:
        """A client left; when it was the last one, the kernel's time starts running."""
        super().notify_disconnect(kernel_id)
        if self._kernel_connections.get(kernel_id, 0) <= 0:
            self._expect_connection(kernel_id)

    def note_egress(self, event: dict[str, Any]) -> None:
        """The egress proxy decided something about a kernel's request."""
        hub = self.hubs.get(event["tag"])
        if hub is not None:
            hub.note_egress(event["host"], event["port"], event["allowed"], event["reason"])

    async def shutdown_everything(self) -> None:
        """Ends all kernels at once."""
        await self._pool.close()
        ids = self.list_kernel_ids()
        await asyncio.gather(*(self.shutdown_kernel(id, now=True) for id in ids), return_exceptions=True)
        self._zmq.destroy(linger=0)

    def _open_hub(self, kernel_id: str, kernel: GatewayKernelManager, hub: KernelHub) -> None:
        hub.open(kernel.get_connection_info())
        provisioner = kernel.own_provisioner
        if provisioner is None:
            return

        def on_exit(status: ExitStatus) -> None:
            if not kernel.shutting_down:
                kernel.execution_state = "dead"
                kernel.reason = str(status)
                self._tell_stock_connections(kernel_id)
                self._pool.drop(kernel_id)
                hub.kernel_exited(status, provisioner.log_tail, provisioner.last_words)

        provisioner.on_exit = on_exit
        if provisioner.exit_status is not None:
            on_exit(provisioner.exit_status)

    def _tell_stock_connections(self, kernel_id: str) -> None:
        for connection in list(JournalConnection._open_sockets):
            if connection.kernel_id == kernel_id:
                connection.on_restart_failed()

    def _expect_connection(self, kernel_id: str) -> None:
        self._cancel_abandonment(kernel_id)
        timeout = self.settings.abandoned_timeout
        if timeout is not None and kernel_id in self.hubs:
            loop = asyncio.get_running_loop()
            self._abandoned[kernel_id] = loop.call_later(timeout, self._abandon, kernel_id)

    def _cancel_abandonment(self, kernel_id: str) -> None:
        handle = self._abandoned.pop(kernel_id, None)
        if handle is not None:
            handle.cancel()

    def _abandon(self, kernel_id: str) -> None:
        self.log.info("kernel %s has had no connection for too long, shutting it down", kernel_id)
        task = asyncio.get_running_loop().create_task(self.shutdown_kernel(kernel_id))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
