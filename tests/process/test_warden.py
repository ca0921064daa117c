"""A warden hands its command's end on, and nothing of the command's family survives it. Real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.process import warden
from tests.process.witness import PATIENCE, Witness, ends, needs_linux

pytestmark = needs_linux


class Warden:
    """Starts wardens whose owner is a pipe in this process."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self._owner, self._lifeline = os.pipe()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        *,
        grace: str = "5",
        remove: Path | None = None,
        more: Sequence[str] = (),
        by: Sequence[str] = (),
        fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Starts a warden: with more options, by another command that becomes it, and with more descriptors."""
        options = ["--owner-fd", str(self._owner), "--grace", grace, *more]
        if remove is not None:
            options += ["--remove", str(remove)]
        process = subprocess.Popen(
            [*by, sys.executable, "-I", "-S", warden.__file__, *options, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[self._owner, *fds, *([self.witness.fd] if self.witness.fd >= 0 else [])],
        )
        self._processes.append(process)
        self.witness.left_to_them()
        return process

    def run(self, code: str, *arguments: str, grace: str = "5", remove: Path | None = None) -> subprocess.Popen[bytes]:
        """Starts a program of the witness's kind."""
        return self.start(self.witness.program(code, *arguments), grace=grace, remove=remove)

    def owner_leaves(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def close(self) -> None:
        self.owner_leaves()
        for process in self._processes:
            if process.poll() is None:
                process.wait(PATIENCE)
            assert process.stdout is not None
            process.stdout.close()
        os.close(self._owner)


@pytest.fixture
def wardens(witness: Witness) -> Iterator[Warden]:
    starter = Warden(witness)
    yield starter
    starter.close()


def end_of(process: subprocess.Popen[bytes]) -> int:
    return process.wait(PATIENCE)


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.read()


# ---- the command's own end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_passed_through(wardens: Warden, code: int) -> None:
    assert end_of(wardens.run("sys.exit(int(sys.argv[2]))", str(code))) == code


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_that_killed_the_command_can_be_told_from_an_exit_code(wardens: Warden, signum: int) -> None:
    without_core = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    process = wardens.run(f"{without_core}; os.kill(os.getpid(), {signum:d})")
    assert end_of(process) in (-signum, 128 + signum)


def test_a_command_that_can_not_be_run_is_127_and_says_why(wardens: Warden) -> None:
    process = wardens.start(["/no/such/command"])
    assert end_of(process) == 127
    assert b"can't run /no/such/command: " in said(process)


def test_the_command_gets_its_arguments_and_its_output_is_passed_through(wardens: Warden) -> None:
    process = wardens.run("print(sys.argv[2:], flush=True); print('err', file=sys.stderr)", "--", "a b", "--remove", "")
    assert end_of(process) == 0
    assert said(process) == b"['--', 'a b', '--remove', '']\nerr\n"


def test_the_command_starts_with_no_signal_ignored_or_blocked(wardens: Warden) -> None:
    process = wardens.start(["/bin/grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"])
    assert end_of(process) == 0
    ignored_and_blocked = [int(line.split()[1], 16) for line in said(process).splitlines()]
    assert ignored_and_blocked == [0, 0]


def test_the_command_inherits_what_it_was_given_and_nothing_of_the_warden(wardens: Warden) -> None:
    process = wardens.run(
        """
listed = [int(fd) for fd in os.listdir("/proc/self/fd")]
print([fd for fd in listed if fd not in (0, 1, 2, witness) and os.path.exists(f"/proc/self/fd/{fd}")])
"""
    )
    assert end_of(process) == 0
    assert said(process) == b"[]\n"


def test_the_warden_keeps_nothing_of_what_was_meant_for_the_command(wardens: Warden) -> None:
    process = wardens.run("here(); os.close(witness); forever()")
    wardens.witness.pids(1)
    assert wardens.witness.all_gone()  # the pipe is, and both processes live
    assert process.poll() is None


# ---- what the command leaves behind -----------------------------------------------------------------------------

FAMILIES = {
    "nobody": ("pass", 0),
    "child": ("child(stay)", 1),
    "deaf child": ("child(lambda: [ignore(signal.SIGTERM, signal.SIGHUP, signal.SIGINT), stay()])", 1),
    "child in a session of its own": ("child(stay_apart)", 1),
    "daemon": ("child(daemonize); os.wait()", 1),
    "many daemons": ("[child(daemonize) for _ in range(8)]; [os.wait() for _ in range(8)]", 8),
    "tree": ("child(lambda: [child(lambda: [child(stay_apart), stay()]), stay()])", 3),
    "stopped child": ("child(lambda: [here(), os.kill(os.getpid(), signal.SIGSTOP)])", 1),
    "other program": ("child(lambda: [os.setsid(), here(), os.execve('/bin/sleep', ['sleep', '60'], {})])", 1),
    "odd name": ("child(lambda: [open('/proc/self/comm', 'w').write(') Z 1 (x'), child(stay), stay()])", 2),
    "child without its first thread": ("child(be_headless)", 1),
    "child that runs away": ("child(run_away)", 1),
    "children that run away": ("[child(run_away) for _ in range(4)]", 4),
}


WORST = ("daemon", "child without its first thread", "children that run away")


@pytest.mark.parametrize(
    ("family", "ending"),
    [
        *((family, "the command ends") for family in FAMILIES),
        *((family, "the owner leaves") for family in WORST),
        *((family, "the warden is told to stop") for family in WORST),
    ],
)
def test_when_the_warden_ends_nothing_of_the_family_is_left(
    wardens: Warden, tmp_path: Path, family: str, ending: str
) -> None:
    code, count = FAMILIES[family]
    place = tmp_path / "private"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").touch()
    process = wardens.run(f"here(); {code}; forever()", remove=place)
    command = wardens.witness.pids(1 + count)[0]
    match ending:
        case "the command ends":
            os.kill(command, signal.SIGKILL)
        case "the owner leaves":
            wardens.owner_leaves()
        case _:
            process.terminate()
    end_of(process)
    assert wardens.witness.all_gone(0)
    assert not place.exists()


def test_a_command_that_left_its_first_thread_is_waited_for_and_ended(wardens: Warden) -> None:
    process = wardens.run("ignore(signal.SIGTERM); be_headless()", grace="0.1")
    wardens.witness.pids(1)
    process.terminate()
    end_of(process)
    assert wardens.witness.all_gone(0)


def test_an_owner_that_was_gone_before_the_start_counts_as_gone(wardens: Warden, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    wardens.owner_leaves()
    end_of(wardens.run("forever()", grace="0.2", remove=place))
    assert wardens.witness.all_gone(0)
    assert not place.exists()


def test_a_command_that_was_hardly_started_hears_that_it_has_to_stop(wardens: Warden) -> None:
    wardens.owner_leaves()
    assert end_of(wardens.run("forever()", grace="1")) in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_what_a_link_in_the_removed_directory_leads_to_stays(wardens: Warden, tmp_path: Path) -> None:
    place, precious = tmp_path / "private", tmp_path / "precious"
    place.mkdir()
    precious.mkdir()
    (precious / "file").touch()
    (place / "link").symlink_to(precious)
    assert end_of(wardens.run("", remove=place)) == 0
    assert not place.exists()
    assert (precious / "file").exists()


# ---- politeness -------------------------------------------------------------------------------------------------

POLITE = "signal.signal(signal.SIGTERM, lambda *_: [time.sleep(0.05), sys.exit(7)]); here(); forever()"
DEAF = "ignore(signal.SIGTERM); here(); forever()"


@pytest.mark.parametrize("ending", ["the owner leaves", "the warden is told to stop"])
def test_the_command_is_asked_first_and_its_answer_is_passed_through(wardens: Warden, ending: str) -> None:
    process = wardens.run(POLITE)
    wardens.witness.pids(1)
    wardens.owner_leaves() if ending == "the owner leaves" else process.terminate()
    assert end_of(process) == 7


def test_a_command_that_does_not_listen_is_killed_when_its_grace_is_over(wardens: Warden) -> None:
    process = wardens.run(DEAF, grace="0.1")
    wardens.witness.pids(1)
    process.terminate()
    assert end_of(process) != 0
    assert wardens.witness.all_gone(0)


def test_without_any_grace_it_is_killed_at_once(wardens: Warden) -> None:
    process = wardens.run(DEAF, grace="0")
    wardens.witness.pids(1)
    process.terminate()
    assert end_of(process) != 0
    assert wardens.witness.all_gone(0)


def test_the_keyboards_signals_are_the_owners_business(wardens: Warden) -> None:
    process = wardens.run(POLITE)
    wardens.witness.pids(1)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(signum)
    assert end_of(process) == 7


def test_the_command_of_a_warden_that_was_killed_is_asked_to_end_its_own_family(wardens: Warden) -> None:
    code = """
child(stay)
def last_act(*_):
    os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGTERM, last_act)
here()
forever()
"""
    process = wardens.run(f"os.setpgid(0, 0)\n{code}")
    command = os.pidfd_open(wardens.witness.pids(2)[0])
    process.kill()
    assert ends(command)
    os.close(command)
    assert wardens.witness.all_gone()


# ---- what its owner is told, and may ask for --------------------------------------------------------------------


class Told:
    """A warden that tells its owner how the start and the end went."""

    def __init__(
        self, wardens: Warden, command: Sequence[str], *options: str, grace: str = "5", by: Sequence[str] = ()
    ) -> None:
        read, self.fd = os.pipe()
        more = ["--status-fd", str(self.fd), *options]
        self.process = wardens.start(command, grace=grace, more=more, by=by, fds=[self.fd])
        os.close(self.fd)
        self._facts = os.fdopen(read, "rb")

    def fact(self) -> dict[str, object]:
        """What it tells next; empty when it tells no more."""
        return dict(json.loads(self._facts.readline() or b"{}"))

    def rest(self) -> list[dict[str, object]]:
        """All that it tells until its end."""
        facts = list(iter(self.fact, {}))
        end_of(self.process)
        self.stop_listening()
        return facts

    def stop_listening(self) -> None:
        self._facts.close()


def test_the_owner_is_told_of_the_start_and_of_the_end(wardens: Warden) -> None:
    told = Told(wardens, ["sh", "-c", "echo $$; exit 3"])
    assert told.rest() == [{"pid": int(said(told.process))}, {"status": 3 << 8}]
    assert told.process.returncode == 3


def test_the_owner_is_told_of_the_start_while_the_command_runs(wardens: Warden) -> None:
    told = Told(wardens, ["sleep", "999"], grace="0")
    pid = told.fact()["pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00999\x00"  # it was executed by then
    wardens.owner_leaves()
    assert told.rest() in ([{"status": signal.SIGTERM}], [{"status": signal.SIGKILL}])


def test_why_a_command_can_not_be_run_is_told_to_the_owner_and_to_nobody_else(wardens: Warden) -> None:
    told = Told(wardens, ["/no/such/command"])
    reason, end = told.rest()
    assert reason["errno"] == errno.ENOENT
    assert os.strerror(errno.ENOENT) in str(reason["error"])
    assert end == {"status": 127 << 8}
    assert said(told.process) == b""


def test_the_command_does_not_hold_what_the_owner_is_told_on(wardens: Warden) -> None:
    told = Told(wardens, ["sh", "-c", "ls /proc/$$/fd"])
    told.rest()
    assert told.fd not in map(int, said(told.process).split())


def test_a_warden_that_tells_its_owner_holds_none_of_the_commands_output(wardens: Warden) -> None:
    told = Told(wardens, ["sh", "-c", "echo last words; exec >&- 2>&-; exec sleep 999"], grace="0")
    assert said(told.process) == b"last words\n"  # there can be no more to come
    assert told.process.poll() is None
    told.process.terminate()
    told.rest()


def test_an_owner_that_does_not_listen_changes_nothing(wardens: Warden) -> None:
    told = Told(wardens, ["sh", "-c", "exit 3"])
    told.stop_listening()
    assert end_of(told.process) == 3


@pytest.mark.parametrize(("options", "leads"), [([], "False"), (["--session", "yes"], "True")])
def test_the_command_leads_a_session_of_its_own_where_that_is_asked_for(
    wardens: Warden, options: list[str], leads: str
) -> None:
    code = "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))"
    process = wardens.start([sys.executable, "-I", "-S", "-c", code], more=options)
    assert said(process).decode().strip() == leads


def test_the_whole_group_of_a_command_with_its_own_session_is_asked_to_end(wardens: Warden) -> None:
    code = """
def answer(work):
    signal.signal(signal.SIGTERM, lambda *_: work())
    here()
    forever()
child(lambda: answer(lambda: [print("child", flush=True), os._exit(0)]))
answer(lambda: [os.wait(), sys.exit(7)])
"""
    process = wardens.start(wardens.witness.program(code), more=["--session", "yes"])
    wardens.witness.pids(2)
    process.terminate()
    assert end_of(process) == 7
    assert said(process) == b"child\n"


def test_the_command_runs_in_the_directory_that_is_asked_for(wardens: Warden, tmp_path: Path) -> None:
    process = wardens.start(["pwd", "-P"], more=["--cwd", str(tmp_path)])
    assert os.fsdecode(said(process)) == f"{tmp_path}\n"


def test_a_directory_that_is_not_there_is_a_command_that_can_not_be_run(wardens: Warden, tmp_path: Path) -> None:
    told = Told(wardens, ["pwd"], "--cwd", str(tmp_path / "gone"))
    reason, _ = told.rest()
    assert reason["errno"] == errno.ENOENT
    assert str(tmp_path / "gone") in str(reason["error"])


def test_processor_time_is_limited_where_that_is_asked_for(wardens: Warden) -> None:
    process = wardens.start(["sh", "-c", "ulimit -St; ulimit -Ht"], more=["--cpu-time", "5"])
    assert said(process) == b"5\n6\n"


@pytest.mark.parametrize(("ours", "found"), [(100, b"100\n100\n"), (200, b"200\n200\n"), (300, b"200\n201\n")])
def test_a_command_gets_no_more_processor_time_than_its_owner_has(wardens: Warden, ours: int, found: bytes) -> None:
    by = ["sh", "-c", f'ulimit -t {ours}; exec "$@"', "sh"]
    process = wardens.start(["sh", "-c", "ulimit -St; ulimit -Ht"], more=["--cpu-time", "200"], by=by)
    assert said(process) == found


@pytest.mark.parametrize("command", ["exit 0", "exit 3", "kill -KILL $$"])
def test_what_ends_by_itself_is_not_undone(wardens: Warden, tmp_path: Path, command: str) -> None:
    end_of(wardens.start(["sh", "-c", command], more=["--undo", json.dumps(["touch", str(tmp_path / "undone")])]))
    assert list(tmp_path.iterdir()) == []


LOOK = """
import os, sys
warden, (place, told) = os.getppid(), sys.argv[1:]
with open(f"/proc/{warden}/task/{warden}/children") as children:
    others = set(map(int, children.read().split())) - {os.getpid()}
with open(told, "w") as file:
    file.write(f"others: {len(others)}, place: {os.path.exists(place)}")
"""
"""What undoes a command here: it looks who else is below the warden, and whether the private directory is there."""


@pytest.mark.parametrize("ending", ["the owner leaves", "the warden is told to stop"])
@pytest.mark.parametrize("command", ["polite", "deaf"])
def test_what_does_not_end_by_itself_is_undone_when_all_of_it_is_gone(
    wardens: Warden, tmp_path: Path, command: str, ending: str
) -> None:
    place = tmp_path / "private"
    place.mkdir()
    code = POLITE if command == "polite" else DEAF
    program = wardens.witness.program(f"child(daemonize); os.wait(); {code}")
    undo = [sys.executable, "-I", "-S", "-c", LOOK, str(place), str(tmp_path / "undone")]
    process = wardens.start(program, grace="0.2", remove=place, more=["--undo", json.dumps(undo)])
    wardens.witness.pids(2)
    wardens.owner_leaves() if ending == "the owner leaves" else process.terminate()
    end_of(process)
    assert (tmp_path / "undone").read_text() == "others: 0, place: True"
    assert not place.exists()


def test_what_can_not_be_undone_is_removed_all_the_same(wardens: Warden, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    told = Told(wardens, ["sleep", "999"], "--remove", str(place), "--undo", '["/no/such/command"]', grace="0")
    told.fact()
    told.process.terminate()
    told.rest()
    assert not place.exists()


# ---- the list of processes --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 31))
def test_descendants_are_exactly_those_whose_line_of_parents_leads_to_the_root(line: list[int], root: int) -> None:
    tree = {pid: parent % pid for pid, parent in enumerate(line, 1)}

    def is_below(pid: int) -> bool:
        parent = tree.get(pid)
        return parent is not None and (parent == root or is_below(parent))

    found = warden.descendants(root, tree)
    assert sorted(found) == [pid for pid in tree if is_below(pid)]


def test_every_process_is_in_the_list_with_its_parent_and_zombies_are_as_well(witness: Witness) -> None:
    with subprocess.Popen(witness.program("forever()"), pass_fds=[witness.fd]) as waiting:
        with subprocess.Popen(["/bin/true"]) as ended:
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
            found = warden.parents()
        waiting.kill()
    assert found[os.getpid()] == os.getppid()
    assert found[waiting.pid] == os.getpid()
    assert found[ended.pid] == os.getpid()
