"""A command under a warden: what it is given, how it is said to have ended, and that nothing of it stays. Real ones."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from ipybox.exit_status import ExitStatus
from ipybox.process.command import WardedCommand
from tests.process.witness import PREAMBLE, Witness, ends, needs_linux

pytestmark = [needs_linux, pytest.mark.asyncio]

HANG = 20.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class Commands:
    """Starts commands whose output goes to one pipe, and cleans up after them."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._null = os.open(os.devnull, os.O_RDWR)
        self._commands: list[WardedCommand] = []

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] = ENVIRONMENT,
        cwd: str | Path = "/",
        grace: float = 5.0,
        **options: Any,
    ) -> WardedCommand:
        """Starts one, and lets go of it should it not start."""
        stdio = (self._null, self._write, self._write)
        command = WardedCommand(argv, env=env, cwd=str(cwd), stdio=stdio, grace=grace, **options)
        self._commands.append(command)
        return command

    def shell(self, line: str, **options: Any) -> WardedCommand:
        """Starts a shell."""
        return self.start(["sh", "-c", line], **options)

    def python(self, code: str, **options: Any) -> WardedCommand:
        """Starts a program of the witness's kind, which tells its pids on stdout."""
        return self.start([sys.executable, "-I", "-S", "-c", PREAMBLE + code, "1"], **options)

    async def output(self) -> bytes:
        """What all of them have written, once nobody can write any more."""
        os.close(self._write)
        self._write = -1
        async with asyncio.timeout(HANG):
            return await asyncio.to_thread(self._rest)

    async def text(self) -> str:
        """The same as text."""
        return (await self.output()).decode()

    def _rest(self) -> bytes:
        with os.fdopen(os.dup(self._read), "rb") as pipe:
            return pipe.read()

    async def line(self) -> str:
        """The next line."""
        async with asyncio.timeout(HANG):
            return await asyncio.to_thread(self._line)

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._read, 1) or b"nothing more\n"
        return line.decode()

    async def close(self) -> None:
        """Ends those that run."""
        for command in self._commands:
            command.kill()
            await status_of(command)
        for fd in (self._read, self._write, self._null):
            if fd >= 0:
                os.close(fd)


@pytest_asyncio.fixture
async def commands() -> AsyncIterator[Commands]:
    starter = Commands()
    yield starter
    await starter.close()


async def status_of(command: WardedCommand) -> ExitStatus:
    async with asyncio.timeout(HANG):
        return await command.ended()


def running(pid: int | None) -> int:
    """A hold on a process, to be told of its end by."""
    assert pid is not None
    return os.pidfd_open(pid)


# ---- what it is given -------------------------------------------------------------------------------------------


async def test_it_has_its_arguments_as_they_are(commands: Commands) -> None:
    arguments = ["a b", "", "--", "--undo", "$HOME", "é", "\udcff"]
    await status_of(commands.start(["printf", "[%s]", *arguments]))
    assert await commands.output() == b"".join(b"[%s]" % os.fsencode(each) for each in arguments)


async def test_it_has_its_environment_and_no_more(commands: Commands) -> None:
    env = {**ENVIRONMENT, "EMPTY": "", "TEXT": "a=b c", "BYTES": "\udcff", "_": "underline"}
    await status_of(commands.start(["env"], env=env))
    assert (await commands.output()).splitlines() == [os.fsencode(f"{name}={value}") for name, value in env.items()]


async def test_it_runs_in_its_directory(commands: Commands, tmp_path: Path) -> None:
    await status_of(commands.shell("pwd -P", cwd=tmp_path))
    assert await commands.text() == f"{tmp_path}\n"


@pytest.mark.parametrize("name", ["LC_ALL", "LANG", "LC_CTYPE"])
@pytest.mark.parametrize("value", [None, "", "C", "POSIX", "C.UTF-8"])
async def test_its_locale_is_what_was_given_and_not_what_its_warden_makes_of_it(
    commands: Commands, name: str, value: str | None
) -> None:
    env = {"PATH": ENVIRONMENT["PATH"], **({} if value is None else {name: value})}
    assert (await status_of(commands.start(["env"], env=env))).code == 0
    assert (await commands.text()).splitlines() == [f"{name}={value}" for name, value in env.items()]


async def test_it_is_looked_up_in_its_own_path(commands: Commands, tmp_path: Path) -> None:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    await status_of(commands.start(["only-here"], env={"PATH": f"/nowhere:{tmp_path}:/bin"}))
    assert await commands.text() == "found\n"


