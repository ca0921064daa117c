"""A child process of ours: heard line by line, ended with all of its family, also when we are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipybox.process.child import ChildProcess
from tests.process.witness import PATIENCE, Witness, ends, needs_linux

DEAF = "ignore(signal.SIGTERM); here(); forever()"
POLITE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); here(); forever()"

Start = Callable[..., ChildProcess]


@pytest.fixture
def start(witness: Witness) -> Iterator[Start]:
    """Starts programs of the witness's kind, and ends them in the end."""
    children: list[ChildProcess] = []

    def begin(code: str, *arguments: str, **options: Any) -> ChildProcess:
        options = {"env": {}, **options}
        child = ChildProcess(witness.program(code, *arguments), pass_fds=[witness.fd], **options)
        children.append(child)
        witness.left_to_them()
        return child

    yield begin
    for child in children:
        child.stop(PATIENCE)


def open_files() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd" if sys.platform.startswith("linux") else "/dev/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue  # the listing's own descriptor
        found.add(int(name))
    return found


# ---- what it says -----------------------------------------------------------------------------------------------


def test_every_line_of_both_streams_is_heard_in_order(start: Start) -> None:
    heard: list[str] = []
    code = "[print(n, file=[sys.stdout, sys.stderr][n % 2], flush=True) for n in range(500)]"
    child = start(code, on_line=heard.append)
    assert child.wait(PATIENCE) == 0
    child.stop(PATIENCE)
    assert heard == [str(number) for number in range(500)]


def test_the_last_lines_are_kept(start: Start) -> None:
    child = start("[print(n) for n in range(500)]; sys.exit(3)")
    assert child.wait(PATIENCE) == 3
    lines = child.last_lines().splitlines()
    assert lines == [str(number) for number in range(500 - len(lines), 500)]
    assert len(lines) >= 20


def test_a_last_line_without_an_end_is_a_line(start: Start) -> None:
    child = start("sys.stdout.write('a\\nb')")
    child.wait(PATIENCE)
    assert child.last_lines() == "a\nb"


def test_a_line_that_never_ends_does_not_fill_our_memory(start: Start) -> None:
    heard: list[str] = []
    child = start("sys.stdout.write('x' * 100_000)", on_line=heard.append)
    child.wait(PATIENCE)
    child.stop(PATIENCE)
    assert "".join(heard) == "x" * 100_000
    assert len(heard) > 1


def test_bytes_that_are_no_utf_8_do_not_disturb(start: Start) -> None:
    child = start("sys.stdout.buffer.write(b'a\\xff\\n\\x80b\\n')")
    child.wait(PATIENCE)
    assert child.last_lines() == "a\ufffd\n\ufffdb"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_raises_does_not_stop_the_child(start: Start) -> None:
    # Such as one that copies lines to a stderr whose reader has gone. The pipe must be emptied all the same.
    def broken(line: str) -> None:
        raise BrokenPipeError("nobody reads this")

    child = start("[print('x' * 1000) for _ in range(1000)]", on_line=broken)
    assert child.wait(PATIENCE) == 0


def test_a_command_that_can_not_be_run_says_why() -> None:
    child = ChildProcess(["/no/such/command"], env={})
    assert child.wait(PATIENCE) == 127
    assert child.last_lines().startswith("can't run /no/such/command: ")
    child.stop(PATIENCE)


# ---- what it gets -----------------------------------------------------------------------------------------------


def test_its_environment_is_what_it_was_given(start: Start) -> None:
    env = {"A": "1", "LC_ALL": "C.UTF-8", "Ü": "a\nb"}
    child = start("print(ascii(dict(os.environ)))", env=env)
    assert child.wait(PATIENCE) == 0
    assert child.last_lines() == ascii(env)


