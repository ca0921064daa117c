"""What a firejail is asked for, what it gives, and that nothing runs where it gives less. Real firejails."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import ipybox
from ipybox.command import firejail
from ipybox.command.environment import command_environment
from ipybox.command.firejail import Account, FirejailDriver, firejail_view, limits
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult
from ipybox.errors import IpyboxError, PolicyError, PolicyNotEnforcedError, ProgramStartError, SandboxUnavailableError
from ipybox.sandbox.python_paths import python_paths
from tests.command.drivers import Sleeper
from tests.command.waiting import PATIENCE, soon

Test = TypeVar("Test", bound=Callable[..., Any])


pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="firejail is for Linux only"),
]


def missing() -> str | None:
    """Why there are no firejails here."""
    try:
        FirejailDriver(ExecutionPolicy.default())
    except IpyboxError as error:
        return str(error)
    return None


_needs_firejail = pytest.mark.skipif(missing() is not None, reason=f"no firejail (apt install firejail): {missing()}")


def real(test: Test) -> Test:
    """Marks a test that starts firejails."""
    marked: Test = pytest.mark.sandbox(_needs_firejail(test))
    return marked


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    base = tmp_path / "base"
    base.mkdir()
    return ExecutionPolicy.in_dir(base).with_timeout(PATIENCE)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter, as root's commands are somebody else's."""
    path = Path(tempfile.mkdtemp(prefix="firejail-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def sh(policy: ExecutionPolicy, line: str, *arguments: str | Path) -> ExecResult:
    return await FirejailDriver(policy).execute(["sh", "-c", line, "sh", *map(str, arguments)])


async def python(policy: ExecutionPolicy, code: str, *arguments: str) -> ExecResult:
    return await FirejailDriver(policy).execute([sys.executable, "-I", "-S", "-c", code, *arguments])


# ---- what is asked for ------------------------------------------------------------------------------------------


async def test_the_limits_are_options(policy: ExecutionPolicy) -> None:
    options = limits(policy.with_timeout(4.2))
    assert {"--quiet", "--net=none", "--rlimit-nofile=100", "--rlimit-fsize=10485760", "--rlimit-cpu=6"} <= set(options)
    assert {"--caps.drop=all", "--nonewprivs", "--nogroups", "--noroot"} <= set(options)
    assert not any(option.startswith("--noprofile") for option in options)
    if "processes" in FirejailDriver.enforces:
        assert "--rlimit-nproc=20" in options
        assert "--rlimit-nproc=7" in limits(policy.with_processes(7))
    assert "--rlimit-cpu=4" in limits(policy.with_cpu_time(3))
    assert "--net=none" not in limits(policy.with_network(True))


async def test_a_view_shows_paths_and_hides_their_neighbours(tmp_path: Path) -> None:
    account = Account(os.geteuid() or 64201, "/nonexistent")
    shown = {"/srv/a": False, "/srv/a/b": True, "/opt/tool": False, "/run/x": False}
    view = firejail_view(shown, ["usr", "etc", "srv", "run", "opt", "no-such-directory"], account)
    nothing = ".ipybox-shows-nothing-else"
    assert view.outermost == ["/srv/a", "/opt/tool", "/run/x"]
    assert view.options[:2] == ["--whitelist=/srv/a", "--whitelist=/run/x"]
    assert {f"--whitelist=/srv/{nothing}", f"--whitelist=/run/{nothing}"} <= set(view.options)
    assert "--blacklist=/no-such-directory" in view.options
    assert {"--read-only=/srv", "--read-only=/opt", "--read-only=/run/x", "--read-only=/dev/shm"} <= set(view.options)
    assert "--read-only=/run" not in view.options
    assert view.options[-1] == "--read-write=/srv/a/b"
    assert {"/srv", "/run", "/no-such-directory"} <= set(view.hidden)


async def test_a_home_among_its_kind_is_hidden_unless_something_in_it_is_shown(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    account = Account(home.stat().st_uid, str(home))
    top = f"/{home.parts[1]}"
    view = firejail_view({f"{tmp_path}/elsewhere": False}, [top[1:]], account)
    assert f"--blacklist={home}" in view.options
    view = firejail_view({f"{home}/project": True}, [top[1:]], account)
    assert f"--blacklist={home}" not in view.options
    assert f"--read-only={home}" in view.options
    assert view.options[-1] == f"--read-write={home}/project"
    assert str(home) in view.hidden
    view = firejail_view({str(home): False}, [top[1:]], account)
    assert f"--blacklist={home}" not in view.options
    assert str(home) not in view.hidden


async def test_hosts_processors_and_too_little_memory_are_refused(policy: ExecutionPolicy) -> None:
    with pytest.raises(PolicyNotEnforcedError) as caught:
        FirejailDriver(policy.with_network(["example.org"]).with_cpus(1))
    assert caught.value.fields == ("cpus", "hosts")
    with pytest.raises(PolicyError, match="memory: 1048576 bytes are too few"):
        FirejailDriver(policy.with_memory("1M"))


async def test_a_missing_firejail_is_named(policy: ExecutionPolicy, tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailableError, match=r"binary='.*gone' is no executable file"):
        FirejailDriver(policy, binary=tmp_path / "gone")


async def test_who_has_no_account_is_told_so(policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(SandboxUnavailableError, match="firejail runs for accounts only, and user 4711 has none"):
        FirejailDriver(policy, binary="/bin/true")


# ---- what a command is ------------------------------------------------------------------------------------------


@real
async def test_a_command_has_no_privileges_and_is_not_root(policy: ExecutionPolicy) -> None:
    result = await sh(policy, "id -u; id -G | wc -w; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    uid, groups, *facts = result.stdout.split("\n", 2)
    assert int(uid) == (64201 if os.geteuid() == 0 else os.geteuid())
    assert int(groups) == 1
    lines = dict(line.split(":\t") for line in facts[0].splitlines())
    assert {name: value for name, value in lines.items() if name.startswith("Cap") and int(value, 16)} == {}
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")


@real
async def test_it_sees_no_process_but_its_own(policy: ExecutionPolicy) -> None:
    result = await sh(policy, "ls -d /proc/[0-9]* | wc -l; kill -0 1; kill -9 -1; echo killed")
    assert int(result.stdout.splitlines()[0]) < 6
    result = await sh(policy, f"cat /proc/{os.getpid()}/environ")
    assert not result.success


@real
async def test_its_environment_is_exactly_what_was_said(
    policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYBOX_TEST_ORDINARY", "ordinary")
    env = {"GREETING": "hello\nworld", "A.B-C": "odd", "EMPTY": "", "PS1": "mine"}
    for asked, inherited in ((policy.with_env(env), None), (policy.with_env(env, inherit=True), os.environ)):
        result = await FirejailDriver(asked).execute(["env", "-0"])
        found = dict(line.split("=", 1) for line in result.stdout.split("\0") if line)
        place = found["PWD"]
        own = {"HOME": place, "PWD": place, "TMPDIR": place}
        assert found == command_environment(env, inherited=inherited, own=own)
        assert os.path.dirname(place) == os.path.realpath(policy.base_dir)


@real
async def test_arguments_may_be_longer_and_more_than_firejail_takes(policy: ExecutionPolicy) -> None:
    arguments = ["x" * 100_000, *map(str, range(2000))]
    result = await FirejailDriver(policy).execute(["printf", "%s\\n", *arguments])
    assert result.stdout.splitlines() == arguments


@real
async def test_what_is_asked_for_is_in_no_command_line(policy: ExecutionPolicy) -> None:
    """While it runs, nobody on this machine sees its secrets."""
    seen: list[str] = []

    def look(stream: str, text: str) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    seen.append((entry / "cmdline").read_text(errors="replace"))
                except OSError:
                    continue

    sandbox = FirejailDriver(policy.with_env({"API_KEY": "a-secret-of-the-test"}))
    result = await sandbox.execute(["sh", "-c", "echo $API_KEY; read wait"], b"\n", look)
    assert result.stdout == "a-secret-of-the-test\n"
    assert any("firejail" in line for line in seen)
    assert not any("a-secret-of-the-test" in line for line in seen)


@real
async def test_files_and_descriptors_are_limited(policy: ExecutionPolicy) -> None:
    result = await sh(policy, "head -c 11000000 /dev/zero > file; echo $?; ls -l file; ulimit -n")
    code, listing, files = result.stdout.splitlines()
    assert int(code) != 0
    assert listing.split()[4] == "10485760"
    assert files == "100"


@real
async def test_processor_time_ends_with_a_warning(policy: ExecutionPolicy) -> None:
    for seconds in (1, 1000):  # the one less than the timeout, the other more
        result = await sh(policy.with_cpu_time(seconds).with_timeout(20), "trap 'echo warned; exit 5' XCPU; ulimit -t")
        assert result.stdout == f"{min(seconds, 21)}\n"
    line = "trap 'echo warned; exit 5' XCPU; while :; do :; done"
    result = await sh(policy.with_cpu_time(1), line)
    assert (result.stdout, result.exit_code) == ("warned\n", 5)


@real
async def test_network_is_there_where_it_was_asked_for(policy: ExecutionPolicy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('reached')"
        port = str(server.getsockname()[1])
        assert "reached" not in (await python(policy, code, port)).stdout
        assert (await python(policy.with_network(True), code, port)).stdout == "reached\n"


# ---- files ------------------------------------------------------------------------------------------------------

WRITES = """
import os, stat, sys
found = []
for root in ("/", "/dev", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", *sys.argv[1:]):
    for place, directories, _ in os.walk(root):
        directories[:] = [each for each in directories if f"{place.rstrip('/')}/{each}" not in ("/proc", "/sys")]
        if place.count("/") > 4 and not place.startswith(tuple(sys.argv[1:])):
            directories[:] = []
        if os.access(place, os.W_OK):
            try:
                os.close(os.open(place + "/.written", os.O_CREAT | os.O_WRONLY))
                found.append(place)
            except OSError:
                pass
print("\\n".join(sorted(set(found))))
"""


@real
async def test_nothing_can_be_written_but_the_work_directory_and_what_was_named(
    policy: ExecutionPolicy, tmp_path: Path
) -> None:
    writable, readable = tmp_path / "writable", tmp_path / "readable"
    for path in (writable, readable, readable / "inner"):
        path.mkdir()
    granted = policy.with_writable_paths(writable, readable / "inner").with_readable_paths(readable)
    result = await python(granted, WRITES, str(tmp_path))
    assert result.stderr == ""
    places = result.stdout.splitlines()
    assert places[-2:] == [str(readable / "inner"), str(writable)]
    assert [os.path.basename(place)[:8] for place in places[:-2]] == ["sandbox-"]
    assert (writable / ".written").stat().st_uid == os.geteuid()


@real
async def test_homes_and_what_lies_beside_are_hidden(policy: ExecutionPolicy, tmp_path: Path, public: Path) -> None:
    (public / "secret").write_text("secret")
    home = os.path.expanduser("~")
    homes = {pwd.getpwuid(os.geteuid()).pw_dir, home, "/home", "/root", "/run/user", "/tmp", "/var/tmp", "/srv", "/mnt"}
    result = await sh(policy, 'for each in "$@"; do ls -A "$each" 2>/dev/null; done', *sorted(homes))
    ours = {part for path in python_paths() for part in Path(path).parts}
    ours |= {*Path(policy.base_dir).parts, "user", "firejail"}
    assert {name for name in result.stdout.split() if name not in ours and not name.startswith("sandbox-")} == set()
    result = await sh(policy, "cat $1", public / "secret")
    assert (result.exit_code, result.stdout) == (1, "")


@real
async def test_what_only_root_may_read_is_hidden_from_roots_commands(policy: ExecutionPolicy) -> None:
    result = await sh(policy, "cat /etc/shadow /etc/gshadow /etc/sudoers; ls -A /run/firejail/mnt >/dev/null; echo end")
    assert result.stdout == "end\n"


@real
@pytest.mark.parametrize(
    "name",
    ["a b", "a,b", 'a"b', "a'b", "a*b", "a[b]c", "a?b", "a{b}c", "a\\b", "a;b&c", "a\nb", "#a", "~a", "é", " a "],
)
async def test_paths_may_have_any_name(policy: ExecutionPolicy, tmp_path: Path, name: str) -> None:
    file, directory = tmp_path / f"{name}.file", tmp_path / name
    file.write_text("read")
    directory.mkdir()
    granted = policy.with_readable_paths(file).with_writable_paths(directory)
    result = await sh(granted, 'cat "$1"; echo no > "$1"; echo written > "$2/new"', file, directory)
    assert result.stdout == "read"
    assert file.read_text() == "read"
    assert (directory / "new").read_text() == "written\n"


@real
async def test_a_name_that_firejail_mistakes_for_another_is_refused(policy: ExecutionPolicy, tmp_path: Path) -> None:
    for name in ("a,b", "a;b"):
        (tmp_path / name).touch()
    with pytest.raises(PolicyError, match=r"a,b: firejail takes no path .* so similar"):
        await sh(policy.with_readable_paths(tmp_path / "a,b"), "true")
    (tmp_path / "c..d").touch()
    with pytest.raises(PolicyError, match=r"c\.\.d: firejail takes no path with '\.\.'"):
        await sh(policy.with_readable_paths(tmp_path / "c..d"), "true")
    assert os.listdir(policy.base_dir) == []


@real
async def test_a_path_that_can_not_be_shown_is_refused_by_name(policy: ExecutionPolicy, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/srv")
    for path, reason in (
        (tmp_path / "gone", "does not exist"),
        (Path("/"), "can't show /"),
        (Path("/run"), "can't show /run"),
        (Path("/etc"), "can't show /etc"),
        (Path("/tmp"), "can't show /tmp"),
        (Path("/proc/1"), "can't show /proc/1"),
        (Path("/dev/mem") if os.path.exists("/dev/mem") else Path("/dev/null"), "can't show /dev/"),
        (link, "is /srv, and firejail shows no links"),
    ):
        for granted, where in (
            (policy.with_readable_paths(path), "readable"),
            (policy.with_writable_paths(path), "writ"),
        ):
            with pytest.raises(PolicyError, match=rf"{where}\w*_paths\[0\]: .*{reason}"):
                await sh(granted, "true")
    for path in (Path("/etc/passwd"), Path("/usr/share"), Path("/bin/sh")):
        with pytest.raises(PolicyError, match=r"writable_paths\[0\]: .* belongs to the system"):
            await sh(policy.with_writable_paths(path), "true")
    assert os.listdir(policy.base_dir) == []


@real
@pytest.mark.skipif(os.geteuid() == 0, reason="root's own files are shown as the command's; run as a plain user")
async def test_what_the_caller_may_not_use_is_refused(policy: ExecutionPolicy, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(SandboxUnavailableError, match=r"closed can't be written"):
        await sh(policy.with_writable_paths(closed), "true")
    with pytest.raises(SandboxUnavailableError, match=r"/etc/shadow can't be read"):
        await sh(policy.with_readable_paths("/etc/shadow"), "true")


@real
async def test_a_file_in_a_home_can_be_shown_alone(policy: ExecutionPolicy) -> None:
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    if os.geteuid() != 0 and os.path.realpath(sys.executable).startswith("/root/"):
        pytest.skip("firejail closes /root to others when it shows some of a home, and this Python lies there")
    with (
        tempfile.NamedTemporaryFile(dir=home, prefix=".firejail-test-") as file,
        tempfile.TemporaryDirectory(dir=home, prefix=".firejail-test-") as hidden,
    ):
        file.write(b"shown")
        file.flush()
        result = await sh(policy.with_readable_paths(file.name), 'cat "$1"; ls -A "$2"', file.name, home)
        shown = result.stdout.removeprefix("shown").split()
        assert result.stdout.startswith("shown")
        assert os.path.basename(file.name) in shown
        assert os.path.basename(hidden) not in shown


@real
async def test_a_work_directory_may_lie_in_a_shown_one(policy: ExecutionPolicy, tmp_path: Path) -> None:
    result = await sh(
        policy.with_readable_paths(tmp_path), "echo mine > file && cat file; echo no > $1", tmp_path / "x"
    )
    assert result.stdout == "mine\n"
    assert not (tmp_path / "x").exists()


@real
async def test_the_work_directory_is_removed_whatever_is_in_it(policy: ExecutionPolicy) -> None:
    await sh(policy, "mkdir -p a/b; touch a/b/c; chmod 000 a/b a .")
    assert os.listdir(policy.base_dir) == []


@real
async def test_a_long_and_odd_base_directory_will_do(policy: ExecutionPolicy, tmp_path: Path) -> None:
    base = tmp_path / ("long," * 40) / ("[longer] " * 20)
    base.mkdir(parents=True)
    result = await sh(policy.with_base_dir(base), "echo text > file; cat file; pwd")
    assert result.stdout.startswith(f"text\n{base}/sandbox-")
    assert list(base.iterdir()) == []


# ---- the end ----------------------------------------------------------------------------------------------------

OWNER = """
import asyncio, sys
from ipybox.command.firejail import FirejailDriver
from ipybox.command.policy import ExecutionPolicy

async def main():
    line = "trap '' TERM; (setsid sleep $1 &); echo running; while :; do sleep $1; done"
    sandbox = FirejailDriver(ExecutionPolicy.in_dir(sys.argv[1]).with_timeout(60))
    await sandbox.execute(["sh", "-c", line, "sh", sys.argv[2]], None, lambda stream, text: print(text, flush=True))

asyncio.run(main())
"""


@real
async def test_nothing_outlives_a_killed_owner(policy: ExecutionPolicy) -> None:
    sleeper = Sleeper()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, policy.base_dir, sleeper.seconds],
        env={**os.environ, "PYTHONPATH": str(Path(ipybox.__file__).parent.parent)},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    with owner.stdout as said:
        assert said.readline() == b"running\n"
        owner.send_signal(signal.SIGKILL)
        owner.wait(PATIENCE)
    assert await soon(lambda: not sleeper.is_alive and os.listdir(policy.base_dir) == [])


# ---- a firejail that gives less than it was asked for -----------------------------------------------------------


def client(directory: Path, script: str) -> Path:
    path = directory / "firejail"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@real
@pytest.mark.parametrize(
    ("left_out", "found"),
    [
        ("--net=none", "no net namespace of its own"),
        ("--ipc-namespace", "no ipc namespace of its own"),
        ("--read-only=", "/dev/shm can be written"),
        ("--blacklist=/var", "/var can be seen"),
        ("--whitelist=/run/", "/run can be seen"),
    ],
)
async def test_nothing_runs_where_firejail_leaves_something_out(
    policy: ExecutionPolicy, public: Path, tmp_path: Path, left_out: str, found: str
) -> None:
    real = shutil.which("firejail")
    less = client(
        public,
        f'for each do shift; case "$each" in {left_out}*) ;; *) set -- "$@" "$each" ;; esac; done\nexec {real} "$@"',
    )
    ran = tmp_path / "ran"
    ran.mkdir()
    with pytest.raises(SandboxUnavailableError, match=found):
        await FirejailDriver(policy.with_writable_paths(ran), binary=less).execute(["touch", str(ran / "file")])
    assert list(ran.iterdir()) == []
    assert os.listdir(policy.base_dir) == []


@real
async def test_nothing_runs_where_firejail_makes_no_sandbox_at_all(policy: ExecutionPolicy, public: Path) -> None:
    """As it does inside of containers."""
    none = client(public, 'while case "$1" in --*) ;; *) false ;; esac; do shift; done; exec "$@"')
    with pytest.raises(SandboxUnavailableError, match=r"no pid namespace .*may gain privileges"):
        await FirejailDriver(policy, binary=none).execute(["true"])


@real
async def test_what_firejail_fails_with_is_said(policy: ExecutionPolicy, public: Path) -> None:
    for script, words in (("echo Error: no luck >&2; exit 1", "Error: no luck"), ("exit 0", "it said nothing")):
        with pytest.raises(ProgramStartError, match=f"firejail did not start the command: {words}"):
            await FirejailDriver(policy, binary=client(public, script)).execute(["true"])
    assert os.listdir(policy.base_dir) == []


@real
async def test_a_firejail_that_hangs_is_given_up(
    policy: ExecutionPolicy, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firejail, "START_SECONDS", 0.5)
    sleeper = Sleeper()
    with pytest.raises(ProgramStartError, match=r"firejail was not ready within 0.5 s"):
        await FirejailDriver(policy, binary=client(public, f"sleep {sleeper.seconds}")).execute(["true"])
    assert not sleeper.is_alive
    assert os.listdir(policy.base_dir) == []


@real
async def test_one_that_is_cancelled_while_it_starts_leaves_nothing(policy: ExecutionPolicy, public: Path) -> None:
    sleeper = Sleeper()
    slow = client(public, f"sleep {sleeper.seconds}")
    task = asyncio.create_task(FirejailDriver(policy, binary=slow).execute(["true"]))
    assert await soon(lambda: sleeper.is_alive)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sleeper.is_alive
    assert os.listdir(policy.base_dir) == []