async def test_it_leads_a_session_of_its_own(commands: Commands) -> None:
    await status_of(commands.python("print(os.getsid(0) == os.getpgid(0) == os.getpid() != os.getppid())"))
    assert await commands.text() == "True\n"


async def test_its_pid_is_known_once_it_has_started(commands: Commands) -> None:
    command = commands.shell("echo $$ $PPID; exec sleep 999")
    await command.started()
    assert await commands.line() == f"{command.pid} {command.warden_pid}\n"


async def test_it_may_use_only_so_much_processor_time(commands: Commands) -> None:
    await status_of(commands.shell("ulimit -St; ulimit -Ht", cpu_time=7))
    assert await commands.text() == "7\n8\n"


async def test_it_has_no_descriptor_but_the_three(commands: Commands) -> None:
    await status_of(commands.python("print([fd for fd in range(100) if os.path.exists(f'/proc/self/fd/{fd}')])"))
    assert await commands.text() == "[0, 1, 2]\n"


async def test_its_warden_keeps_none_of_the_three(commands: Commands) -> None:
    command = commands.shell("exec >&- 2>&- <&-; exec sleep 999")
    await command.started()
    assert await commands.text() == ""  # nobody holds the pipe any more
    assert os.path.exists(f"/proc/{command.pid}")


async def test_the_three_stay_the_callers(commands: Commands) -> None:
    for word in ("one", "two"):
        await status_of(commands.start(["echo", word]))
    assert await commands.text() == "one\ntwo\n"


# ---- how it ended -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 127, 255])
async def test_an_exit_code_is_said(commands: Commands, code: int) -> None:
    assert await status_of(commands.shell(f"exit {code}")) == ExitStatus("exited", code=code)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE, signal.SIGSEGV])
async def test_a_signal_is_said_and_told_apart_from_an_exit_code(commands: Commands, signum: signal.Signals) -> None:
    killed = commands.shell(f"ulimit -c 0; kill -{signum:d} $$")
    assert await status_of(killed) == ExitStatus("signalled", signal=signum)
    assert await status_of(commands.shell(f"exit {128 + signum:d}")) == ExitStatus("exited", code=128 + signum)


async def test_many_at_once_are_told_apart(commands: Commands) -> None:
    started = [commands.shell(f"exit {code}") for code in range(20)]
    assert [(await status_of(command)).code for command in started] == list(range(20))


async def test_its_end_can_be_asked_for_again(commands: Commands) -> None:
    command = commands.shell("exit 3")
    assert await status_of(command) == await status_of(command) == ExitStatus("exited", code=3)
    await command.started()
    command.terminate()
    command.kill()


async def test_who_waits_no_more_does_not_end_it(commands: Commands) -> None:
    command = commands.shell("read line; exit 3", grace=0.1)
    for waiting in (command.started(), command.ended()):
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await status_of(command) == ExitStatus("exited", code=3)


# ---- it could not be executed -----------------------------------------------------------------------------------


@pytest.fixture(
    params=["not in PATH", "not there", "below a file", "not executable", "a directory", "no program"],
)
def no_program(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, int]:
    """A command that can't be executed, and why."""
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    plain.write_text("#!/bin/sh\n")
    odd.write_bytes(b"\x00\x01\x02")
    odd.chmod(0o755)
    found: dict[str, tuple[str, int]] = {
        "not in PATH": ("no-such-command", errno.ENOENT),
        "not there": ("/no/such/command", errno.ENOENT),
        "below a file": (f"{plain}/command", errno.ENOTDIR),
        "not executable": (str(plain), errno.EACCES),
        "a directory": (str(tmp_path), errno.EACCES),
        "no program": (str(odd), errno.ENOEXEC),
    }
    return found[request.param]


async def test_why_it_can_not_be_executed_is_told_by_number(commands: Commands, no_program: tuple[str, int]) -> None:
    name, number = no_program
    command = commands.start([name])
    with pytest.raises(OSError) as error:
        await command.started()
    assert error.value.errno == number
    assert command.pid is None
    assert await status_of(command) == ExitStatus("exited", code=127)
    assert await commands.text() == ""  # it is the caller's to tell


async def test_why_it_can_not_be_executed_is_told_in_words(commands: Commands) -> None:
    with pytest.raises(OSError) as error:
        await commands.start(["/no/such/command"]).started()
    assert error.value.strerror == os.strerror(errno.ENOENT)


