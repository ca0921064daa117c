"""However a command is given up, and whenever: nothing of it is left, and nothing of it happens afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from ipybox.command.cancellation import Cancellation
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.sandbox import Sandbox
from ipybox.errors import PolicyError, ProgramStartError, SandboxUnavailableError
from ipybox.sandbox.placeholder_keeper import MOST
from tests.command.drivers import Sleeper, Subject, parameters
from tests.processes import adopting, below, facts

running = pytest.mark.parametrize("subject", parameters(running=True))
pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]

LONG = 60.0


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    return ExecutionPolicy.in_dir(tmp_path).with_timeout(LONG)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository in which some names have to be guarded that are not there."""
    root = tmp_path / "work"
    for name in ("objects", "refs"):
        (root / ".git" / name).mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return root


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


async def test_who_is_cancelled_while_leaving_leaves_nothing(policy: ExecutionPolicy, repository: Path) -> None:
    before, open_before = tree(repository), descriptors()
    left = asyncio.Event()

    async def work() -> None:
        async with Sandbox.bubblewrap(policy.with_writable_paths(repository)) as sandbox:
            await sandbox.execute(["true"])
            left.set()

    for cancellations in (1, 3):
        left.clear()
        task = asyncio.create_task(work())
        await left.wait()
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tree(repository) == before
        assert descriptors() == open_before


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_who_is_cancelled_at_any_step_leaves_nothing(
    steps: int, policy: ExecutionPolicy, repository: Path
) -> None:
    before, open_before = tree(repository), descriptors()
    sleeper = Sleeper()
    sandbox = Sandbox.bubblewrap(policy.with_writable_paths(repository))
    task = asyncio.create_task(sandbox.execute(["sleep", sleeper.seconds]))
    for _ in range(steps):
        await asyncio.sleep(0.001)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sleeper.is_alive
    assert tree(repository) == before
    assert descriptors() == open_before


async def test_what_is_starting_when_a_sandbox_is_left_does_not_run(policy: ExecutionPolicy) -> None:
    sleeper = Sleeper()
    for steps in range(8):
        async with Sandbox.bubblewrap(policy) as sandbox:
            tasks = [asyncio.create_task(sandbox.execute(["sleep", sleeper.seconds])) for _ in range(3)]
            await asyncio.sleep(0)  # they have begun
            for _ in range(steps):
                await asyncio.sleep(0.0005)
        assert not sleeper.is_alive
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                assert isinstance(result, ProgramStartError)
            else:
                assert result.exit_code == 137
        assert not sleeper.is_alive


