"""A supervisor picks the walls, keeps its programs within the policy, and answers a client in another process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipybox.errors import ProgramStartError, SandboxUnavailableError
from ipybox.exit_status import ExitStatus
from ipybox.sandbox.launcher import MAX_FDS, Program
from ipybox.sandbox.policy import MIB, FilesystemPolicy, Limits, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.service import Service
from ipybox.sandbox.supervision import RemoteProgram, SupervisorLink
from ipybox.sandbox.supervisor import Supervisor, memory_limit
from ipybox.sandbox.view import Mount
from ipybox.sandbox.wall import WallPlan
from tests.kernels.helpers import eventually
from tests.sandbox.walls import HANG, WALLS, OneKind, line_of, plan_for, programs, text_of

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]

KINDS = pytest.mark.parametrize("kind", list(WALLS))
HOARD = """
import time
hoard = b'x' * {0}
print('up', flush=True)
time.sleep(999)
"""


# ---- the walls --------------------------------------------------------------------------------------------------


async def test_the_best_wall_is_taken(tmp_path: Path) -> None:
    supervisor = Supervisor(SandboxPolicy(), plan_for(SandboxPolicy(), tmp_path))
    assert supervisor.tier == "none"
    async with supervisor:
        assert supervisor.tier == "nested user namespaces"


async def test_without_any_wall_nothing_starts_and_each_attempt_is_told(tmp_path: Path) -> None:
    plan = plan_for(SandboxPolicy(), tmp_path)
    broken = replace(plan, bubblewrap=replace(plan.bubblewrap, path="/bin/false"))
    with pytest.raises(SandboxUnavailableError, match=r"nested user namespaces.*one bubblewrap per kernel"):
        async with asyncio.timeout(HANG), Supervisor(SandboxPolicy(), broken):
            pass


async def test_a_step_that_fails_is_found_before_any_program_runs(tmp_path: Path) -> None:
    """The trial takes every step: here one that bubblewrap gets through, and the program's pid 1 does not."""
    policy = SandboxPolicy()
    plan = plan_for(policy, tmp_path)
    broken = replace(plan, view=replace(plan.view, protected_links=("/no/such/link",)))
    with pytest.raises(SandboxUnavailableError, match="/no/such/link"):
        async with asyncio.timeout(HANG), Supervisor(policy, broken):
            pass


async def test_what_holds_a_place_is_gone_afterwards(tmp_path: Path) -> None:
    policy = SandboxPolicy(filesystem=FilesystemPolicy(deny_write=("later",)))
    plan = plan_for(policy, tmp_path)
    if not plan.view.placeholders:
        plan = replace(plan, view=replace(plan.view, placeholders=(str(tmp_path / "later"),)))
    (tmp_path / "there").write_text("mine")
    plan = replace(plan, view=replace(plan.view, placeholders=(*plan.view.placeholders, str(tmp_path / "there"))))
    async with Supervisor(policy, plan):
        assert (tmp_path / "later").stat().st_size == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
    assert (tmp_path / "there").read_text() == "mine"


async def test_what_was_made_and_others_trust_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with programs(tmp_path) as running:
        assert (
            await running.shell("mkdir -p sub/.vscode && echo {} > sub/.vscode/settings.json; echo x > ok")
        ).output == ""
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"{tmp_path}/sub/.vscode" in record.getMessage()


# ---- limits -----------------------------------------------------------------------------------------------------


def limited(mebibytes: int) -> SandboxPolicy:
    return SandboxPolicy(limits=Limits(memory=mebibytes * MIB))


@KINDS
async def test_memory_over_the_limit_is_the_verdict(tmp_path: Path, kind: str) -> None:
    async with programs(tmp_path, limited(64), kind) as running:
        async with asyncio.timeout(HANG):
            status = (await running.python(HOARD.format(200 * MIB))).status
    assert (status.reason, status.signal) == ("memory", signal.SIGKILL)
    assert str(64 * MIB) in status.detail


@KINDS
async def test_memory_of_children_counts_too(tmp_path: Path, kind: str) -> None:
    code = f"""
import os, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        hoard = b'x' * {30 * MIB}
        time.sleep(999)
time.sleep(999)
"""
    async with programs(tmp_path, limited(80), kind) as running:
        async with asyncio.timeout(HANG):
            assert (await running.python(code)).status.reason == "memory"


