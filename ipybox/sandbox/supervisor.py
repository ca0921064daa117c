"""The process that stands between sandboxed programs and the machine. Linux only. Floor: sandbox.

It is trusted and runs outside of every wall: it builds the walls, starts programs behind them for a client (a kernel
gateway, behind a wall of its own), runs the egress proxy, keeps memory limits, and says how programs ended. The
client can ask for programs and end them; what they may touch was settled before it started.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipybox.errors import PolicyError, ProgramStartError, SandboxUnavailableError
from ipybox.exit_status import ExitStatus
from ipybox.sandbox import bubblewrap, diagnosis, packages, staging
from ipybox.sandbox.launcher import MAX_FDS, PROXY_PORT, Program
from ipybox.sandbox.memory_guard import Guarded, MemoryGuard
from ipybox.sandbox.policy import Limits, SandboxPolicy
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.settings import SupervisorSettings
from ipybox.sandbox.supervision import PACKET
from ipybox.sandbox.view import HostFacts, gateway_view, kernel_view
from ipybox.sandbox.wall import NestedWall, SeparateWalls, Wall, WallPlan, WallProcess

if TYPE_CHECKING:
    from ipybox.sandbox.egress import EgressEvent, EgressProxy

log = logging.getLogger("ipybox.sandbox")

_DATA_HEADROOM = 512 * 1024 * 1024
"""Room for the stacks of threads, which count as data though they are hardly used."""
_HEARD_SECONDS = 2.0
_PROXY_URL = f"http://127.0.0.1:{PROXY_PORT}"
_PROXIED = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PROXY_ENVIRONMENT = {
    **{name: _PROXY_URL for upper in _PROXIED for name in (upper, upper.lower())},
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
}
"""How programs find the way out. All three are `http://` URLs: httpx needs an extra package for `socks5h://`."""


class Supervisor:
    """Programs behind walls, and everything that they share. An async context manager.

    Args:
        policy: What they may touch.
        view: What they see.
        plan: How to build the wall.
        learn: Whether hosts that are not allowed are let through and noted.
    """

    def __init__(self, policy: SandboxPolicy, plan: WallPlan, *, learn: bool = False) -> None:
        self.on_egress: Any = None
        self._policy = policy
        self._plan = plan
        self._guard = MemoryGuard()
        self._programs: set[SandboxedProgram] = set()
        self._placeholders: list[Path] = []
        self._proxy: EgressProxy | None = None
        self._wall: Wall | None = None
        if policy.network.allowed_domains or learn:
            from ipybox.sandbox.egress import EgressProxy  # most sandboxes have no network

            self._proxy = EgressProxy(policy.network, environment=os.environ, learn=learn, on_event=self._on_event)

    async def __aenter__(self) -> Supervisor:
        try:
            self._make_placeholders()
            self._wall = await self._build()
        except BaseException:
            await self.close()
            raise
        log.info("sandbox: %s", self._wall.name)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def tier(self) -> str:
        """How programs are kept apart."""
        return self._wall.name if self._wall is not None else "none"

    async def start(self, program: Program, fds: Sequence[int], tag: str) -> SandboxedProgram:
        """Starts a program.

        Args:
            program: What to run; its limits and walls are set here.
            fds: What it inherits; closed by the caller.
            tag: Whose it is, for the proxy's events.

        Raises:
            ProgramStartError: It did not start.
        """
        assert self._wall is not None
        lead = await self._wall.launch(self.confined(program), fds)

        async def on_listener(listener: socket.socket) -> None:
            assert self._proxy is not None
            await self._proxy.listen(listener, tag)

        sandboxed = SandboxedProgram(lead, on_listener if self._proxy is not None else None)
        self._programs.add(sandboxed)
        try:
            await sandboxed.started()
        except BaseException:
            sandboxed.close()
            self._programs.discard(sandboxed)
            raise
        return sandboxed

    async def finish(self, sandboxed: SandboxedProgram, tag: str) -> ExitStatus:
        """Waits for a program's end, keeping it within its memory meanwhile, and says how it ended."""
        verdict: ExitStatus | None = None

        def on_excess(used: int) -> None:
            nonlocal verdict
            limit = f"{used} bytes in use, the limit is {guarded.limit}"
            verdict = ExitStatus("memory", signal=signal.SIGKILL, detail=limit)
            sandboxed.kill()

        assert sandboxed.pid is not None
        assert sandboxed.init_pid is not None
        guarded = Guarded(sandboxed.pid, sandboxed.init_pid, memory_limit(self._policy), on_excess)
        self._guard.add(guarded)
        try:
            code = await sandboxed.ended()
        finally:
            self._guard.remove(guarded)
            self._programs.discard(sandboxed)
            if self._proxy is not None:
                await self._proxy.forget(tag)
            sandboxed.close()
        if verdict is not None:
            return verdict
        return ExitStatus("signalled", signal=signal.SIGKILL) if code is None else ExitStatus.from_returncode(code)

    def confined(self, program: Program) -> Program:
        """The program with what the policy says, whatever was asked for."""
        limits = self._policy.limits
        network = self._policy.network
        return replace(
            program,
            env={**program.env, **(_PROXY_ENVIRONMENT if self._proxy is not None else {})},
            private=[_private(path, self._plan.view.home, limits) for path in self._plan.view.private],
            processes=limits.processes,
            open_files=limits.open_files,
            cpu_time=limits.cpu_time,
            file_size=limits.file_size,
            data=memory_limit(self._policy) + _DATA_HEADROOM,
            unix_sockets=network.allow_all_unix_sockets or bool(network.allow_unix_sockets),
            proxy=self._proxy is not None,
        )

    async def close(self) -> None:
        """Ends all programs and takes the walls down."""
        await self._guard.close()
        if self._wall is not None:
            await self._wall.close()
        for program in list(self._programs):
            program.close()
        if self._proxy is not None:
            await self._proxy.close()
        for path in self._placeholders:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()

    async def _build(self) -> Wall:
        """The best wall that stands up to a trial."""
        reasons = []
        for wall in (NestedWall(self._plan), SeparateWalls(self._plan)):
            try:
                await wall.open()
                await self._try(wall)
                return wall
            except ProgramStartError as error:
                reasons.append(f"{wall.name}: {error}")
                log.info("not possible here: %s", reasons[-1])
                await wall.close()
        raise diagnosis.unavailable(reasons)

    async def _try(self, wall: Wall) -> None:
        """Runs nothing in a sandbox of its own, with every step that a real program takes."""
        trial = replace(self.confined(Program(argv=(), env={}, cwd="/")), proxy=False)
        sandboxed = SandboxedProgram(await wall.launch(trial, []))
        try:
            async with asyncio.timeout(20):
                await sandboxed.started()
                await sandboxed.ended()
        except TimeoutError:
            raise ProgramStartError("a trial did not end") from None
        finally:
            sandboxed.kill()
            sandboxed.close()

    def _make_placeholders(self) -> None:
        for name in self._plan.view.placeholders:
            path = Path(name)
            if not os.path.lexists(path):
                path.touch(mode=0o600)
                self._placeholders.append(path)

    async def _on_event(self, event: EgressEvent) -> None:
        if self.on_egress is not None:
            await self.on_egress(event)


