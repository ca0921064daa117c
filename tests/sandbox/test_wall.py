"""One contract for both kinds of walls: what a program behind them gets, how it ends, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.sandbox import confine
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.policy import FilesystemPolicy, Limits, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.wall import NestedWall, SeparateWalls, WallProcess
from tests.kernels.helpers import command_of, eventually, is_alive, name_of, survivors
from tests.sandbox.walls import HANG, WALLS, OneKind, Programs, line_of, plan_for, programs, text_of

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]

FOREVER = "while :; do sleep 999; done"
KINDS = pytest.mark.parametrize("kind", list(WALLS))


@pytest_asyncio.fixture(params=list(WALLS))
async def behind(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Programs]:
    """Programs behind each kind of wall."""
    async with programs(tmp_path, kind=request.param) as running:
        yield running


def below_us() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


# ---- how it ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_an_exit_code_is_told(behind: Programs, code: int) -> None:
    assert (await behind.shell(f"exit {code}")).status == ExitStatus("exited", code=code)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
async def test_a_signal_that_ended_it_is_told(behind: Programs, signum: signal.Signals) -> None:
    assert (await behind.shell(f"kill -{signum} $$")).status == ExitStatus("signalled", signal=signum)


async def test_programs_that_end_at_once_are_told_as_well(behind: Programs) -> None:
    for _ in range(15):
        assert (await behind.run("/bin/true")).status.code == 0
        assert (await behind.run("/bin/false")).status.code == 1


@KINDS
async def test_a_program_is_told_that_was_over_before_we_looked(tmp_path: Path, kind: str) -> None:
    """On a busy machine program and pid 1 are gone, and collected, before the supervisor reads a word of them."""
    policy = SandboxPolicy()
    supervisor = OneKind(kind, policy, plan_for(policy, tmp_path))
    async with supervisor:
        program = supervisor.confined(Program(argv=["/bin/sh", "-c", "exit 3"], env={}, cwd="/", fds=[1]))
        read, write = os.pipe()
        lead = await supervisor.wall.launch(program, [write])
        os.close(write)
        async with asyncio.timeout(HANG):
            assert await text_of(read) == ""  # whoever held the other end is gone
        assert await eventually(lambda: "ipybox-init" not in [name_of(process) for process in below_us()])
        sandboxed = SandboxedProgram(lead.lead)
        async with asyncio.timeout(HANG):
            await sandboxed.started()
            assert await supervisor.finish(sandboxed, "late") == ExitStatus("exited", code=3)


async def test_the_end_of_the_program_ends_what_it_left_behind(behind: Programs) -> None:
    read, write = os.pipe()
    script = "(setsid sh -c 'trap \"\" INT TERM HUP; sleep 999 & wait' &) ; exit 5"
    _, ended = await behind.start(["/bin/sh", "-c", script], {1: write})
    os.close(write)
    async with asyncio.timeout(HANG):
        assert (await ended).code == 5
        assert await text_of(read) == ""  # the pipe's last holder is gone


async def test_kill_ends_all_of_it_whatever_it_ignores(behind: Programs) -> None:
    read, write = os.pipe()
    script = f"trap '' INT TERM HUP QUIT; setsid sh -c '{FOREVER}' & echo up; {FOREVER}"
    sandboxed, ended = await behind.start(["/bin/sh", "-c", script], {1: write})
    os.close(write)
    assert await line_of(read) == "up\n"
    sandboxed.kill()
    sandboxed.kill()  # once more changes nothing
    async with asyncio.timeout(HANG):
        assert await ended == ExitStatus("signalled", signal=signal.SIGKILL)
        assert await text_of(read) == ""
    assert sandboxed.is_over
    sandboxed.kill()
    sandboxed.signal(signal.SIGTERM)  # nor afterwards


async def test_letting_go_of_a_program_ends_it(tmp_path: Path, behind: Programs) -> None:
    assert behind.supervisor._wall is not None
    read, write = os.pipe()
    program = Program(argv=["/bin/sh", "-c", f"echo up; {FOREVER}"], env={"PATH": "/bin"}, cwd="/", fds=[1])
    lead = await behind.supervisor._wall.launch(behind.supervisor.confined(program), [write])
    os.close(write)
    assert await line_of(read) == "up\n"
    lead.lead.close()
    async with asyncio.timeout(HANG):
        assert await text_of(read) == ""


# ---- what it gets -----------------------------------------------------------------------------------------------


async def test_output_comes_through_an_inherited_pipe(behind: Programs) -> None:
    assert (await behind.shell("echo out; echo err >&2; seq 20000 | wc -l")).output == "out\nerr\n20000\n"


async def test_nothing_is_inherited_but_what_was_handed_over(behind: Programs) -> None:
    code = """