async def test_a_start_that_is_cancelled_does_nothing_afterwards(policy: ExecutionPolicy, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    trace = tmp_path / "work" / "trace"
    line = 'while :; do echo x >> "$1"; done'
    async with Sandbox.bubblewrap(policy.with_writable_paths(trace.parent)) as sandbox:
        for step in range(20):
            task = asyncio.create_task(sandbox.execute(["sh", "-c", line, "sh", trace]))
            await asyncio.sleep(0.0005 * step)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            size = trace.stat().st_size if trace.exists() else -1
            await sandbox.execute(["true"])  # time enough for somebody who is still there
            assert (trace.stat().st_size if trace.exists() else -1) == size


@running
async def test_who_is_cancelled_when_it_has_just_begun_leaves_nothing(
    subject: Subject, policy: ExecutionPolicy
) -> None:
    sleeper, up = Sleeper(), asyncio.Event()
    async with subject.open(policy) as sandbox:
        start = sandbox._start

        async def starts(*arguments: object) -> object:
            started = await start(*arguments)
            up.set()  # and whoever waits for it has not been woken yet
            return started

        sandbox._start = starts
        task = asyncio.create_task(sandbox.execute(["sleep", sleeper.seconds], cancellation=Cancellation()))
        await up.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sleeper.is_alive


@running
async def test_what_is_cancelled_before_never_runs(subject: Subject, policy: ExecutionPolicy, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    cancellation = Cancellation()
    cancellation.cancel()
    async with subject.open(policy.with_writable_paths(tmp_path / "work")) as sandbox:
        result = await sandbox.execute(["touch", tmp_path / "work" / "trace"], cancellation=cancellation)
    assert (result.exit_code, result.stop_reason, result.success) == (143, "cancelled", False)
    assert list((tmp_path / "work").iterdir()) == []


@running
async def test_a_listener_that_never_returns_is_given_up_on_request(subject: Subject, policy: ExecutionPolicy) -> None:
    cancellation, heard = Cancellation(), asyncio.Event()

    async def never(stream: str, text: str) -> None:
        heard.set()
        await asyncio.Event().wait()

    async with subject.open(policy.with_timeout(1)) as sandbox:
        task = asyncio.create_task(sandbox.execute(["echo", "a"], None, never, cancellation=cancellation))
        await heard.wait()
        cancellation.cancel()
        async with asyncio.timeout(LONG):
            assert (await task).stdout == "a\n"


@running
async def test_input_of_nothing_without_end_does_not_stop_the_clock(subject: Subject, policy: ExecutionPolicy) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        while True:
            yield b""

    async with subject.open(policy.with_timeout(0.5)) as sandbox:
        assert (await sandbox.execute(["cat"], nothing())).stop_reason == "wall"


async def test_names_that_code_makes_to_be_guarded_do_not_use_up_descriptors(
    policy: ExecutionPolicy, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    line = (
        'cd "$1"; i=0; while [ $i -lt 300 ]; do mkdir -p g$i/.git/objects g$i/.git/refs; '
        "echo 'ref: refs/heads/m' > g$i/.git/HEAD; i=$((i+1)); done"
    )
    async with Sandbox.bubblewrap(policy.with_writable_paths(work)) as sandbox:
        assert (await sandbox.execute(["sh", "-c", line, "sh", work])).success
        for _ in range(3):
            with pytest.raises(ProgramStartError, match=f"more than {MOST} names"):
                await sandbox.execute(["true"])
        assert len(descriptors()) < 100


CROWDED = """
import asyncio, os, resource, sys
from ipybox import ExecutionPolicy, ProgramStartError, Sandbox, SandboxUnavailableError
async def main():
    sandbox = Sandbox.from_policy(ExecutionPolicy.default()).using(sys.argv[1], waive="isolation")
    for limit in range(8, 40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
        try:
            result = await sandbox.execute(["echo", "hi"])
        except (ProgramStartError, SandboxUnavailableError):
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        assert (result.exit_code, result.stdout) == (0, "hi\\n"), (limit, result)
asyncio.run(main())
"""


@pytest.mark.parametrize("driver", ["host", "bubblewrap"])
async def test_a_lack_of_descriptors_is_our_error_and_not_the_commands(driver: str) -> None:
    done = subprocess.run([sys.executable, "-c", CROWDED, driver], capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stderr) == (0, "")


async def test_processor_time_beyond_what_we_have_is_what_we_have(policy: ExecutionPolicy) -> None:
    code = (
        "import asyncio, resource\n"
        "from ipybox import ExecutionPolicy, Sandbox\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (30, 30))\n"
        "policy = ExecutionPolicy.default().with_cpu_time(600)\n"
        "result = asyncio.run(Sandbox.host(policy, waive='isolation').execute(['sh', '-c', 'ulimit -Ht']))\n"
        "print(result.stdout, result.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG)
    assert done.stderr == ""
    assert int(done.stdout) == 30
    assert resource.getrlimit(resource.RLIMIT_CPU)[1] != 30


async def test_what_may_be_read_only_stays_so_in_what_may_be_written(policy: ExecutionPolicy, tmp_path: Path) -> None:
    work, fixed = tmp_path / "work", tmp_path / "work" / "fixed"
    fixed.mkdir(parents=True)
    (fixed / "file").write_text("before")
    line = 'echo no > "$1/file"; rm -rf "$1"; mv "$1" "$1.old"; echo yes > "$2/file"'
    async with Sandbox.bubblewrap(policy.with_writable_paths(work).with_readable_paths(fixed)) as sandbox:
        await sandbox.execute(["sh", "-c", line, "sh", fixed, work])
    assert (fixed / "file").read_text() == "before"
    assert (work / "file").read_text() == "yes\n"


async def test_a_bubblewrap_that_commands_could_replace_is_not_run(
    policy: ExecutionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    planted = work / "bwrap"
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    granted = policy.with_writable_paths(work)
    with pytest.raises(SandboxUnavailableError, match="may write"):
        Sandbox.bubblewrap(granted, binary=planted)
    monkeypatch.setenv("BWRAP_BIN", str(planted))
    with pytest.raises(SandboxUnavailableError, match="may write"):
        Sandbox.bubblewrap(granted)


async def test_the_way_out_can_not_be_set_by_name(policy: ExecutionPolicy) -> None:
    with pytest.raises(PolicyError, match="HTTP_PROXY"):
        Sandbox.bubblewrap(policy.with_network(True).with_env({"HTTP_PROXY": "http://elsewhere"}))


async def test_a_bubblewrap_that_is_given_up_while_it_begins_leaves_no_process(policy: ExecutionPolicy) -> None:
    sandbox = Sandbox.bubblewrap(policy)
    before = below()
    with adopting():
        for step in range(30):
            task = asyncio.create_task(sandbox.execute(["sleep", "60"]))
            await asyncio.sleep(0.001 * step)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        found = facts(below() - before)
    assert [each for each in found if each["name"] == "bwrap" and each["status"] != psutil.STATUS_ZOMBIE] == []