async def test_an_allocation_far_above_the_limit_fails_in_the_program(tmp_path: Path) -> None:
    code = f"try: b'x' * {2048 * MIB}\nexcept MemoryError: print('refused')"
    async with programs(tmp_path, limited(64)) as running:
        ran = await running.python(code)
    assert (ran.output, ran.status.code) == ("refused\n", 0)


async def test_neighbours_of_a_glutton_live(tmp_path: Path) -> None:
    async with programs(tmp_path, limited(64)) as running:
        read, write = os.pipe()
        gate, opened = os.pipe()
        _, ended = await running.start(["/bin/sh", "-c", "echo up; read line; echo fine"], {0: gate, 1: write})
        os.close(write)
        assert await line_of(read) == "up\n"
        assert (await running.python(HOARD.format(200 * MIB))).status.reason == "memory"
        os.write(opened, b"\n")
        async with asyncio.timeout(HANG):
            assert (await ended).code == 0
        assert await text_of(read) == "fine\n"
        os.close(gate)
        os.close(opened)


async def test_a_limit_is_half_of_the_machine_s_memory_when_none_is_said() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit(Limits()) == whole // 2
    assert memory_limit(limited(77).limits) == 77 * MIB


async def test_a_program_can_not_choose_how_it_is_confined(tmp_path: Path) -> None:
    policy = SandboxPolicy(limits=Limits(processes=5, open_files=50, cpu_time=3, file_size=9))
    supervisor = Supervisor(policy, plan_for(policy, tmp_path))
    asked = Program(
        argv=["x"],
        env={"A": "1"},
        cwd="/",
        private=[("/usr", 1, 0o777)],
        pinned_links=["/x"],
        processes=10**6,
        open_files=10**6,
        data=None,
        unix_sockets=True,
        proxy=True,
    )
    got = supervisor.confined(asked)
    assert (got.processes, got.open_files, got.cpu_time, got.file_size) == (5, 50, 3, 9)
    assert (got.unix_sockets, got.proxy, got.env, got.pinned_links) == (False, False, {"A": "1"}, ())
    assert {path for path, _, _ in got.private} == set(plan_for(policy, tmp_path).view.private)
    assert got.data is not None
    await supervisor.close()


async def test_with_allowed_hosts_the_way_out_is_in_the_environment(tmp_path: Path) -> None:
    policy = SandboxPolicy(network=NetworkPolicy(allowed_domains=("example.org",)))
    async with programs(tmp_path, policy) as running:
        names = ("http_proxy", "HTTPS_PROXY", "no_proxy")
        ran = await running.shell("; ".join(f"echo ${name}" for name in names))
    assert ran.output.split("\n")[:3] == ["http://127.0.0.1:3128"] * 2 + ["localhost,127.0.0.1,::1"]


# ---- a client in another process --------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def link(tmp_path: Path) -> AsyncIterator[SupervisorLink]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    async with Supervisor(SandboxPolicy(), plan_for(SandboxPolicy(), tmp_path)) as supervisor:
        service = Service(supervisor, its)
        connected = SupervisorLink(ours.detach())
        yield connected
        connected.close()
        service.close()