import json, os
seen = {}
for name in os.listdir('/proc/self/fd'):
    try:
        seen[name] = os.readlink('/proc/self/fd/' + name).split(':')[0]
    except OSError:
        pass  # the listing's own
print(json.dumps(seen))
"""
    held = json.loads((await behind.python(code)).output)
    assert held == {"0": "/dev/null", "1": "pipe", "2": "pipe"}


@pytest.mark.parametrize("numbers", [[3, 4, 5, 6], [6, 5, 4, 3], [0, 1, 2, 7], [250, 9, 3, 100]])
async def test_descriptors_get_their_numbers_also_when_those_are_in_use(behind: Programs, numbers: list[int]) -> None:
    pipes = [os.pipe() for _ in numbers]
    code = f"import os\nfor n in {numbers}: os.write(n, str(n).encode())"
    writes = {number: write for number, (_, write) in zip(numbers, pipes, strict=True)}
    _, ended = await behind.start([sys.executable, "-I", "-S", "-c", code], writes)
    for write in writes.values():
        os.close(write)
    async with asyncio.timeout(HANG):
        assert (await ended).code == 0
        assert [await text_of(read) for read, _ in pipes] == [str(number) for number in numbers]


async def test_one_descriptor_may_get_several_numbers(behind: Programs) -> None:
    read, write = os.pipe()
    _, ended = await behind.start(
        ["/bin/sh", "-c", "echo a >&1; echo b >&2; echo c >&7"], {1: write, 2: write, 7: write}
    )
    os.close(write)
    async with asyncio.timeout(HANG):
        assert (await ended).code == 0
        assert await text_of(read) == "a\nb\nc\n"


async def test_as_many_descriptors_as_a_packet_takes(behind: Programs) -> None:
    read, write = os.pipe()
    code = "import os\nfor n in range(10, 40): os.write(n, b'x')"
    _, ended = await behind.start([sys.executable, "-I", "-S", "-c", code], dict.fromkeys(range(10, 40), write))
    os.close(write)
    async with asyncio.timeout(HANG):
        assert (await ended).code == 0
        assert await text_of(read) == "x" * 30


async def test_the_environment_is_exactly_what_was_given(behind: Programs) -> None:
    given = {"A": "1", "EMPTY": "", "WORDS": "two words\nand a line", "ÜMLAUT": "ß"}
    ran = await behind.run("/usr/bin/env", "-0", env=given)
    assert dict(item.split("=", 1) for item in ran.output.split("\0")[:-1]) == given
    assert (await behind.run("/usr/bin/env", env={})).output == ""


async def test_it_starts_where_it_was_told(behind: Programs) -> None:
    (behind.working_dir / "a directory").mkdir()
    for place in ("/", "/tmp", str(behind.working_dir), str(behind.working_dir / "a directory")):
        assert (await behind.run("/bin/pwd", cwd=place)).output == f"{place}\n"


async def test_commands_are_looked_for_in_its_own_path(behind: Programs) -> None:
    (behind.working_dir / "bin").mkdir()
    tool = behind.working_dir / "bin" / "mytool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    path = f"{behind.working_dir}/bin"
    assert (await behind.run("mytool", env={"PATH": path})).output == "mine\n"
    with pytest.raises(ProgramStartError, match="mytool"):
        await behind.run("mytool", env={"PATH": "/usr/bin"})


@pytest.mark.parametrize(
    ("argv", "cwd", "words"),
    [
        (["no-such-command"], "/", ["no-such-command", "No such file"]),
        (["/etc/os-release"], "/", ["/etc/os-release", "Permission denied"]),
        (["/bin/true"], "/no/such/place", ["/no/such/place", "No such file"]),
        (["/bin/true\0"], "/", ["null"]),
    ],
)
async def test_what_can_not_start_is_named_with_the_reason(
    behind: Programs, argv: list[str], cwd: str, words: list[str]
) -> None:
    with pytest.raises(ProgramStartError) as caught:
        await behind.run(*argv, cwd=cwd)
    assert all(word in str(caught.value) for word in words), caught.value
    assert (await behind.shell("echo next")).output == "next\n"


# ---- signals ----------------------------------------------------------------------------------------------------


async def test_a_signal_goes_to_the_group_and_not_to_those_who_left_it(behind: Programs) -> None:
    read, write = os.pipe()
    code = """
