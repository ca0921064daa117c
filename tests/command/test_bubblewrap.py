"""The bubblewrap driver: what becomes of a policy, which bwrap it uses, the way to hosts, and a wall that is kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from ipybox.command.bubblewrap import SCRATCH, BubblewrapDriver, sandbox_policy
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.sandbox import Sandbox
from ipybox.errors import PolicyError, ProgramStartError, SandboxUnavailableError
from ipybox.sandbox.policy import LOWEST
from tests.command.drivers import Sleeper
from tests.kernels.helpers import HANG, eventually, is_alive
from tests.sandboxed.servers import PAGE, counting_server, http_server

LONG = 60.0
MIB = 1024**2
BASE = ExecutionPolicy.in_dir("/tmp")
sandboxed = pytest.mark.sandbox


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    return ExecutionPolicy.in_dir(tmp_path).with_timeout(LONG)


def shell(line: str, *arguments: str | Path) -> list[str]:
    return ["sh", "-c", line, "sh", *map(str, arguments)]


def walls() -> list[psutil.Process]:
    """The bubblewraps that this process has started."""
    return [child for child in psutil.Process().children() if child.name() == "bwrap"]


# ---- the policy in the sandbox's terms --------------------------------------------------------------------------


def test_a_default_policy_lets_nothing_be_read_written_or_reached() -> None:
    found = sandbox_policy(BASE)
    assert found.network.allowed_domains == ()
    assert found.network.hosts == ()
    assert found.filesystem.allow_read == ()
    assert found.filesystem.allow_write == ()
    assert not found.network.allow_all_unix_sockets
    assert found.network.allow_unix_sockets == ()
    assert found.packages.install == ()


def test_paths_are_those_of_the_policy_and_no_rule_of_kernels_is_added() -> None:
    found = sandbox_policy(BASE.with_readable_paths("/srv/r").with_writable_paths("/srv/w")).filesystem
    assert (found.allow_read, found.allow_write) == (("/srv/r",), ("/srv/w",))
    assert (found.deny_read, found.deny_write) == ((), ())  # a `.env` in a path that was named is meant as well


def test_limits_are_those_of_the_policy() -> None:
    limits = sandbox_policy(BASE.with_memory("200M").with_cpu_time(7).with_processes(9)).limits
    assert (limits.memory, limits.cpu_time, limits.processes) == (200 * MIB, 7, 9)
    assert limits.scratch == limits.shared_memory == SCRATCH


def test_limits_that_the_policy_does_not_name_are_the_sandboxs_own() -> None:
    limits, defaults = sandbox_policy(BASE).limits, sandbox_policy(BASE.with_processes(512)).limits
    assert limits == defaults
    assert limits.memory == 128 * MIB
    assert limits.cpu_time is None


@pytest.mark.parametrize(
    ("network", "hosts"),
    [(False, ()), (True, ()), (("a.test", "*.b.test", "c.test:8443"), ("a.test", "*.b.test", "c.test:8443"))],
)
def test_hosts_are_those_of_the_policy(network: bool | tuple[str, ...], hosts: tuple[str, ...]) -> None:
    assert sandbox_policy(BASE.with_network(network)).network.allowed_domains == hosts


# ---- what is refused --------------------------------------------------------------------------------------------


@sandboxed
def test_memory_in_which_nothing_can_start_is_refused_by_name() -> None:
    least = LOWEST["memory"]
    assert BubblewrapDriver(BASE.with_memory(least)).policy.memory == least
    with pytest.raises(PolicyError, match=rf"^memory: .*at least {least}") as refusal:
        BubblewrapDriver(BASE.with_memory(least - 1))
    assert refusal.value.where == "memory"


UNHAD = ("/", "/proc", "/sys", "/dev", "/etc", "/etc/shadow", "/tmp", "/home", "/no/such/path")
"""What no command can have, for one reason or another."""


@sandboxed
@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("field", "path"),
    [
        *(("readable_paths", path) for path in UNHAD),
        *(("writable_paths", path) for path in UNHAD),
    ],
)
async def test_a_path_that_can_not_be_had_is_refused_in_the_policys_own_terms(field: str, path: str) -> None:
    if not os.path.lexists(path) and path != "/no/such/path":
        pytest.skip(f"there is no {path} here")
    policy = BASE.with_readable_paths(path) if field == "readable_paths" else BASE.with_writable_paths(path)
    with pytest.raises(PolicyError) as refusal:
        await Sandbox.bubblewrap(policy).execute(["true"])
    assert refusal.value.where == f"{field}[0]"
    assert path in refusal.value.reason
    for theirs in ("filesystem", "allowRead", "allowWrite", "working directory"):
        assert theirs not in str(refusal.value)


@sandboxed
@pytest.mark.asyncio
async def test_the_path_that_can_not_be_had_is_told_by_its_number() -> None:
    with pytest.raises(PolicyError) as refusal:
        await Sandbox.bubblewrap(BASE.with_readable_paths("/usr", "/usr/bin", "/proc")).execute(["true"])
    assert refusal.value.where == "readable_paths[2]"


@sandboxed
@pytest.mark.asyncio
async def test_a_name_that_looks_like_a_pattern_is_refused_by_name(policy: ExecutionPolicy, tmp_path: Path) -> None:
    (tmp_path / "a*b").mkdir()
    with pytest.raises(PolicyError, match=r"^readable_paths\[0\]: .*a\*b"):
        await Sandbox.bubblewrap(policy.with_readable_paths(tmp_path / "a*b")).execute(["true"])


@sandboxed
@pytest.mark.asyncio
async def test_the_home_is_not_writable_and_the_way_out_is_in_the_policys_own_terms() -> None:
    with pytest.raises(PolicyError) as refusal:
        await Sandbox.bubblewrap(BASE.with_writable_paths("~")).execute(["true"])
    assert refusal.value.where == "writable_paths[0]"
    assert "allowWrite" not in str(refusal.value)


# ---- which bubblewrap -------------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory into which everybody may look, as a sandbox is built by somebody else where we are root. And not in
    ``/tmp``, which that somebody has one of its own of."""
    path = Path(tempfile.mkdtemp(prefix="ipybox-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def noting_bubblewrap(place: Path, name: str = "my-bwrap") -> tuple[Path, Path]:
    """A bubblewrap that notes each of its starts, and where."""
    real, program, notes = shutil.which("bwrap"), place / name, place / f"{name}.notes"
    assert real is not None
    program.write_text(f'#!/bin/sh\necho "$1" >> {notes}\nexec {os.path.realpath(real)} "$@"\n')
    program.chmod(0o755)
    notes.touch()
    notes.chmod(0o666)
    return program, notes


@sandboxed
@pytest.mark.asyncio
async def test_the_variable_names_the_bubblewrap_to_use(
    policy: ExecutionPolicy, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, notes = noting_bubblewrap(place)
    monkeypatch.setenv("BWRAP_BIN", str(program))
    sandbox = Sandbox.bubblewrap(policy)
    monkeypatch.delenv("BWRAP_BIN")
    assert (await sandbox.execute(["echo", "hi"])).stdout == "hi\n"
    asked, built = notes.read_text().splitlines()[0], notes.read_text().splitlines()[-1]
    assert (asked, built) == ("--version", "--args")


@sandboxed
@pytest.mark.asyncio
async def test_the_caller_knows_better_than_the_variable(
    policy: ExecutionPolicy, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, notes = noting_bubblewrap(place)
    monkeypatch.setenv("BWRAP_BIN", "/no/such/bwrap")
    assert (await Sandbox.bubblewrap(policy, binary=program).execute(["true"])).success
    assert "--args" in notes.read_text().splitlines()


@sandboxed
@pytest.mark.asyncio
async def test_without_either_it_is_found_though_path_does_not_lead_there(
    policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BWRAP_BIN", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert (await Sandbox.bubblewrap(policy).execute(["true"])).success


@pytest.mark.parametrize("what", ["nothing there", "a directory", "not executable", "another program"])
def test_a_variable_that_names_no_bubblewrap_is_refused_with_what_it_names(
    place: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = place / "bwrap"
    match what:
        case "a directory":
            path.mkdir()
        case "not executable":
            path.write_text("#!/bin/sh\n")
        case "another program":
            path.write_text("#!/bin/sh\necho something else\n")
            path.chmod(0o755)
    monkeypatch.setenv("BWRAP_BIN", str(path))
    with pytest.raises(SandboxUnavailableError) as refusal:
        Sandbox.bubblewrap(BASE)
    assert str(path) in refusal.value.reason or "something else" in refusal.value.reason
    assert refusal.value.remedies


@sandboxed
def test_a_variable_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BWRAP_BIN", "")
    Sandbox.bubblewrap(BASE)


def test_no_bubblewrap_is_taken_from_where_commands_may_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noting_bubblewrap(place, "bwrap")
    monkeypatch.setattr("ipybox.sandbox.bubblewrap._DIRECTORIES", ())
    monkeypatch.delenv("BWRAP_BIN", raising=False)
    monkeypatch.setenv("PATH", str(place))
    Sandbox.bubblewrap(BASE)
    with pytest.raises(SandboxUnavailableError):
        Sandbox.bubblewrap(BASE.with_writable_paths(place))


# ---- what a command finds ---------------------------------------------------------------------------------------


@sandboxed
@pytest.mark.asyncio
async def test_a_command_is_nobody_in_particular_at_a_home_of_its_own(policy: ExecutionPolicy) -> None:
    result = await Sandbox.bubblewrap(policy).execute(["env"])
    found = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/run/home",
        "PWD": "/run/home",
        "TMPDIR": "/tmp",
        "SHELL": "/bin/sh",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
    }


@sandboxed
@pytest.mark.asyncio
async def test_what_the_policy_sets_wins_over_that(policy: ExecutionPolicy) -> None:
    sandbox = Sandbox.bubblewrap(policy.with_env({"HOME": "/tmp", "USER": "me", "BYTES": "\udcff"}))
    result = await sandbox.execute(shell('echo "$HOME $USER"; printf %s "$BYTES" "$1"', "\udcfe"))
    assert result.stdout_bytes == b"/tmp me\n\xff\xfe"


@sandboxed
@pytest.mark.asyncio
async def test_a_link_in_a_private_place_is_refused_with_where_it_leads_to(
    policy: ExecutionPolicy, place: Path
) -> None:
    (place / "real").mkdir()
    (place / "real" / "file").write_text("found")
    (place / "link").symlink_to("real")
    sandbox = Sandbox.bubblewrap(policy.with_readable_paths(place / "link"))
    with pytest.raises(PolicyError, match=rf"readable_paths\[0\]: .* is a link to {place / 'real'}"):
        await sandbox.execute(["true"])


@sandboxed
@pytest.mark.asyncio
async def test_a_command_may_open_its_streams_by_their_names(policy: ExecutionPolicy) -> None:
    result = await Sandbox.bubblewrap(policy).execute(shell("cat /dev/stdin | tee /dev/stderr > /dev/stdout"), "text")
    assert (result.stdout, result.stderr) == ("text", "text")


@sandboxed
@pytest.mark.asyncio
async def test_a_command_can_not_fill_the_machine(policy: ExecutionPolicy) -> None:
    line = 'head -c 80000000 /dev/zero > "$1/large"; stat -c %s "$1/large"'
    sandbox = Sandbox.bubblewrap(policy.with_memory("512M"))
    for place in ("/run/home", "/tmp", "/dev/shm"):
        result = await sandbox.execute(shell(line, place))
        assert "No space left" in result.stderr
        assert 0 < int(result.stdout) <= SCRATCH


# ---- hosts ------------------------------------------------------------------------------------------------------

FETCH = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
except OSError as error:
    print(type(error).__name__)
"""


def fetch(url: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", FETCH, url]


@pytest.fixture
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@sandboxed
@pytest.mark.asyncio
async def test_a_host_that_is_not_on_the_list_is_refused_by_the_proxy(policy: ExecutionPolicy) -> None:
    sandbox = Sandbox.bubblewrap(policy.with_network(["example.org", "*.wild.test"]))
    for host in ("other.test", "wild.test", "example.org.other.test", "192.0.2.1"):
        result = await sandbox.execute(fetch(f"http://{host}/"))
        assert result.stdout.startswith("403 "), result
        assert host in result.stdout


@sandboxed
@pytest.mark.asyncio
@pytest.mark.usefixtures("_no_proxy_of_the_machine")
@pytest.mark.parametrize("network", [["example.org"], True], ids=["named", "all"])
async def test_a_host_that_is_allowed_is_reached_through_the_machines_own_proxy(
    policy: ExecutionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool | list[str]
) -> None:
    with http_server(tmp_path) as (port, seen):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        async with Sandbox.bubblewrap(policy.with_network(network)) as sandbox:
            for _ in range(2):
                result = await sandbox.execute(fetch("http://example.org/page"))
                assert result.stdout.startswith(f"200 {PAGE}")
    assert seen.requests == ["example.org http://example.org/page"] * 2


@sandboxed
@pytest.mark.asyncio
@pytest.mark.usefixtures("_no_proxy_of_the_machine")
@pytest.mark.parametrize("network", ["named", "all"])
async def test_this_machine_is_no_host_that_can_be_reached(policy: ExecutionPolicy, network: str) -> None:
    with counting_server() as (port, visits):
        hosts = True if network == "all" else [f"localhost:{port}", f"127.0.0.1:{port}"]
        async with Sandbox.bubblewrap(policy.with_network(hosts)) as sandbox:
            for host in ("localhost", "127.0.0.1"):
                result = await sandbox.execute(fetch(f"http://{host}:{port}/"))
                assert not result.stdout.startswith("200")
                result = await sandbox.execute([sys.executable, "-I", "-S", "-c", DIAL, host, str(port)])
                assert result.stdout == "ConnectionRefusedError\n"
    assert visits == []


@sandboxed
@pytest.mark.asyncio
async def test_without_network_there_is_no_proxy(policy: ExecutionPolicy) -> None:
    result = await Sandbox.bubblewrap(policy.with_inherited_env()).execute(["env"])
    names = [line.partition("=")[0] for line in result.stdout.splitlines()]
    assert not [name for name in names if "proxy" in name.lower()]


# ---- a wall that is kept ----------------------------------------------------------------------------------------


@sandboxed
@pytest.mark.asyncio
async def test_commands_share_a_wall_and_nothing_else(policy: ExecutionPolicy) -> None:
    line = "ls -A . /tmp /dev/shm; touch left /tmp/left /dev/shm/left; ls /proc | grep -c '^[0-9]'"
    async with Sandbox.bubblewrap(policy) as sandbox:
        first, second = [await sandbox.execute(shell(line)) for _ in range(2)]
        assert len(walls()) == 1
    assert first.stdout == second.stdout
    assert walls() == []


@sandboxed
@pytest.mark.asyncio
async def test_when_the_wall_was_killed_the_next_command_gets_another(policy: ExecutionPolicy) -> None:
    async with Sandbox.bubblewrap(policy) as sandbox:
        for number in range(3):
            assert (await sandbox.execute(["echo", str(number)])).stdout == f"{number}\n"
            (wall,) = walls()
            wall.kill()
            # It ends when the system comes to it, and may run the next command until then.
            assert await eventually(lambda: not walls())
        assert (await sandbox.execute(["echo", "last"])).stdout == "last\n"


@sandboxed
@pytest.mark.asyncio
async def test_a_command_whose_wall_is_killed_is_said_to_have_been_killed(policy: ExecutionPolicy) -> None:
    sleeper, begun = Sleeper(), asyncio.Event()
    async with Sandbox.bubblewrap(policy) as sandbox:
        running = asyncio.ensure_future(
            sandbox.execute(shell("echo go; sleep $1", sleeper.seconds), None, lambda stream, text: begun.set())
        )
        async with asyncio.timeout(HANG):
            await begun.wait()
            walls()[0].kill()
            result = await running
        assert (result.stdout, result.exit_code, result.stop_reason) == ("go\n", 128 + signal.SIGKILL, "signal")
        assert not sleeper.is_alive
        assert (await sandbox.execute(["echo", "next"])).stdout == "next\n"


@sandboxed
@pytest.mark.asyncio
async def test_closing_ends_the_commands_that_still_run(policy: ExecutionPolicy) -> None:
    sleeper, begun = Sleeper(), asyncio.Event()
    async with Sandbox.bubblewrap(policy) as sandbox:
        running = asyncio.ensure_future(
            sandbox.execute(shell("echo go; sleep $1", sleeper.seconds), None, lambda stream, text: begun.set())
        )
        async with asyncio.timeout(HANG):
            await begun.wait()
    assert not sleeper.is_alive
    async with asyncio.timeout(HANG):
        result = await running
    assert (result.stdout, result.exit_code, result.stop_reason) == ("go\n", 128 + signal.SIGKILL, "signal")


@sandboxed
@pytest.mark.asyncio
async def test_it_can_be_opened_once_at_a_time_and_again_after_it_was_closed(policy: ExecutionPolicy) -> None:
    sandbox = Sandbox.bubblewrap(policy)
    for _ in range(2):
        async with sandbox as opened:
            assert opened is sandbox
            with pytest.raises(RuntimeError, match="open already"):
                await sandbox.__aenter__()
            assert (await sandbox.execute(["echo", "hi"])).stdout == "hi\n"
        assert (await sandbox.execute(["echo", "alone"])).stdout == "alone\n"
    assert walls() == []


@sandboxed
def test_what_was_opened_in_one_event_loop_is_refused_in_another(policy: ExecutionPolicy) -> None:
    sandbox = Sandbox.bubblewrap(policy)
    with asyncio.Runner() as first:
        first.run(sandbox.__aenter__())
        with asyncio.Runner() as second, pytest.raises(RuntimeError, match="opened in another event loop"):
            second.run(sandbox.execute(["true"]))
        assert first.run(sandbox.execute(["echo", "hi"])).stdout == "hi\n"
        first.run(sandbox.__aexit__(None, None, None))
    with asyncio.Runner() as second:
        assert second.run(sandbox.execute(["echo", "hi"])).stdout == "hi\n"


@asynccontextmanager
async def opened_for(policy: ExecutionPolicy, path: Path, *, writable: bool) -> AsyncIterator[BubblewrapDriver]:
    path.mkdir()
    (path / "file").write_text("old")
    granted = policy.with_writable_paths(path) if writable else policy.with_readable_paths(path)
    async with Sandbox.bubblewrap(granted) as sandbox:
        assert (await sandbox.execute(["cat", str(path / "file")])).stdout == "old"
        yield sandbox


@sandboxed
@pytest.mark.asyncio
@pytest.mark.parametrize("writable", [False, True], ids=["readable", "writable"])
async def test_what_changes_in_a_path_is_seen_by_the_next_command(
    policy: ExecutionPolicy, place: Path, writable: bool
) -> None:
    async with opened_for(policy, place / "named", writable=writable) as sandbox:
        (place / "named" / "file").unlink()
        (place / "named" / "file").write_text("new")
        (place / "named" / "more").mkdir()
        result = await sandbox.execute(shell('cat "$1/file"; ls "$1"', place / "named"))
    assert result.stdout == "newfile\nmore\n"


@sandboxed
@pytest.mark.asyncio
@pytest.mark.parametrize("writable", [False, True], ids=["readable", "writable"])
async def test_a_path_that_was_replaced_is_the_new_one_for_the_next_command(
    policy: ExecutionPolicy, place: Path, writable: bool
) -> None:
    async with opened_for(policy, place / "named", writable=writable) as sandbox:
        shutil.rmtree(place / "named")
        (place / "named").mkdir()
        (place / "named" / "file").write_text("new")
        assert (await sandbox.execute(["cat", str(place / "named" / "file")])).stdout == "new"


@sandboxed
@pytest.mark.asyncio
async def test_a_path_that_is_gone_is_an_error_that_names_it(policy: ExecutionPolicy, place: Path) -> None:
    async with opened_for(policy, place / "named", writable=False) as sandbox:
        shutil.rmtree(place / "named")
        with pytest.raises(ProgramStartError, match=r"readable_paths\[0\]: .*named does not exist"):
            await sandbox.execute(["true"])


# ---- giving up --------------------------------------------------------------------------------------------------


@sandboxed
@pytest.mark.asyncio
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("when", ["while its wall is built", "while it runs"])
async def test_who_gives_up_leaves_nothing_behind(policy: ExecutionPolicy, when: str, again: bool) -> None:
    before, begun = psutil.Process().children(recursive=True), asyncio.Event()
    task = asyncio.ensure_future(
        Sandbox.bubblewrap(policy).execute(shell("echo go; sleep 999"), None, lambda stream, text: begun.set())
    )
    assert await eventually(begun.is_set if when == "while it runs" else lambda: bool(walls()))
    task.cancel()
    while not task.done():
        if again:
            task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    left = [each for each in psutil.Process().children(recursive=True) if each not in before and is_alive(each)]
    for each in left:
        each.kill()
    assert left == []
