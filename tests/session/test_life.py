"""From creation to the end: templates, expiry, kill, what is left, and who else can see it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from ipybox.errors import (
    PolicyError,
    ProgramStartError,
    SandboxEndedError,
    SandboxExpiredError,
    SandboxUnavailableError,
    UnknownTemplateError,
)
from ipybox.sandbox import supervisor
from ipybox.sandbox.wall import SeparateWalls
from ipybox.session import AsyncSandbox, settings
from ipybox.session.settings import SandboxSettings
from tests.kernels.helpers import HANG, eventually
from tests.processes import below

pytestmark = [pytest.mark.asyncio]
sandboxed = pytest.mark.sandbox


def descriptors() -> set[str]:
    return {f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if _is_open(fd)}


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# ---- creation ---------------------------------------------------------------------------------------------------


async def test_an_unknown_template_is_an_error_that_lists_them() -> None:
    with pytest.raises(UnknownTemplateError) as caught:
        AsyncSandbox.create("nonsense")
    assert caught.value.templates == ("code-interpreter", "python")


async def test_settings_are_checked_before_anything_starts() -> None:
    for wrong in (
        {"timeout_seconds": 0},
        {"env_vars": {"A=": "b"}},
        {"memory": 5},
        {"disk": 5},
        {"processes": 1},
        {"network": "example.org"},
        {"readable_paths": "/usr"},
    ):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            SandboxSettings(**wrong)


async def test_settings_show_no_environment() -> None:
    assert "secret" not in repr(SandboxSettings(env_vars={"A": "secret"}))


async def test_elsewhere_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailableError, match="need Linux"):
        settings.refuse_elsewhere()


async def test_without_bubblewrap_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BWRAP_BIN", "/nowhere/bwrap")
    with pytest.raises(SandboxUnavailableError, match="BWRAP_BIN"):
        await AsyncSandbox.create()


async def test_the_workspace_itself_can_not_be_a_place_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: True)
    with pytest.raises(PolicyError, match="private to each sandbox"):
        await AsyncSandbox.create(readable_paths=["/workspace/x"])


@sandboxed
async def test_a_sandbox_can_be_awaited_as_well_as_entered() -> None:
    sandbox = await AsyncSandbox.create("python", api_key="unused")
    try:
        assert sandbox.is_running
        assert sandbox.settings.template == "python"
        assert (await sandbox.run_code("1 + 1")).result == "2"
    finally:
        await sandbox.kill()


@sandboxed
async def test_each_begins_clean_and_sees_nothing_of_another_one() -> None:
    async with AsyncSandbox.create() as one, AsyncSandbox.create() as other:
        await one.run_code("x = 1; open('/workspace/file', 'w').write('one'); open('/tmp/file', 'w').close()")
        await one.commands.run("sleep 4321 & echo here > ~/file")
        assert not (await other.run_code("x")).success
        seen = await other.commands.run("ls /workspace /tmp ~; pgrep -a sleep; ipcs -m | wc -l")
        assert "file" not in seen.stdout
        assert "4321" not in seen.stdout
        await one.kill()
        assert (await other.run_code("1")).success


@sandboxed
async def test_there_is_no_network_unless_it_is_asked_for(sandbox: AsyncSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        done = await sandbox.run_code(code)
    assert done.error is not None
    assert done.error.startswith("ConnectionRefusedError")
    assert (await sandbox.run_code("import socket; [name for _, name in socket.if_nameindex()]")).result == "['lo']"


@sandboxed
async def test_it_is_the_same_where_each_needs_a_bubblewrap_of_its_own(
    monkeypatch: pytest.MonkeyPatch, others: set[psutil.Process]
) -> None:
    monkeypatch.setattr(supervisor, "NestedWall", SeparateWalls)
    async with AsyncSandbox.create(disk=2_000_000) as one, AsyncSandbox.create(disk=2_000_000) as other:
        assert (await one.run_code("import os; os.getcwd(), __name__")).result == "('/workspace', '__main__')"
        await one.files.write("a", "one")
        assert not await other.files.exists("a")
        assert (await one.commands.run("cat a; python -c 'import pytest'")).stdout == "one"
        assert not (await one.run_code("open('big', 'wb').write(bytes(3_000_000))")).success
        assert (await one.run_code("while True: pass", timeout=0.3)).timed_out
        with pytest.raises(SandboxEndedError, match="its agent ended"):
            await one.run_code("import os; os.kill(os.getppid(), 9)")
        assert (await other.run_code("1 + 1")).result == "2"
    assert await eventually(lambda: not below() - others, HANG)


# ---- the end ----------------------------------------------------------------------------------------------------


@sandboxed
async def test_after_its_kill_every_call_says_so_and_a_kill_is_no_error() -> None:
    sandbox = await AsyncSandbox.create()
    await sandbox.kill()
    await sandbox.kill()
    assert not sandbox.is_running
    for call in (sandbox.run_code("1"), sandbox.commands.run("true"), sandbox.files.list()):
        with pytest.raises(SandboxEndedError, match="it was killed"):
            await call


@sandboxed
async def test_a_kill_ends_the_calls_that_wait() -> None:
    async with AsyncSandbox.create() as sandbox:
        calls = [
            asyncio.create_task(sandbox.run_code("open('begun', 'w').close()\nwhile True: pass")),
            asyncio.create_task(sandbox.commands.run("sleep 1000")),
        ]
        while not await sandbox.files.exists("begun"):
            pass
        await sandbox.kill()
        for call in calls:
            with pytest.raises(SandboxEndedError, match="it was killed"):
                await call


@sandboxed
async def test_a_sandbox_whose_time_is_over_is_ended_and_says_so(others: set[psutil.Process]) -> None:
    async with AsyncSandbox.create(timeout_seconds=0.5) as sandbox:
        with pytest.raises(SandboxExpiredError) as caught:
            await sandbox.run_code("import time; time.sleep(1000)")
        assert caught.value.timeout_seconds == 0.5
        for call in (sandbox.run_code("1"), sandbox.commands.run("true"), sandbox.files.list()):
            with pytest.raises(SandboxExpiredError):
                await call
        assert not sandbox.is_running
        assert await eventually(lambda: not below() - others, HANG)


@sandboxed
async def test_twenty_sandboxes_leave_no_process_no_descriptor_and_no_file(others: set[psutil.Process]) -> None:
    async with AsyncSandbox.create() as sandbox:  # what is made once
        await sandbox.run_code("1")
    gc.collect()
    files = set(Path("/tmp").iterdir())
    before = descriptors()

    async def one(number: int) -> None:
        async with AsyncSandbox.create() as sandbox:
            done = await sandbox.run_code(f"open('/tmp/left-{number}', 'w').close(); {number}")
            assert done.result == str(number)
            await sandbox.commands.run("sleep 1000 &")

    for group in range(4):
        await asyncio.gather(*(one(group * 5 + number) for number in range(5)))
    assert await eventually(lambda: not below() - others, HANG)
    assert descriptors() == before
    assert not [path for path in set(Path("/tmp").iterdir()) - files if "left-" in path.name]


@sandboxed
async def test_whoever_is_cancelled_while_creating_leaves_nothing(others: set[psutil.Process]) -> None:
    for steps in range(0, 40, 3):
        creating = asyncio.ensure_future(AsyncSandbox.create().__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert await eventually(lambda: not below() - others, HANG)


def run_and_forget(code: str) -> None:
    async def forget() -> None:
        sandbox = await AsyncSandbox.create()
        if code:
            await sandbox.run_code(code)

    asyncio.run(forget())


@sandboxed
@pytest.mark.parametrize("code", ["", "1"], ids=["unused", "used"])
async def test_a_forgotten_sandbox_ends_with_its_event_loop(code: str, others: set[psutil.Process]) -> None:
    before = descriptors()
    await asyncio.to_thread(run_and_forget, code)
    assert await eventually(lambda: not below() - others, HANG)
    gc.collect()
    assert len(descriptors()) <= len(before) + 1


# ---- behind the walls -------------------------------------------------------------------------------------------


@sandboxed
async def test_code_that_ends_the_agent_ends_its_sandbox_with_a_clear_error(sandbox: AsyncSandbox) -> None:
    with pytest.raises(SandboxEndedError, match="its agent ended"):
        await sandbox.run_code("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    with pytest.raises(SandboxEndedError):
        await sandbox.run_code("1")


@sandboxed
async def test_code_that_stops_the_agent_does_not_keep_anybody_for_ever() -> None:
    async with AsyncSandbox.create(timeout_seconds=1) as sandbox:
        with pytest.raises(SandboxExpiredError):
            await sandbox.run_code("import os, signal; os.kill(os.getppid(), signal.SIGSTOP)")


@sandboxed
async def test_nothing_inherits_the_agents_descriptors_or_can_take_them(sandbox: AsyncSandbox) -> None:
    code = """