@needs_linux
def test_nothing_at_all_is_an_environment_too() -> None:
    child = ChildProcess(["/bin/cat", "/proc/self/environ"], env={})
    assert child.wait(PATIENCE) == 0
    assert child.last_lines() == ""
    child.stop(PATIENCE)


def test_it_can_not_ask_our_terminal_and_does_not_hold_our_directory(start: Start) -> None:
    child = start("print(repr(sys.stdin.read()), os.getcwd(), os.getsid(0) == os.getppid())")
    assert child.wait(PATIENCE) == 0
    assert child.last_lines() == "'' / True"


def test_what_it_inherits_has_the_same_number(start: Start, witness: Witness) -> None:
    child = start("here()")
    assert witness.pids(1)
    assert child.wait(PATIENCE) == 0


def test_a_child_that_can_not_be_started_leaves_no_descriptor_behind() -> None:
    before = open_files()
    with pytest.raises(ValueError):
        ChildProcess(["/bin/true"], env={"A": "\0"})
    assert open_files() == before


# ---- what it needs ----------------------------------------------------------------------------------------------


def test_what_it_needs_is_made_before_it_runs_and_goes_with_it(start: Start, tmp_path: Path) -> None:
    place = tmp_path / "private"
    child = start("print(os.listdir(sys.argv[2]))", str(place), remove=place, prepare=place.mkdir)
    assert child.wait(PATIENCE) == 0
    assert child.last_lines() == "[]"
    assert not place.exists()


def test_when_that_can_not_be_made_nothing_runs_and_nothing_is_left(witness: Witness, tmp_path: Path) -> None:
    place = tmp_path / "private"
    before = open_files()

    def fail() -> None:
        place.mkdir()
        (place / "file").touch()
        raise KeyError("no more")

    with pytest.raises(KeyError):
        ChildProcess(witness.program("here()"), env={}, pass_fds=[witness.fd], remove=place, prepare=fail)
    assert open_files() == before
    assert not place.exists()
    witness.left_to_them()
    assert witness.all_gone(0)


HALF_DONE = """
import os, signal, sys
from pathlib import Path
from ipybox.process.child import ChildProcess
place = Path(sys.argv[1])
def prepare():
    place.mkdir()
    (place / "file").touch()
    print("made", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
ChildProcess(["/bin/sleep", "60"], env={}, remove=place, prepare=prepare)
"""


def test_who_is_killed_while_making_it_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "private"
    done = subprocess.run([sys.executable, "-c", HALF_DONE, str(place)], stdout=subprocess.PIPE, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"made\n")
    deadline = time.monotonic() + PATIENCE
    while place.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not place.exists()


# ---- its end ----------------------------------------------------------------------------------------------------


def test_it_is_alive_until_it_ends(start: Start, witness: Witness) -> None:
    child = start(POLITE)
    witness.pids(1)
    alive = child.is_alive
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    child.stop(PATIENCE)
    assert (alive, child.is_alive) == (True, False)
    assert child.wait(0) == 7


def test_stopping_twice_is_fine_and_so_is_stopping_what_has_ended(start: Start) -> None:
    child = start("sys.exit(3)")
    assert child.wait(PATIENCE) == 3
    child.stop(PATIENCE)
    child.stop(PATIENCE)
    assert child.wait(0) == 3


def test_nothing_stays_open_here_after_the_stop(start: Start, witness: Witness) -> None:
    before = open_files() - {witness.fd}
    threads = threading.active_count()
    child = start(POLITE)
    witness.pids(1)
    child.stop(PATIENCE)
    assert open_files() == before
    assert threading.active_count() == threads


@needs_linux
def test_stopping_ends_the_whole_family_and_removes_the_directory(
    start: Start, witness: Witness, tmp_path: Path
) -> None:
    place = tmp_path / "private"
    place.mkdir()
    code = "child(daemonize); os.wait(); child(lambda: [ignore(signal.SIGTERM), stay()]); here(); forever()"
    child = start(code, remove=place)
    witness.pids(3)
    child.stop(PATIENCE)
    assert witness.all_gone(0)
    assert not place.exists()