import os, signal, time
def told(signum, frame):
    os.write(1, b'told\\n')
    os._exit(0)
signal.signal(signal.SIGUSR1, told)
for leaves in (True, False):
    if os.fork() == 0:
        if leaves:
            os.setsid()
            signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'wrong\\n'))
        os.write(1, b'up\\n')
        while True:
            time.sleep(999)
child = os.fork()
if child == 0:
    os.write(1, b'up\\n')  # a signal that comes before would be lost: Python forgets those of its parent in a fork
    time.sleep(999)
signal.signal(signal.SIGUSR1, lambda *_: None)
os.write(1, b'up\\n')
os.waitpid(child, 0)
os._exit(9)
"""
    sandboxed, ended = await behind.start([sys.executable, "-I", "-S", "-c", code], {1: write, 2: write})
    os.close(write)
    assert [await line_of(read) for _ in range(4)] == ["up\n"] * 4
    sandboxed.signal(signal.SIGUSR1)
    async with asyncio.timeout(HANG):
        assert (await ended).code == 9
        assert set((await text_of(read)).splitlines()) == {"told"}


async def test_signals_start_with_their_default_meaning(behind: Programs) -> None:
    code = """
import signal
ignored = [signal.Signals(s).name for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]
print(sorted(ignored), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
"""
    # Python itself ignores SIGPIPE and SIGXFSZ.
    assert (await behind.python(code)).output == "['SIGPIPE', 'SIGXFSZ'] []\n"
    ran = await behind.shell("grep SigIgn /proc/self/status; grep SigBlk /proc/self/status")
    assert {int(line.split()[1], 16) for line in ran.output.splitlines()} == {0}


# ---- its pid 1 --------------------------------------------------------------------------------------------------


async def test_orphans_are_collected(behind: Programs) -> None:
    code = """
import os, time
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
def zombies():
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open(f'/proc/{name}/stat') as file:
                    found += [name] if file.read().rpartition(')')[2].split()[0] == 'Z' else []
            except OSError:
                pass
    return found
for _ in range(1000):
    if not zombies():
        break
    time.sleep(0.01)
print(zombies())
"""
    assert (await behind.python(code)).output == "[]\n"


async def test_pid_1_is_ours_and_can_not_be_looked_into(behind: Programs) -> None:
    code = """
import os
print(open('/proc/1/comm').read().strip(), os.getppid())
for name in ('environ', 'mem', 'maps', 'auxv'):
    try:
        open(f'/proc/1/{name}', 'rb').read(1)
        print('can read', name)
    except OSError:
        pass
for name in ('fd', 'fd/3', 'root', 'cwd', 'exe', 'ns/user'):
    try:
        (os.listdir if name == 'fd' else os.readlink)(f'/proc/1/{name}')
        print('can see', name)
    except OSError:
        pass
try:
    os.kill(1, 9)
    os.kill(1, 15)
except OSError as error:
    print(error)
"""
    ran = await behind.python(code)
    assert ran.output == "ipybox-init 1\n"
    assert ran.status.code == 0  # signals of its own do nothing to pid 1 of a pid namespace


async def test_only_the_program_and_its_pid_1_are_there(behind: Programs) -> None:
    ran = await behind.python("import os; print(sum(name.isdigit() for name in os.listdir('/proc')))")
    assert ran.output == "2\n"


# ---- how it is confined -----------------------------------------------------------------------------------------


async def test_it_has_no_rights(behind: Programs) -> None:
    ran = await behind.shell("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id -u; cat /proc/self/uid_map")
    facts = dict(line.split(":", 1) for line in ran.output.splitlines() if ":" in line)
    assert {facts.pop("NoNewPrivs").strip(), facts.pop("Seccomp").strip()} == {"1", "2"}
    assert {int(value, 16) for value in facts.values()} == {0}
    assert len(facts) == 5
    uid, mapping = ran.output.splitlines()[-2:]
    assert uid != "0"
    assert mapping.split()[0] == uid
    assert mapping.split()[2] == "1"


async def test_no_more_namespaces_and_no_mounts(behind: Programs) -> None:
    ran = await behind.shell(
        "unshare -Ur true; echo $?; mount -t tmpfs none /mnt; echo $?; nsenter -t 1 -m true; echo $?"
    )
    assert "\n0\n" not in f"\n{ran.output}"


async def test_the_host_s_facts_in_proc_are_masked_and_frozen(behind: Programs) -> None:
    code = f"""
import os
for name in {confine.MASKED!r}:
    path = '/proc/' + name
    try:
        if os.path.isdir(path):
            print(*(f'{{name}}/{{each}}' for each in os.listdir(path)))
        elif open(path, 'rb').read(1):
            print(name)
    except OSError:
        pass
for path in ('/proc/sys/kernel/hostname', '/proc/sys/vm/drop_caches', '/proc/sys/kernel/core_pattern'):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print('can write', path)
    except OSError:
        pass
print(os.uname().nodename)
"""
    assert (await behind.python(code)).output.split() == ["sandbox"]


async def test_there_is_a_loopback_interface_of_its_own_and_no_other(behind: Programs) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    code = f"""
import socket
print([name for _, name in socket.if_nameindex()])
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname(), 5)
print('talks')
for address in (('192.0.2.1', 80), ('8.8.8.8', 53)):
    try:
        socket.create_connection(address, 5)
        print('reached', address)
    except OSError:
        pass