async def test_nobody_has_to_ask_why(commands: Commands) -> None:
    command = commands.start(["no-such-command"])
    assert (await status_of(command)).code == 127  # and an exception that nobody has taken would be an error here


async def test_descriptors_that_are_none_are_an_error_at_once() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as error:
        WardedCommand(["true"], env=ENVIRONMENT, cwd="/", stdio=(9999, 9999, 9999), grace=0.1)
    assert error.value.errno == errno.EBADF
    assert sorted(os.listdir("/proc/self/fd")) == before


# ---- ending it --------------------------------------------------------------------------------------------------

POLITE = "trap 'exit 7' TERM; echo ready; while :; do sleep 999 & wait; done"
DEAF = "trap '' TERM INT HUP QUIT; echo ready; while :; do sleep 999; done"


async def test_asked_to_end_it_may_still_answer(commands: Commands) -> None:
    command = commands.shell(POLITE)
    assert await commands.line() == "ready\n"
    command.terminate()
    assert await status_of(command) == ExitStatus("exited", code=7)


async def test_who_does_not_listen_is_ended_when_its_grace_is_over(commands: Commands) -> None:
    command = commands.shell(DEAF, grace=0.1)
    assert await commands.line() == "ready\n"
    command.terminate()
    assert await status_of(command) == ExitStatus("signalled", signal=signal.SIGKILL)


async def test_it_can_be_ended_without_being_asked(commands: Commands) -> None:
    command = commands.shell(POLITE, grace=999)
    assert await commands.line() == "ready\n"
    command.kill()
    await status_of(command)  # which does not take as long as it has


async def test_a_grace_can_be_cut_short(commands: Commands) -> None:
    command = commands.shell(DEAF, grace=999)
    assert await commands.line() == "ready\n"
    command.terminate()
    command.kill()
    assert await status_of(command) == ExitStatus("signalled", signal=signal.SIGKILL)


@pytest.mark.parametrize("ending", ["command ends", "terminate", "kill"])
async def test_when_it_has_ended_nothing_of_it_is_left(ending: str) -> None:
    witness = Witness()
    null = os.open(os.devnull, os.O_RDWR)
    code = f"{PREAMBLE}here(); child(daemonize); child(stay); forever()"
    command = WardedCommand(
        [sys.executable, "-I", "-S", "-c", code, "1"],
        env=ENVIRONMENT,
        cwd="/",
        stdio=(null, witness.fd, null),
        grace=0.1,
    )
    os.close(null)
    witness.left_to_them()
    try:
        first, *_ = await asyncio.to_thread(witness.pids, 3)
        if ending == "command ends":
            os.kill(first, signal.SIGKILL)
        else:
            getattr(command, ending)()
        await status_of(command)
        assert witness.all_gone(0)
    finally:
        command.kill()
        await asyncio.to_thread(witness.close)


async def test_a_directory_is_removed_when_all_of_it_is_gone(commands: Commands, tmp_path: Path) -> None:
    for number, line in enumerate(("touch deep/new", "kill -KILL $$", "exit 3")):
        place = tmp_path / str(number)
        (place / "deep").mkdir(parents=True)
        await status_of(commands.shell(line, cwd=place, remove=str(place)))
    place = tmp_path / "never ran"
    place.mkdir()
    await status_of(commands.start(["no-such-command"], remove=str(place)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["terminate", "kill"])
async def test_a_directory_is_removed_though_the_command_was_ended_at_once(
    commands: Commands, tmp_path: Path, ending: str
) -> None:
    place = tmp_path / "private"
    place.mkdir()
    command = commands.start(["sleep", "999"], remove=str(place))
    getattr(command, ending)()
    await status_of(command)
    assert not place.exists()


# ---- undoing it -------------------------------------------------------------------------------------------------


async def test_what_ended_by_itself_is_not_undone(commands: Commands, tmp_path: Path) -> None:
    undo = ["touch", str(tmp_path / "undone")]
    for line in ("exit 0", "exit 3", "kill -KILL $$", "sleep 999 & exit 0"):
        await status_of(commands.shell(line, undo=undo))
    await status_of(commands.start(["no-such-command"], undo=undo))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [POLITE, DEAF], ids=["polite", "deaf"])
