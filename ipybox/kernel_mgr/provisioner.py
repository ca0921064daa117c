"""Starts a kernel process, signals it, hears when it ends and why, and leaves nothing of it behind.
Floor: kernel_mgr.

A jupyter_client kernel provisioner (entry point ``ipybox-provisioner``): the ecosystem's own seam between "what a
kernel is" and "where it runs". Unlike the stock one it never polls, reports the cause of death, and ends children
that left the kernel's process group.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.black_box import BlackBox
from ipybox.kernel_mgr.inheritance import VARIABLE, Channels, Inheritance
from ipybox.kernel_mgr.kernel_process import Child, ExecutedChild, KernelProcess, LocalKernelProcess
from ipybox.kernel_mgr.settings import GatewaySettings
from ipybox.process import family
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.supervision import SupervisorLink

if TYPE_CHECKING:
    from ipybox.kernel_mgr.forked_kernels import ForkedKernels

_LOG_LINES = 60
_LINE_CHARACTERS = 2_000
_LOG_READS = 4


class IpyboxProvisioner(LocalProvisioner):
    """One kernel process at a time."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.process: KernelProcess | None = None
        self.on_exit: Callable[[ExitStatus], None] | None = None
        self.exit_status: ExitStatus | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._gone = asyncio.Event()
        self._log_fd: int | None = None
        self._watch: asyncio.Task[None] | None = None
        self._box: BlackBox | None = None

    @property
    def log_tail(self) -> str:
        """The last lines that the process wrote outside of any execution."""
        return "\n".join(self._log)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Gives the kernel the environment that the gateway's owner chose, and nothing of the gateway's own."""
        settings = self._settings
        if settings is not None:
            requested = {k: v for k, v in (kwargs.get("env") or {}).items() if k.startswith("KERNEL_")}
            kwargs["env"] = {**settings.kernel_env, **requested, "KERNEL_GATEWAY": "1"}
            if self._supervisor is not None:
                kwargs["cwd"] = settings.working_dir
            kwargs.setdefault("cwd", settings.working_dir)
        result: dict[str, Any] = await super().pre_launch(**kwargs)
        return result

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Starts the process."""
        env = dict(kwargs.get("env") or {})
        self.exit_status = None
        self._gone = asyncio.Event()
        self._log.clear()
        self._discard_box()
        box = self._box = BlackBox() if BlackBox.is_for(self.kernel_spec) else None
        channels: Channels | None = None
        read, write = os.pipe()
        try:
            pass_fds: list[int] = []
            if box is not None:
                channels = Channels(self.connection_info)
                inheritance = self._inheritance(box, channels)
                env[VARIABLE] = inheritance.to_environment()
                pass_fds = inheritance.all
            self.process = await self._start(cmd, env, kwargs.get("cwd"), write, pass_fds)
        except BaseException:
            os.close(read)
            self._discard_box()
            raise
        finally:
            os.close(write)
            if channels is not None:
                channels.close()
            if box is not None:
                box.close_write_ends()
        self.pid = self.pgid = self.process.pid
        os.set_blocking(read, False)
        self._log_fd = read
        loop = asyncio.get_running_loop()
        loop.add_reader(read, self._read_log)
        self._watch = loop.create_task(self._bury(self.process))
        return self.connection_info

    async def _start(
        self, cmd: list[str], env: dict[str, str], cwd: str | None, log: int, pass_fds: list[int]
    ) -> KernelProcess:
        settings = self._settings
        link = self._supervisor
        if link is not None:
            warm = self._box is not None
            program = Program(argv=cmd, env=env, cwd=cwd or "/", fds=[1, 2, *pass_fds], warm=warm)
            return await link.start(program, [log, log, *pass_fds], str(self.kernel_id))
        limit = settings.memory_limit if settings is not None else None
        env[family.MARKER] = str(self.kernel_id)
        child = await self._fork(cmd, env, cwd, log, pass_fds)
        if child is None:
            env["JPY_PARENT_PID"] = str(os.getpid())
            seatbelt = self._kernels.seatbelt if self._kernels is not None else None
            if seatbelt is not None:
                cmd, env = await seatbelt.confine(str(self.kernel_id), cmd, env)
            child = ExecutedChild(cmd, env=env, cwd=cwd, log=log, pass_fds=pass_fds)
        return LocalKernelProcess(child, kernel_id=str(self.kernel_id), memory_limit=limit)

    async def _fork(
        self, cmd: list[str], env: dict[str, str], cwd: str | None, log: int, pass_fds: list[int]
    ) -> Child | None:
        """A fork, where there is a fork-server and this is a kernel that can be forked."""
        forked: ForkedKernels | None = self._kernels.forked if self._kernels is not None else None
        if forked is None or self._box is None:
            return None
        program = Program(argv=cmd, env=env, cwd=cwd or os.getcwd(), fds=[1, 2, *pass_fds])
        return await forked.start(program, [log, log, *pass_fds], str(self.kernel_id))

    def _inheritance(self, box: BlackBox, channels: Channels) -> Inheritance:
        stdout, stderr = box.pipes
        return Inheritance(
            connection=channels.connection,
            listeners=channels.numbers,
            stdout=stdout,
            stderr=stderr,
            recorder=box.memory,
            forks=None if self._is_confined else f"ipc://{self.connection_info['ip']}-forks",
        )

    @property
    def has_process(self) -> bool:
        """Whether a process was started and its end was not collected by :meth:`wait` yet."""
        return self.process is not None

    async def poll(self) -> int | None:
        """None while the process runs."""
        if self.process is None:
            return 0
        return self._returncode if self._gone.is_set() else None

    async def wait(self) -> int | None:
        """Waits until the process and its family are gone."""
        if self.process is None:
            return 0
        await self._gone.wait()
        self.process = None
        return self._returncode

    async def wait_gone(self, timeout: float) -> bool:
        """Waits until the process and its family are gone; False when they are still there after ``timeout``."""
        try:
            async with asyncio.timeout(timeout):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    async def send_signal(self, signum: int) -> None:
        """Signals the kernel's process group."""
        if self.process is not None:
            self.process.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """Ends the process at once and waits until nothing of it is left."""
        if self.process is not None:
            self.process.kill()
            await self.wait_gone(10)

    async def terminate(self, restart: bool = False) -> None:
        """Asks the process to end."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Nothing is kept between kernels."""
        await super().cleanup(restart)
        if self._kernels is not None and self._kernels.seatbelt is not None:
            await self._kernels.seatbelt.forget(str(self.kernel_id))
        self._discard_box()
        if self._log_fd is not None and self._gone.is_set():
            self._close_log()

    def sees(self, generation: int) -> bool:
        """Whether the process is there, and sees this view of the files, see :meth:`SupervisorLink.current`."""
        if self.process is None or self.exit_status is not None or not self.process.is_alive:
            return False
        return getattr(self.process, "generation", generation) == generation

    def last_words(self, sent: Mapping[str, int]) -> list[tuple[str, str]]:
        """What a dead process had printed and no message carried: stream and text, in order.

        Args:
            sent: How many characters of each stream were carried.
        """
        return self._box.recover(sent) if self._box is not None else []

    @property
    def _settings(self) -> GatewaySettings | None:
        return getattr(getattr(self.parent, "parent", None), "settings", None)

    @property
    def _is_confined(self) -> bool:
        return self._kernels is not None and (self._supervisor is not None or self._kernels.seatbelt is not None)

    @property
    def _supervisor(self) -> SupervisorLink | None:
        return self._kernels.supervisor if self._kernels is not None else None

    @property
    def _kernels(self) -> Any:
        """The gateway's kernels; None when somebody else's manager uses this provisioner."""
        kernels = getattr(self.parent, "parent", None)
        return kernels if hasattr(kernels, "supervisor") else None

    def _discard_box(self) -> None:
        if self._box is not None:
            self._box.close()
            self._box = None

    @property
    def _returncode(self) -> int:
        status = self.exit_status
        if status is None:
            return 0
        return -status.signal if status.signal is not None else status.code or 0

    async def _bury(self, process: KernelProcess) -> None:
        status = await process.ended()
        self._read_log()
        self._close_log()
        self.exit_status = status
        self._gone.set()
        if self.on_exit is not None:
            self.on_exit(status)

    def _read_log(self) -> None:
        for _ in range(_LOG_READS):  # a kernel that writes without end must not hold up the others
            if self._log_fd is None:
                return
            try:
                data = os.read(self._log_fd, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_log()
                return
            for line in data.decode("utf-8", "replace").splitlines():
                self._log.append(line[:_LINE_CHARACTERS])
                self.log.debug("kernel %s: %s", self.kernel_id, line[:_LINE_CHARACTERS])

    def _close_log(self) -> None:
        if self._log_fd is not None:
            asyncio.get_running_loop().remove_reader(self._log_fd)
            os.close(self._log_fd)
            self._log_fd = None