def shell(script: str, *fds: int) -> Program:
    return Program(argv=["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, cwd="/", fds=fds)


async def test_a_client_gets_a_program_s_pid_output_and_end(link: SupervisorLink) -> None:
    read, write = os.pipe()
    async with asyncio.timeout(HANG):
        remote = await link.start(shell("echo out; read never <&-; sleep 0.2; exit 4", 1), [write], "tag")
        os.close(write)
        assert remote.pid > 0
        assert await text_of(read) == "out\n"
        assert await remote.ended() == ExitStatus("exited", code=4)
    remote.signal(signal.SIGTERM)
    remote.kill()


async def test_a_client_is_told_the_end_of_programs_that_end_at_once(link: SupervisorLink) -> None:
    for _ in range(15):
        async with asyncio.timeout(HANG):
            remote = await link.start(shell("exit 3"), [], "tag")
            assert (await remote.ended()).code == 3


async def test_a_client_signals_and_kills(link: SupervisorLink) -> None:
    ends: list[tuple[Callable[[RemoteProgram], None], ExitStatus]] = [
        (lambda remote: remote.signal(signal.SIGTERM), ExitStatus("signalled", signal=signal.SIGTERM)),
        (lambda remote: remote.kill(), ExitStatus("signalled", signal=signal.SIGKILL)),
        (lambda remote: remote.kill(ExitStatus("restarted")), ExitStatus("restarted")),
    ]
    for end, expected in ends:
        async with asyncio.timeout(HANG):
            remote = await link.start(shell("while :; do sleep 999; done"), [], "tag")
            end(remote)
            assert await remote.ended() == expected


async def test_a_client_is_told_why_a_program_did_not_start(link: SupervisorLink) -> None:
    async with asyncio.timeout(HANG):
        with pytest.raises(ProgramStartError, match="no-such-command"):
            await link.start(Program(argv=["no-such-command"], env={}, cwd="/"), [], "tag")
        with pytest.raises(ProgramStartError):
            await link.start(Program(argv=["/bin/true"], env={}, cwd="/", fds=[1, 2]), [0], "fewer than it says")
        with pytest.raises(ProgramStartError):
            numbers = list(range(10, 10 + MAX_FDS))
            await link.start(Program(argv=["/bin/true"], env={}, cwd="/", fds=numbers), [0] * MAX_FDS, "too many")
        remote = await link.start(shell("sleep 0.2; exit 2"), [], "tag")
        assert (await remote.ended()).code == 2


async def test_a_start_that_is_given_up_leaves_nothing(link: SupervisorLink) -> None:
    read, write = os.pipe()
    start = asyncio.ensure_future(link.start(shell("while :; do sleep 999; done", 1), [write], "tag"))
    await asyncio.sleep(0)
    os.close(write)
    start.cancel()
    async with asyncio.timeout(HANG):
        await asyncio.wait([start])
        assert start.cancelled()
        assert await text_of(read) == ""


async def test_a_supervisor_that_goes_away_is_told(tmp_path: Path) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = SupervisorLink(ours.detach())
    async with asyncio.timeout(HANG):
        async with Supervisor(SandboxPolicy(), plan_for(SandboxPolicy(), tmp_path)) as supervisor:
            service = Service(supervisor, its)
            remote = await link.start(shell("while :; do sleep 999; done"), [], "tag")
            service.close()
        status = await remote.ended()
        assert (status.reason, status.detail) == ("unknown", "the sandbox's supervisor is gone")
        with pytest.raises(ProgramStartError, match="supervisor is gone"):
            await link.start(shell("true"), [], "tag")
    link.close()


async def test_a_client_is_asked_to_stop(tmp_path: Path) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = SupervisorLink(ours.detach())
    told: list[bool] = []
    link.on_stop = lambda: told.append(True)
    supervisor = Supervisor(SandboxPolicy(), plan_for(SandboxPolicy(), tmp_path))
    service = Service(supervisor, its)
    service.stop_client()
    assert await eventually(lambda: told == [True])
    link.close()
    service.close()
    await supervisor.close()


# ---- what is one program's own ----------------------------------------------------------------------------------


def shared_place(tmp_path: Path) -> tuple[WallPlan, Path]:
    """A wall behind which there is a directory that programs are shown parts of."""
    place = tmp_path / "place"
    for name in ("mine", "tools", "other"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text(name)
    (place / "link").symlink_to("other")
    plan = plan_for(SandboxPolicy(filesystem=FilesystemPolicy(allow_write=())), tmp_path)
    mounts = (
        Mount("dir", "/run/mine", mode=0o755),
        Mount("dir", "/run/tools", mode=0o755),
        Mount("write", "/run/place", str(place)),
    )
    return replace(plan, view=replace(plan.view, mounts=(*plan.view.mounts, *mounts))), place


async def shown(kind: str, plan: WallPlan, script: str, **changes: Any) -> str:
    """What a script says that is shown parts of a place."""
    async with OneKind(kind, SandboxPolicy(filesystem=FilesystemPolicy(allow_write=())), plan) as supervisor:
        read, write = os.pipe()
        try:
            program = Program(argv=("/bin/sh", "-c", script), env={"PATH": "/usr/bin:/bin"}, cwd="/", fds=(1, 2))
            started = await supervisor.start(replace(program, **changes), [write, write], "own")
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        said, _ = await asyncio.gather(text_of(read), supervisor.finish(started, "own"))
        return said


@KINDS
async def test_a_program_sees_the_parts_that_it_is_shown_and_nothing_else(tmp_path: Path, kind: str) -> None:
    plan, place = shared_place(tmp_path)
    script = "cat /run/mine/file /run/tools/file; echo new > /run/mine/new; echo no > /run/tools/no; ls /run/place"
    binds = [("/run/place/mine", "/run/mine", True), ("/run/place/tools", "/run/tools", False)]
    said = await shown(kind, plan, script, binds=binds, hidden=["/run/place"])
    assert said.startswith("minetools")
    assert "Read-only file system" in said
    assert "Permission denied" in said
    assert "other" not in said
    assert (place / "mine" / "new").read_text() == "new\n"
    assert not (place / "tools" / "no").exists()


@KINDS
async def test_what_is_shown_is_not_found_by_way_of_links(tmp_path: Path, kind: str) -> None:
    plan, _ = shared_place(tmp_path)
    binds = [("/run/place/link", "/run/mine", True)]
    with pytest.raises((ProgramStartError, SandboxUnavailableError), match="link"):
        await shown(kind, plan, "cat /run/mine/file", binds=binds, hidden=["/run/place"])


@KINDS
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
async def test_processors_are_those_that_a_program_is_given_for_good(tmp_path: Path, kind: str) -> None:
    plan, _ = shared_place(tmp_path)
    number = max(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0), flush=True); os.sched_setaffinity(0, [0])"
    said = await shown(kind, plan, "", argv=(sys.executable, "-I", "-S", "-c", code), cpus=[number])
    assert said.startswith(f"{{{number}}}")
    assert "PermissionError" in said


@KINDS
async def test_limits_of_a_program_are_those_of_the_policy_at_most(tmp_path: Path, kind: str) -> None:
    policy = SandboxPolicy(limits=Limits(memory=300 * MIB, open_files=100, file_size=5 * MIB, scratch=8 * MIB))
    code = "import os, resource as r; print(*(r.getrlimit(n)[0] for n in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)), end=' ')"
    code += "; s = os.statvfs('/tmp'); print(s.f_blocks * s.f_frsize)"
    for own, expected in (
        (Limits(memory=200 * MIB, open_files=50, file_size=2 * MIB, scratch=4 * MIB), (50, 2 * MIB, 4 * MIB)),
        (Limits(memory=900 * MIB, open_files=900), (100, 5 * MIB, 8 * MIB)),
    ):
        async with programs(tmp_path, policy, kind) as running:
            read, write = os.pipe()
            program = Program(argv=(sys.executable, "-I", "-S", "-c", code), env={}, cwd="/", fds=(1,))
            started = await running.supervisor.start(program, [write], "own", own=SandboxPolicy(limits=own))
            os.close(write)
            assert started.memory == min(own.memory or 0, 300 * MIB)
            said, _ = await asyncio.gather(text_of(read), running.supervisor.finish(started, "own"))
            files, size, scratch = map(int, said.split())
            assert (files, size) == expected[:2]
            assert scratch == expected[2]


async def test_a_program_that_is_relieved_goes_on(tmp_path: Path) -> None:
    asked: list[int] = []

    def relieve(used: int) -> bool:
        asked.append(used)
        return len(asked) < 3

    async with programs(tmp_path, limited(64)) as running:
        read, write = os.pipe()
        argv = (sys.executable, "-I", "-S", "-c", HOARD.format(200 * MIB))
        program = Program(argv=argv, env={}, cwd="/", fds=(1,))
        started = await running.supervisor.start(program, [write], "own")
        os.close(write)
        async with asyncio.timeout(HANG):
            status = await running.supervisor.finish(started, "own", relieve)
        os.close(read)
    assert status.reason == "memory"
    assert len(asked) == 3
    assert min(asked) > 64 * MIB
