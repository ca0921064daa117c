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
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.black_box import STDIO_FDS, BlackBox
from ipybox.kernel_mgr.settings import GatewaySettings
from ipybox.process import family

_LOG_LINES = 60
_LINE_CHARACTERS = 2_000
_MEMORY_INTERVAL = 0.05
_FAMILY_EVERY = 20
"""Every so many looks at the kernel's own memory, its children's are added up as well: that is dearer."""


class IpyboxProvisioner(LocalProvisioner):
    """One kernel process at a time."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.process: subprocess.Popen[bytes] | None = None
        self.on_exit: Callable[[ExitStatus], None] | None = None
        self.exit_status: ExitStatus | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._gone = asyncio.Event()
        self._pidfd: int | None = None
        self._log_fd: int | None = None
        self._sent: int | None = None
        self._verdict: ExitStatus | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._oom_kills = 0
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
            kwargs.setdefault("cwd", settings.working_dir)
        result: dict[str, Any] = await super().pre_launch(**kwargs)
        return result

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Starts the process."""
        env = dict(kwargs.get("env") or {})
        env["JPY_PARENT_PID"] = str(os.getpid())
        env[family.MARKER] = str(self.kernel_id)
        self.exit_status = self._verdict = self._sent = None
        self._gone = asyncio.Event()
        self._log.clear()
        self._oom_kills = _oom_kills()
        self._discard_box()
        box = self._box = BlackBox() if BlackBox.is_for(self.kernel_spec) else None
        if box is not None:
            env[STDIO_FDS] = box.inherited
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - a fork, not a wait
                cmd,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                env=env,
                cwd=kwargs.get("cwd"),
                start_new_session=True,
                pass_fds=box.pass_fds if box is not None else (),
            )
        except BaseException:
            os.close(read)
            self._discard_box()
            raise
        finally:
            os.close(write)
            if box is not None:
                box.close_write_ends()
        self.pid = self.pgid = self.process.pid
        self._watch(read)
        return self.connection_info

    @property
    def has_process(self) -> bool:
        """Whether a process was started and its end was not collected by :meth:`wait` yet."""
        return self.process is not None

    async def poll(self) -> int | None:
        """None while the process runs."""
        if self.process is None:
            return 0
        code: int | None = self.process.poll()
        return code

    async def wait(self) -> int | None:
        """Waits until the process and its family are gone."""
        if self.process is None:
            return 0
        await self._gone.wait()
        code: int | None = self.process.returncode
        self.process = None
        return code

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
        if self.process is None or self.process.returncode is not None or self.exit_status is not None:
            return
        self._sent = signum
        try:
            os.killpg(self.process.pid, signum)
        except ProcessLookupError:
            pass

    async def kill(self, restart: bool = False) -> None:
        """Ends the process at once and waits until nothing of it is left."""
        await self.send_signal(signal.SIGKILL)
        if self.process is not None:
            await self.wait_gone(10)

    async def terminate(self, restart: bool = False) -> None:
        """Asks the process to end."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Nothing is kept between kernels."""
        await super().cleanup(restart)
        self._discard_box()
        if self._log_fd is not None and self._gone.is_set():
            self._close_log()

    def last_words(self, sent: Mapping[str, int]) -> list[tuple[str, str]]:
        """What a dead process had printed and no message carried: stream and text, in order.

        Args:
            sent: How many characters of each stream were carried.
        """
        return self._box.recover(sent) if self._box is not None else []

    def condemn(self, status: ExitStatus) -> None:
        """Kills the process for a reason that its exit status could not tell."""
        if self.process is not None and self.exit_status is None and self._verdict is None:
            self._verdict = status
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    @property
    def _settings(self) -> GatewaySettings | None:
        return getattr(getattr(self.parent, "parent", None), "settings", None)

    def _watch(self, log_fd: int) -> None:
        loop = asyncio.get_running_loop()
        os.set_blocking(log_fd, False)
        self._log_fd = log_fd
        loop.add_reader(log_fd, self._read_log)
        process = self.process
        assert process is not None
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(process.pid)
            loop.add_reader(self._pidfd, self._ended)
        else:
            self._spawn(self._wait_in_thread(process))
        settings = self._settings
        if settings is not None and settings.memory_limit is not None:
            self._spawn(self._enforce_memory(process.pid, settings.memory_limit))

    def _discard_box(self) -> None:
        if self._box is not None:
            self._box.close()
            self._box = None

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_in_thread(self, process: subprocess.Popen[bytes]) -> None:
        await asyncio.to_thread(process.wait)
        self._ended()

    def _ended(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._spawn(self._bury())

    async def _bury(self) -> None:
        process = self.process
        assert process is not None
        # Before its end is collected: until then nobody else can get its pid, which is its session's number.
        await asyncio.to_thread(family.kill, process.pid, str(self.kernel_id))
        code = process.wait()
        self._read_log()
        self._close_log()
        self.exit_status = self._explain(code)
        self._gone.set()
        if self.on_exit is not None:
            self.on_exit(self.exit_status)

    def _explain(self, code: int) -> ExitStatus:
        if self._verdict is not None:
            return self._verdict
        status = ExitStatus.from_returncode(code)
        if code == -signal.SIGKILL and self._sent != signal.SIGKILL and _oom_kills() > self._oom_kills:
            return ExitStatus("memory", signal=signal.SIGKILL, detail="the system ran out of memory")
        return status

    def _read_log(self) -> None:
        while self._log_fd is not None:
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

    async def _enforce_memory(self, pid: int, limit: int) -> None:
        looks = 0
        while not self._gone.is_set():
            used = _resident(pid)
            if looks % _FAMILY_EVERY == 0:
                used = max(used, await asyncio.to_thread(family.memory, pid, str(self.kernel_id)))
            if used > limit:
                detail = f"{used} bytes in use, the limit is {limit}"
                self.condemn(ExitStatus("memory", signal=signal.SIGKILL, detail=detail))
                return
            looks += 1
            await asyncio.sleep(_MEMORY_INTERVAL)  # memory use has no event to wait for without a cgroup


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _oom_kills() -> int:
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