@needs_linux
def test_patience_that_is_over_ends_the_whole_family_by_force(start: Start, witness: Witness, tmp_path: Path) -> None:
    # Shorter than what the warden grants its command, so it is not the warden that ends them.
    place = tmp_path / "private"
    place.mkdir()
    code = "child(daemonize); os.wait(); child(lambda: [ignore(signal.SIGTERM), stay()]); " + DEAF
    child = start(code, remove=place)
    witness.pids(3)
    child.stop(0.05)
    assert not child.is_alive
    assert witness.all_gone(0)
    assert not place.exists()


@needs_linux
def test_a_warden_that_hangs_is_no_excuse(start: Start, witness: Witness) -> None:
    child = start("child(daemonize); os.wait(); here(); forever()")
    witness.pids(2)
    os.kill(child.pid, signal.SIGSTOP)
    child.stop(0.05)
    assert not child.is_alive
    assert witness.all_gone(0)


@needs_linux
def test_a_family_on_the_run_does_not_escape_a_stop_by_force(start: Start, witness: Witness) -> None:
    child = start("[child(run_away) for _ in range(4)]; " + DEAF)
    witness.pids(5)
    os.kill(child.pid, signal.SIGSTOP)
    child.stop(0.05)
    assert witness.all_gone(0)


@needs_linux
def test_a_stop_right_after_the_start_leaves_nothing(start: Start, witness: Witness, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    child = start(DEAF, remove=place)
    child.stop(PATIENCE)
    assert witness.all_gone(0)
    assert not place.exists()


OWNER = """
import os, signal, sys
from pathlib import Path
from ipybox.process.child import ChildProcess
witness, place, *command = sys.argv[1:]
child = ChildProcess(command, env={}, pass_fds=[int(witness)], remove=Path(place))
os.close(int(witness))
print(child.pid, flush=True)
sys.stdin.read()
"""


@needs_linux
@pytest.mark.parametrize("ending", ["is killed", "ends without a word", "ends as programs do"])
def test_when_its_owner_is_gone_so_is_all_of_it(witness: Witness, tmp_path: Path, ending: str) -> None:
    place = tmp_path / "private"
    place.mkdir()
    command = witness.program("child(daemonize); os.wait(); child(stay); here(); forever()")
    last_act = "os._exit(0)" if ending == "ends without a word" else ""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER + last_act, str(witness.fd), str(place), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[witness.fd],
    ) as owner:
        witness.left_to_them()
        assert owner.stdout is not None
        assert owner.stdin is not None
        warden = os.pidfd_open(int(owner.stdout.readline()))
        witness.pids(3)
        if ending == "is killed":
            owner.kill()
        else:
            owner.stdin.close()
        owner.wait(PATIENCE)
    assert ends(warden)
    os.close(warden)
    assert witness.all_gone(0)
    assert not place.exists()


@needs_linux
def test_an_owner_that_is_killed_right_after_the_start_leaves_nothing(witness: Witness, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    last_act = "os.kill(os.getpid(), signal.SIGKILL)"
    code = OWNER.replace("sys.stdin.read()", last_act)
    command = witness.program("forever()")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(witness.fd), str(place), *command],
        stdout=subprocess.PIPE,
        pass_fds=[witness.fd],
    ) as owner:
        witness.left_to_them()
        assert owner.stdout is not None
        try:
            warden = os.pidfd_open(int(owner.stdout.readline()))
        except ProcessLookupError:
            pass  # it was quick
        else:
            assert ends(warden)
            os.close(warden)
    assert witness.all_gone(0)
    assert not place.exists()


def test_the_pid_is_that_of_the_commands_parent(start: Start) -> None:
    child = start("print(os.getppid())")
    child.wait(PATIENCE)
    assert child.last_lines() == str(child.pid)