@pytest.mark.parametrize("ending", ["terminate", "kill"])
async def test_what_was_ended_is_undone_before_that_is_said(
    commands: Commands, tmp_path: Path, ending: str, line: str
) -> None:
    place = tmp_path / "private"
    place.mkdir()
    (place / "id").write_text("what to undo\n")
    undo = ["sh", "-c", 'cat "$1" > "$2"', "sh", str(place / "id"), str(tmp_path / "undone")]
    command = commands.shell(line, undo=undo, remove=str(place), grace=0.1)
    assert await commands.line() == "ready\n"
    getattr(command, ending)()
    await status_of(command)
    assert (tmp_path / "undone").read_text() == "what to undo\n"  # it needs what is removed then
    assert not place.exists()


async def test_what_can_not_be_undone_ends_all_the_same(commands: Commands) -> None:
    command = commands.shell(DEAF, undo=["/no/such/command"], grace=0.1)
    assert await commands.line() == "ready\n"
    command.terminate()
    assert (await status_of(command)).signal == signal.SIGKILL


async def test_what_takes_its_time_to_undo_is_undone_all_the_same(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipybox.process.command._PATIENCE_SECONDS", 0.1)
    place, gate, undone = tmp_path / "private", tmp_path / "gate", tmp_path / "undone"
    place.mkdir()
    os.mkfifo(gate)
    undo = ["sh", "-c", 'read line < "$1"; touch "$2"', "sh", str(gate), str(undone)]
    command = commands.shell(DEAF, undo=undo, remove=str(place), grace=0.1)
    assert await commands.line() == "ready\n"
    command.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(1):  # longer than the patience, and nothing that a slow machine could turn around
            await command.ended()
    with open(os.open(gate, os.O_RDWR), "w") as opened:
        opened.write("go on\n")
        opened.flush()
        await status_of(command)
    assert undone.exists()
    assert not place.exists()


async def test_what_undoes_it_says_nothing_in_its_place(commands: Commands) -> None:
    command = commands.shell(DEAF, undo=["sh", "-c", "echo to stdout; echo to stderr >&2"], grace=0.1)
    assert await commands.line() == "ready\n"
    command.terminate()
    await status_of(command)
    assert await commands.text() == ""


# ---- its warden -------------------------------------------------------------------------------------------------


async def test_a_warden_that_was_killed_is_said_and_its_command_is_ended(commands: Commands) -> None:
    command = commands.shell(DEAF)
    assert await commands.line() == "ready\n"
    await command.started()
    held = running(command.pid)
    os.kill(command.warden_pid, signal.SIGKILL)
    assert await status_of(command) == ExitStatus("unknown", detail="its warden ended with -9")
    assert ends(held)
    os.close(held)


async def test_a_warden_that_its_command_stopped_ends_it_all_the_same(commands: Commands) -> None:
    command = commands.shell("kill -STOP $PPID; echo ready; exec sleep 999")
    assert await commands.line() == "ready\n"
    command.kill()
    assert (await status_of(command)).signal in (signal.SIGTERM, signal.SIGKILL)


async def test_a_command_whose_warden_was_stopped_before_it_said_a_word_is_ended_all_the_same(
    commands: Commands,
) -> None:
    command = commands.shell("exec sleep 999")
    os.kill(command.warden_pid, signal.SIGSTOP)
    command.kill()
    await status_of(command)


async def test_a_warden_has_nothing_of_the_callers_python_environment(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('planted')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('planted')")
    env = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere", "PYTHONINSPECT": "1"}
    assert await status_of(commands.start(["env"], env=env, cwd=tmp_path)) == ExitStatus("exited", code=0)
    assert set((await commands.text()).splitlines()) == {f"{name}={value}" for name, value in env.items()}


# ---- what stays with us -----------------------------------------------------------------------------------------


async def test_no_descriptor_and_no_process_is_left_to_us(commands: Commands) -> None:
    async def some() -> None:
        await status_of(commands.shell("exit 3"))
        await status_of(commands.start(["no-such-command"]))
        ended = commands.shell("exec sleep 999")
        ended.kill()
        await status_of(ended)
        orphaned = commands.shell("exec sleep 999")
        os.kill(orphaned.warden_pid, signal.SIGKILL)
        await status_of(orphaned)

    await some()
    descriptors, children = sorted(os.listdir("/proc/self/fd")), psutil.Process().children(recursive=True)
    for _ in range(3):
        await some()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children(recursive=True) == children  # no zombie either