def memory_limit(policy: SandboxPolicy) -> int:
    """Bytes that one program may use with all that it starts."""
    if policy.limits.memory is not None:
        return policy.limits.memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _private(path: str, home: str, limits: Limits) -> tuple[str, int, int]:
    """Path, size and permissions of a private directory."""
    size = limits.shared_memory if path == "/dev/shm" else limits.scratch
    return path, size, 0o700 if path == home else 0o1777


class Service:
    """Answers a client's requests, one packet each. See ``supervision``."""

    def __init__(self, supervisor: Supervisor, control: socket.socket) -> None:
        self._supervisor = supervisor
        self._control = control
        self._programs: dict[int, SandboxedProgram] = {}
        self._doomed: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: dict[int, asyncio.Event] = {}
        self._events = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        supervisor.on_egress = self._tell_egress
        self._loop.add_reader(control.fileno(), self._read)

    def stop_client(self) -> None:
        """Asks the client to end."""
        self._send(op="stop", id=0)

    def close(self) -> None:
        """Listens no more."""
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for task in self._tasks:
            task.cancel()

    def _read(self) -> None:
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self._control, PACKET, MAX_FDS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._loop.remove_reader(self._control.fileno())  # its end is noticed elsewhere
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            self._take(json.loads(packet), fds)

    def _take(self, packet: dict[str, Any], fds: list[int]) -> None:
        number = packet["id"]
        match packet["op"]:
            case "start":
                task = self._loop.create_task(self._run(number, str(packet["tag"]), fds))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "signal" if number in self._programs:
                self._programs[number].signal(int(packet["signal"]))
            case "kill":
                if number in self._programs:
                    self._programs[number].kill()
                else:
                    self._doomed.add(number)
            case "heard" if number in self._heard:
                self._heard[number].set()

    async def _run(self, number: int, tag: str, fds: list[int]) -> None:
        try:
            with os.fdopen(fds.pop(0), encoding="utf-8") as file:
                file.seek(0)
                program = Program.from_json(file.read())
            try:
                sandboxed = await self._supervisor.start(program, fds, tag)
            finally:
                for fd in fds:
                    os.close(fd)
        except Exception as error:
            if not isinstance(error, ProgramStartError):
                log.exception("program %s could not be started", tag)
            self._send(op="failed", id=number, reason=str(error))
            return
        self._programs[number] = sandboxed
        self._send(op="started", id=number, pid=sandboxed.pid)
        if number in self._doomed:
            sandboxed.kill()
        status = await self._supervisor.finish(sandboxed, tag)
        self._programs.pop(number, None)
        self._doomed.discard(number)
        self._send(op="ended", id=number, status=status.to_dict())

    async def _tell_egress(self, event: EgressEvent) -> None:
        number = next(self._events)
        heard = self._heard[number] = asyncio.Event()
        try:
            self._send(
                op="egress",
                id=number,
                tag=event.tag,
                host=event.host,
                port=event.port,
                allowed=event.allowed,
                reason=event.reason,
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEARD_SECONDS):
                    await heard.wait()
        finally:
            del self._heard[number]

    def _send(self, **packet: Any) -> None:
        try:
            self._control.send(json.dumps(packet).encode())
        except BlockingIOError:
            self._loop.call_later(0.01, lambda: self._send(**packet))
        except OSError:
            pass  # the client is gone, and we are about to follow