import ctypes, os
agent, found = os.getppid(), []
for fd in range(3, 64):
    for path in (f"/proc/{agent}/fd/{fd}", f"/proc/1/fd/{fd}"):
        try:
            os.open(path, os.O_RDWR | os.O_NONBLOCK)
            found.append(path)
        except OSError:
            pass
    pidfd = os.pidfd_open(agent)
    if ctypes.CDLL(None).syscall(438, pidfd, fd, 0) >= 0:  # pidfd_getfd
        found.append(fd)
    os.close(pidfd)
for path in (f"/proc/{agent}/mem", f"/proc/{agent}/environ"):
    try:
        open(path, "rb").read(1)
        found.append(path)
    except OSError:
        pass
if ctypes.CDLL(None).ptrace(16, agent, 0, 0) == 0:  # PTRACE_ATTACH
    found.append("ptrace")
found
"""
    assert (await sandbox.run_code(code)).result == "[]"
    mine = await sandbox.run_code(
        "import os; sorted(os.path.basename(os.readlink(f'/proc/self/fd/{fd}')).split(':')[0] "
        "for fd in os.listdir('/proc/self/fd') if int(fd) > 2 and os.path.exists(f'/proc/self/fd/{fd}'))"
    )
    assert mine.result == "['pipe', 'pipe']"
    shown = await sandbox.commands.run("ls -l /proc/self/fd | grep -c pipe")
    assert int(shown.stdout) <= 3  # its two outputs, and what comes from ls


@sandboxed
async def test_what_an_interpreter_says_falsely_is_its_own_affair(sandbox: AsyncSandbox) -> None:
    code = """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b"\\xff" * 64)
    except OSError:
        pass