try:
    # What answers may be this program itself: each loopback has its own ports, and they may be the same.
    socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 5)
except OSError:
    pass
try:
    socket.socket(socket.AF_UNIX)
    print('unix socket')
except OSError:
    pass
"""
    try:
        assert (await behind.python(code)).output == "['lo']\ntalks\n"
        with pytest.raises(BlockingIOError):
            listener.accept()
    finally:
        listener.close()


async def test_scratch_space_is_its_own_empty_and_gone_afterwards(behind: Programs) -> None:
    name = f"{behind.working_dir.parent.name}-{os.getpid()}"
    script = f"cd; for d in /tmp /dev/shm $PWD; do ls $d/{name} && echo old; echo x > $d/{name} && echo written; done"
    for _ in range(2):
        ran = await behind.run("/bin/sh", "-c", script + " 2>/dev/null", env={"PATH": "/bin", "HOME": "/run/home"})
        assert ran.output.split() == ["written"] * 3
    assert not Path("/dev/shm", name).exists()
    assert not Path("/tmp", name).exists()


@KINDS
async def test_limits_are_what_the_policy_says(tmp_path: Path, kind: str) -> None:
    limits = Limits(processes=37, open_files=99, cpu_time=7, file_size=5000, scratch=1 << 20, shared_memory=1 << 21)
    code = """
import os, resource
for name in ('NPROC', 'NOFILE', 'CPU', 'FSIZE', 'CORE'):
    print(*resource.getrlimit(getattr(resource, 'RLIMIT_' + name)))
for path in ('/tmp', '/run/home', '/dev/shm'):
    facts = os.statvfs(path)
    print(facts.f_blocks * facts.f_frsize)
"""
    async with programs(tmp_path, SandboxPolicy(limits=limits), kind) as running:
        ran = await running.python(code)
    sizes = ["1048576", "1048576", "2097152"]
    assert ran.output.splitlines() == ["37 37", "99 99", "7 8", "5000 5000", "1 1", *sizes]


@KINDS
async def test_a_fork_bomb_meets_its_limit_and_its_neighbours_do_not(tmp_path: Path, kind: str) -> None:
    code = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(999)
        count += 1
except OSError:
    pass
print(count, flush=True)
"""
    async with programs(tmp_path, SandboxPolicy(limits=Limits(processes=30)), kind) as running:
        first, second = await asyncio.gather(running.python(code), running.python(code))
    for ran in (first, second):
        assert 10 < int(ran.output.splitlines()[-1]) <= 30


# ---- the file system --------------------------------------------------------------------------------------------


async def test_the_working_directory_is_written_as_its_owner(behind: Programs) -> None:
    (behind.working_dir / "in").write_text("data")
    assert (await behind.shell("cat in > out; ls -n out | cut -d' ' -f3 > owner; echo x > /usr/x")).status.code != 0
    assert (behind.working_dir / "out").read_text() == "data"
    assert (behind.working_dir / "out").stat().st_uid == os.getuid()


