"""The supervisor's process: ``python -m ipybox.sandbox.supervisor_process FD``. Linux only. Floor: sandbox.

It builds the walls, starts the client behind one of its own, installs packages before that when the policy names
some, and ends when the client does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ipybox.errors import PolicyError, PreloadError, ProgramStartError, SandboxUnavailableError
from ipybox.process import warden
from ipybox.process.warm import Warmth
from ipybox.sandbox import bubblewrap, diagnosis, packages, staging
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.service import Service
from ipybox.sandbox.settings import SANDBOX_WARNING, SupervisorSettings
from ipybox.sandbox.supervisor import Supervisor
from ipybox.sandbox.unix_sockets import with_sockets
from ipybox.sandbox.view import HostFacts, View, gateway_view, kernel_view
from ipybox.sandbox.wall import WallPlan, WallProcess

log = logging.getLogger("ipybox.sandbox")


async def supervise(settings: SupervisorSettings, ready_fd: int) -> int:
    """Runs the client and its programs until the client ends; returns its exit code. Raises ``CancelledError`` when it
    is told to stop before they are up."""
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    told = asyncio.Event()
    is_up = False

    def stop_all() -> None:
        if not (is_up or told.is_set()):
            starting.cancel()  # whoever told us has no time for a start to its end, and what was made has to go
        told.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop_all)
    if settings.packages_dir is not None:
        await install_packages(settings, settings.packages_dir)
    plan, client_plan, look = plans(settings, settings.policy, settings.warmth)
    for note in plan.view.notes:
        # What somebody wrote into the policy and does not get is worth a look; the rest is for the log.
        log.log(logging.WARNING if note.startswith("filesystem.") else logging.INFO, "%s", note)
    control = socket.socket(fileno=settings.control_fd)
    client = WallProcess(
        client_plan,
        settings.client_argv,
        settings.client_fds,
        name="",
        env=settings.client_env,
    )
    for fd in settings.client_fds:
        os.close(fd)
    try:
        async with Supervisor(settings.policy, plan, refresh=look, learn=settings.learn) as supervisor:
            is_up = True
            service = Service(supervisor, control)
            if client.is_over and "bwrap: " in client.last_lines:
                raise diagnosis.unavailable([f"the gateway's wall: {client.last_lines}"])
            guard_client(supervisor, client)
            _announce(ready_fd, walls=supervisor.tier, cold=supervisor.cold)
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


def guard_client(supervisor: Supervisor, client: WallProcess) -> None:
    """The client reads what programs send; should they fill it up, it goes and not the machine."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

    def on_excess(used: int) -> None:
        log.warning("the gateway is ended: it uses %d bytes, the limit is %d", used, limit)
        client.terminate()

    for pid in warden.descendants(client.pid, warden.parents()):
        supervisor.guard(pid, limit, on_excess)


async def install_packages(settings: SupervisorSettings, prefix: str) -> None:
    """Installs what the policy names, in a sandbox that is gone when this returns.

    Raises:
        ProgramStartError: It failed; nothing else was started.
    """
    wanted = settings.policy.packages
    policy = packages.install_policy(
        settings.policy, prefix, await packages.index_hosts(wanted, settings.policy.network.parent_proxy, os.environ)
    )
    os.makedirs(prefix, exist_ok=True)
    plan, _, _ = plans(settings, policy)
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


def plans(
    settings: SupervisorSettings, policy: SandboxPolicy, warmth: Warmth | None = None
) -> tuple[WallPlan, WallPlan, Callable[[], View]]:
    """How to build the wall for programs and that for the client, and how to look again at what programs see."""
    uid = staging.sandbox_uid() if os.geteuid() == 0 else None  # None: we are somebody harmless already
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

    def look() -> View:
        view = kernel_view(policy, facts)
        return replace(view, mounts=tuple(with_sockets(view, policy.network, settings.home)))

    view = look()
    plan = WallPlan(
        bubblewrap=bubblewrap.find(outside=view.write_roots),
        view=view,
        uid=uid,
        python=settings.python,
        warmth=trusted(warmth, view.write_roots) if warmth is not None else None,
    )
    return plan, replace(plan, view=gateway_view(facts, settings.run_dir), warmth=None), look


def trusted(warmth: Warmth, write_roots: Sequence[str]) -> Warmth:
    """With the directories only that sandboxed code can't put a module into, for the launcher to import."""
    safe = [
        path
        for path in map(os.path.realpath, warmth.more_path)
        if not is_below(path, write_roots) and not any(is_below(root, [path]) for root in write_roots)
    ]
    return replace(warmth, more_path=tuple(safe))


def _announce(fd: int, **facts: Any) -> None:
    with suppress(OSError):
        os.write(fd, json.dumps(facts).encode() + b"\n")


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{SANDBOX_WARNING}{text}" if record.levelno >= logging.WARNING else text


def main(arguments: Sequence[str]) -> int:
    """``FD``: reads the settings from it and supervises."""
    with os.fdopen(int(arguments[0]), encoding="utf-8") as file:
        settings = SupervisorSettings.from_json(file.read())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.root.handlers[0].setFormatter(_Format())
    ready_fd = os.dup(settings.ready_fd)  # the client's copy is closed once it has it
    try:
        return asyncio.run(supervise(settings, ready_fd))
    except asyncio.CancelledError:
        pass  # it was told to stop before it was up
    except PreloadError as error:
        _announce(ready_fd, preload=[error.module, error.reason])
    except PolicyError as error:
        _announce(ready_fd, policy=[error.where, error.reason, error.hint])
    except ProgramStartError as error:
        _announce(ready_fd, failed=error.reason)
    except SandboxUnavailableError as error:
        _announce(ready_fd, unavailable=[error.reason, list(error.remedies)])
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