"""
    done = await sandbox.run_code(code)
    assert (done.success, done.state_lost) == (False, True)
    assert (await sandbox.run_code("1 + 1")).result == "2"


@sandboxed
async def test_a_fork_bomb_stays_within_its_limit_and_its_time(others: set[psutil.Process]) -> None:
    async with AsyncSandbox.create(processes=64) as sandbox:
        bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.1)"
        done = await sandbox.run_code(bomb, timeout=1)
        assert done.timed_out
        assert (await sandbox.run_code("1 + 1")).result == "2"
        assert (await sandbox.commands.run(["python", "-c", bomb], timeout=1)).timed_out
        assert (await sandbox.commands.run("echo room again")).success
        await sandbox.commands.run("b() { b | b & }; b", timeout=1)
        assert await sandbox.files.list() == []
    assert await eventually(lambda: not below() - others, HANG)


@sandboxed
async def test_a_command_waits_a_moment_for_room_that_processes_are_about_to_leave() -> None:
    crowd = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing is left of those that end
try:
    while True:
        if os.fork() == 0:
            os.setsid()
            while not os.path.exists("go"):
                time.sleep(0.01)
            os._exit(0)
except BlockingIOError:
    pass
"""
    async with AsyncSandbox.create(processes=32) as sandbox:
        await sandbox.run_code(crowd)
        with pytest.raises(ProgramStartError, match="temporarily unavailable"):
            await sandbox.commands.run("true")
        waiting = asyncio.ensure_future(sandbox.commands.run("echo room"))
        await asyncio.sleep(0)  # it is asked for
        await sandbox.files.write("go", b"")
        assert (await waiting).stdout == "room\n"


@sandboxed
async def test_no_socket_of_the_hosts_network_is_inside(sandbox: AsyncSandbox) -> None:
    code = """
import os
[target for pid in os.listdir('/proc') if pid.isdigit()
 for fd in (os.listdir(f'/proc/{pid}/fd') if os.access(f'/proc/{pid}/fd', os.R_OK) else [])
 if (target := os.path.realpath(f'/proc/{pid}/fd/{fd}')).startswith('socket')]
"""
    assert (await sandbox.run_code(code)).result == "[]"


@sandboxed
async def test_allowed_hosts_are_reached_through_the_proxy() -> None:
    async with AsyncSandbox.create(network=["example.invalid"]) as sandbox:
        assert (await sandbox.commands.run("echo $HTTP_PROXY")).stdout == "http://127.0.0.1:3128\n"
    async with AsyncSandbox.create(internet_access=True) as sandbox:
        assert (await sandbox.run_code("import os; os.environ['https_proxy']")).success