@KINDS
async def test_links_with_protected_names(tmp_path: Path, kind: str) -> None:
    """One kind of wall keeps them, the other says that it can't."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hooks").symlink_to("../hooks")
    if kind == "separate":
        with pytest.raises(ProgramStartError, match="hooks"):
            async with programs(tmp_path, kind=kind):
                pass
        return
    async with programs(tmp_path, kind=kind) as running:
        ran = await running.shell("rm -f .git/hooks; mv .git/hooks x; ln -sfn /tmp .git/hooks; readlink .git/hooks")
    assert ran.output.splitlines()[-1] == "../hooks"
    assert os.readlink(tmp_path / ".git" / "hooks") == "../hooks"


# ---- many, and the wall's own end -------------------------------------------------------------------------------


async def test_thirty_at_once_keep_apart(behind: Programs) -> None:
    script = "echo {0} > /tmp/mine; read go; cat /tmp/mine"
    async with asyncio.timeout(3 * HANG):
        ends = []
        gates = []
        for number in range(30):
            read, write = os.pipe()
            gate, open_gate = os.pipe()
            ends.append(asyncio.gather(behind.start(["/bin/sh", "-c", script.format(number)], {0: gate, 1: write})))
            gates.append((read, write, gate, open_gate))
        started = [(await end)[0] for end in ends]
        assert len({sandboxed.pid for sandboxed, _ in started}) == 30
        assert not any(sandboxed.is_over for sandboxed, _ in started)
        for _, write, gate, open_gate in gates:
            os.write(open_gate, b"\n")
            for fd in (write, gate, open_gate):
                os.close(fd)
        assert {(await ended).code for _, ended in started} == {0}
        assert [await text_of(read) for read, *_ in gates] == [f"{number}\n" for number in range(30)]


@KINDS
async def test_closing_ends_all_of_them(tmp_path: Path, kind: str) -> None:
    before = set(below_us())
    ends = []
    async with programs(tmp_path, kind=kind) as running:
        for _ in range(5):
            read, write = os.pipe()
            _, ended = await running.start(["/bin/sh", "-c", f"setsid sleep 999 & echo up; {FOREVER}"], {1: write})
            os.close(write)
            assert await line_of(read) == "up\n"
            ends.append((read, ended))
        inside = [process for process in below_us() if process not in before]
    async with asyncio.timeout(HANG):
        for read, ended in ends:
            assert await text_of(read) == ""
            await asyncio.wait([ended])
    assert not await survivors(inside, HANG)


@KINDS
async def test_a_closed_wall_is_gone_with_all_that_was_behind_it(tmp_path: Path, kind: str) -> None:
    """When close() returns there is nothing left to wait for: no process, no descriptor, no mount."""
    async with programs(tmp_path, kind=kind) as running:
        await running.shell("true")  # whatever is opened once is open now
    assert await eventually(lambda: not below_us())
    before, mounts = len(os.listdir("/proc/self/fd")), Path("/proc/self/mountinfo").read_text()
    async with programs(tmp_path, kind=kind) as running:
        assert running.supervisor._wall is not None
        read, write = os.pipe()
        _, ended = await running.start(["/bin/sh", "-c", f"echo up; {FOREVER}"], {1: write})
        os.close(write)
        assert await line_of(read) == "up\n"
        os.close(read)
        with pytest.raises(ProgramStartError):
            await running.run("no-such-command")
        inside = below_us()
    await asyncio.wait([ended])
    assert not [process for process in inside if is_alive(process)]
    assert len(os.listdir("/proc/self/fd")) <= before
    assert Path("/proc/self/mountinfo").read_text() == mounts


async def test_a_killed_wall_ends_its_programs_and_the_next_one_gets_a_new_wall(tmp_path: Path) -> None:
    async with programs(tmp_path, kind="nested") as running:
        wall = running.supervisor._wall
        assert isinstance(wall, NestedWall)
        assert wall.pid is not None
        before = wall.pid
        read, write = os.pipe()
        _, ended = await running.start(["/bin/sh", "-c", f"echo up; {FOREVER}"], {1: write})
        os.close(write)
        assert await line_of(read) == "up\n"
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(HANG):
            assert await ended == ExitStatus("signalled", signal=signal.SIGKILL)
            assert await text_of(read) == ""
        assert (await running.shell("echo again")).output == "again\n"
        assert wall.pid != before


async def test_a_program_that_is_started_while_the_wall_ends_gets_a_new_wall(tmp_path: Path) -> None:
    """Its pid 1 is gone, and nobody has heard of that yet."""
    async with programs(tmp_path, kind="nested") as running:
        wall = running.supervisor._wall
        assert isinstance(wall, NestedWall)
        for _ in range(10):
            assert wall.pid is not None
            (first,) = psutil.Process(wall.pid).children()
            first.kill()
            await running.shell("true")  # it starts; it may have been the last one behind the old wall
            assert not await survivors([first], HANG)
            assert (await running.shell("echo again")).output == "again\n"


def runs_python(process: psutil.Process) -> bool:
    return "launcher" in " ".join(command_of(process)) and name_of(process) != "bwrap"


async def test_a_launcher_that_died_is_replaced_for_the_next_program(tmp_path: Path) -> None:
    """Not bubblewrap is killed but what runs in it, as the machine does that is short of memory."""
    async with programs(tmp_path, kind="nested") as running:
        wall = running.supervisor._wall
        assert isinstance(wall, NestedWall)
        assert wall.pid is not None
        first = psutil.Process(wall.pid)
        # Zombies of the trial may be among them for a moment.
        (*_, launcher) = [each for each in first.children(recursive=True) if is_alive(each) and runs_python(each)]
        launcher.kill()
        assert not await survivors([first], HANG)
        assert (await running.shell("echo again")).output == "again\n"


async def test_one_separate_wall_that_is_killed_is_nobody_else_s_business(tmp_path: Path) -> None:
    async with programs(tmp_path, kind="separate") as running:
        wall = running.supervisor._wall
        assert isinstance(wall, SeparateWalls)
        assert await eventually(lambda: not below_us())  # the trial had a bubblewrap of its own
        reads, ends, gate = [], [], os.pipe()
        for _ in range(2):
            read, write = os.pipe()
            argv = ["/bin/sh", "-c", "echo up; read line; echo $line"]
            ends.append((await running.start(argv, {0: gate[0], 1: write}))[1])
            os.close(write)
            reads.append(read)
            assert await line_of(read) == "up\n"
        first = next(
            each
            for each in psutil.Process().children()
            if each.create_time() == min(other.create_time() for other in psutil.Process().children())
        )
        first.kill()
        async with asyncio.timeout(HANG):
            assert await text_of(reads[0]) == ""
            assert await ends[0] == ExitStatus("signalled", signal=signal.SIGKILL)
            os.write(gate[1], b"goes on\n")
            assert (await ends[1]).code == 0
            assert await text_of(reads[1]) == "goes on\n"
        for fd in gate:
            os.close(fd)


async def test_a_wall_that_can_not_be_built_says_what_bubblewrap_says(tmp_path: Path) -> None:
    policy = SandboxPolicy()
    plan = plan_for(policy, tmp_path)
    broken = replace(plan, python="/no/such/python")
    wall = NestedWall(broken)
    with pytest.raises(ProgramStartError, match=r"no/such|ipybox"):
        async with asyncio.timeout(HANG):
            await wall.open()
    await wall.close()
    assert wall.pid is None
    gone = replace(plan, bubblewrap=replace(plan.bubblewrap, path="/no/such/bwrap"))
    wall = NestedWall(gone)
    with pytest.raises(ProgramStartError, match="no/such/bwrap"):
        async with asyncio.timeout(HANG):
            await wall.open()
    await wall.close()


async def test_what_bubblewrap_says_is_kept(tmp_path: Path) -> None:
    plan = plan_for(SandboxPolicy(), tmp_path)
    process = WallProcess(
        plan, ["/bin/sh", "-c", "for n in $(seq 100); do echo line $n >&2; done; exit 3"], name="test"
    )
    async with asyncio.timeout(HANG):
        assert await process.ended() == 3
    assert process.is_over
    assert process.last_lines.splitlines()[-1] == "line 100"
    assert len(process.last_lines.splitlines()) == 30
    await process.kill()


@KINDS
async def test_private_space_below_a_writable_place(tmp_path: Path, kind: str) -> None:
    """What was bound below a private directory is still there when the program has its own."""
    policy = SandboxPolicy(filesystem=FilesystemPolicy(deny_write=("kept",)))
    (tmp_path / "kept").mkdir()
    async with programs(tmp_path, policy, kind) as running:
        ran = await running.shell("echo x > free && echo y > kept/no; ls /tmp")
    assert (tmp_path / "free").exists()
    assert not (tmp_path / "kept" / "no").exists()
    assert "Read-only file system" in ran.output


@KINDS
async def test_unix_sockets_only_when_the_policy_says_so(tmp_path: Path, kind: str) -> None:
    policy = SandboxPolicy(network=NetworkPolicy(allow_all_unix_sockets=True))
    code = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen(); print('made')"
    async with programs(tmp_path, policy, kind) as running:
        assert (await running.python(code)).output == "made\n"