async def supervise(settings: SupervisorSettings, ready_fd: int) -> int:
    """Runs the client and its programs until the client ends; returns its exit code."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, told.set)
    if settings.packages_dir is not None:
        await install_packages(settings, settings.packages_dir)
    plan, client_plan = plans(settings, settings.policy)
    for note in plan.view.notes:
        log.info("%s", note)
    control = socket.socket(fileno=settings.control_fd)
    client = WallProcess(
        client_plan,
        settings.client_argv,
        settings.client_fds,
        name="gateway",
        env=settings.client_env,
        stderr=2,
    )
    for fd in settings.client_fds:
        os.close(fd)
    try:
        async with Supervisor(settings.policy, plan, learn=settings.learn) as supervisor:
            service = Service(supervisor, control)
            _announce(ready_fd, walls=supervisor.tier)
            os.close(ready_fd)
            ended = asyncio.ensure_future(client.ended())
            stop = asyncio.ensure_future(told.wait())
            await asyncio.wait([ended, stop], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                service.stop_client()
                await ended  # if that takes too long, whoever told us ends all of us
            stop.cancel()
            service.close()
            return ended.result()
    finally:
        await client.kill()


async def install_packages(settings: SupervisorSettings, prefix: str) -> None:
    """Installs what the policy names, in a sandbox that is gone when this returns.

    Raises:
        ProgramStartError: It failed; nothing else was started.
    """
    wanted = settings.policy.packages
    policy = packages.install_policy(settings.policy, prefix, await packages.index_hosts(wanted))
    os.makedirs(prefix, exist_ok=True)
    plan, _ = plans(settings, policy)
    async with Supervisor(policy, plan) as supervisor:
        read, write = os.pipe()
        try:
            program = packages.installation(wanted, settings.python, prefix, settings.certificates)
            sandboxed = await supervisor.start(program, [write, write], "packages")
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        lines, status = await asyncio.gather(packages.last_lines(read), supervisor.finish(sandboxed, "packages"))
        if status.code != 0:
            raise packages.failure(wanted, str(status), lines)


def plans(settings: SupervisorSettings, policy: SandboxPolicy) -> tuple[WallPlan, WallPlan]:
    """How to build the wall for programs and that for the client."""
    uid = staging.sandbox_uid() if os.geteuid() == 0 else None
    # What is installed may be read by everybody, once it is installed.
    installs = settings.packages_dir in policy.filesystem.allow_write
    extra = [settings.packages_dir] if settings.packages_dir is not None and not installs else []
    facts = HostFacts(
        home=settings.home,
        working_dir=settings.working_dir,
        python_paths=settings.python_paths,
        config_file=settings.config_file,
        extra_read=(*settings.certificates.values(), *extra),
        uid=os.getuid() if uid is None else uid,
        gid=os.getgid() if uid is None else uid,
    )
    if uid is not None:
        os.chown(settings.run_dir, uid, uid)
    plan = WallPlan(
        bubblewrap=bubblewrap.find(),
        view=kernel_view(policy, facts),
        uid=uid,
        python=settings.python,
        package_parent=settings.package_parent,
    )
    return plan, replace(plan, view=gateway_view(facts, settings.run_dir))


def _announce(fd: int, **facts: Any) -> None:
    with suppress(OSError):
        os.write(fd, json.dumps(facts).encode() + b"\n")


def main(arguments: Sequence[str]) -> int:
    """``FD``: reads the settings from it and supervises."""
    with os.fdopen(int(arguments[0]), encoding="utf-8") as file:
        settings = SupervisorSettings.from_json(file.read())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    ready_fd = os.dup(settings.ready_fd)  # the client's copy is closed once it has it
    try:
        return asyncio.run(supervise(settings, ready_fd))
    except PolicyError as error:
        _announce(ready_fd, policy=[error.where, error.reason, error.hint])
    except ProgramStartError as error:
        _announce(ready_fd, failed=error.reason)
    except SandboxUnavailableError as error:
        _announce(ready_fd, unavailable=[error.reason, list(error.remedies)])
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
