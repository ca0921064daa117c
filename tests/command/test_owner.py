"""Whoever runs commands may be killed at any moment, and nothing of the commands outlives that."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.command.drivers import Sleeper
from tests.kernels.helpers import HANG, eventually, family, is_alive, survivors

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]

DRIVERS = ("host", "bubblewrap", "bubblewrap, kept open")
OWNER = """
import asyncio, sys
from ipybox import ExecutionPolicy, Sandbox

name, base_dir, writable, *argv = sys.argv[1:]

def told(stream, text):
    sys.stdout.write(text)
    sys.stdout.flush()

async def main():
    policy = ExecutionPolicy.in_dir(base_dir).with_timeout(120)
    if writable:
        policy = policy.with_writable_paths(writable)
    driver, _, kept = name.partition(", ")
    sandbox = Sandbox(policy).using(driver, **({"waive": "isolation"} if driver == "host" else {}))
    if not kept:
        await sandbox.execute(argv, None, told)
        return
    async with sandbox:
        await sandbox.execute(["true"])
        await sandbox.execute(argv, None, told)

asyncio.run(main())
"""
every = pytest.mark.parametrize("driver", DRIVERS)
enclosing = pytest.mark.parametrize("driver", DRIVERS[1:])


class Owner:
    """Somebody else's program that runs a command, and that is not asked before it ends."""

    def __init__(self, driver: str, base_dir: Path, argv: Sequence[str], writable: Path | None = None) -> None:
        command = [sys.executable, "-c", OWNER, driver, str(base_dir), str(writable or ""), *argv]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.below: list[psutil.Process] = []

    def hear(self, line: str) -> None:
        """Waits until the command has written this first, and looks who there is then."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        assert select.select([fd], [], [], HANG)[0], "the command has said nothing"
        assert self.process.stdout.readline().decode() == line
        self.below = [each for each in family(self.process.pid) if each.pid != self.process.pid]

    async def ends_by(self, signum: int) -> list[psutil.Process]:
        """Ends it, and returns who is left."""
        self.process.send_signal(signum)
        assert await asyncio.to_thread(self.process.wait, HANG) == -signum
        return await survivors(self.below, HANG)

    def close(self) -> None:
        """A test that failed leaves nothing behind either."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        for each in self.below:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.kill()
        self.process.wait(HANG)


class Owners:
    """Starts them, and cleans up after them."""

    def __init__(self, base_dir: Path) -> None:
        self.base_dir = base_dir
        self._started: list[Owner] = []

    def start(self, driver: str, line: str, *arguments: str, writable: Path | None = None) -> Owner:
        """Starts one that runs a shell."""
        owner = Owner(driver, self.base_dir, ["sh", "-c", line, "sh", *arguments], writable)
        self._started.append(owner)
        return owner

    def close(self) -> None:
        for owner in self._started:
            owner.close()


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Owners]:
    base_dir = tmp_path / "base"
    base_dir.mkdir()
    found = Owners(base_dir)
    yield found
    found.close()


def keepers(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of them that wait to remove placeholders."""
    found = []
    for each in processes:
        with suppress(psutil.NoSuchProcess):  # some are gone at once
            if "ipybox.sandbox.placeholder_keeper" in each.cmdline():
                found.append(each)
    return found


# ---- the command ------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
async def test_nothing_of_a_command_outlives_who_ran_it(owners: Owners, driver: str, signum: signal.Signals) -> None:
    sleeper = Sleeper()
    owner = owners.start(driver, "echo go; sleep $1", sleeper.seconds)
    owner.hear("go\n")
    assert owner.below
    assert await owner.ends_by(signum) == []
    assert not sleeper.is_alive
    assert list(owners.base_dir.iterdir()) == []


@every
async def test_neither_do_its_daemons_nor_those_who_do_not_listen(owners: Owners, driver: str) -> None:
    sleeper = Sleeper()
    line = """
    trap '' TERM INT HUP QUIT
    (setsid sh -c 'trap "" TERM HUP; while :; do sleep '$1'; done' >/dev/null 2>&1 </dev/null &)
    (sleep $1 &)
    echo go
    while :; do sleep $1; done
    """
    owner = owners.start(driver, line, sleeper.seconds)
    owner.hear("go\n")
    assert await owner.ends_by(signal.SIGKILL) == []
    assert not sleeper.is_alive


@every
async def test_nor_does_one_that_floods_its_output(owners: Owners, driver: str) -> None:
    owner = owners.start(driver, "echo go; exec yes")
    owner.hear("go\n")
    assert await owner.ends_by(signal.SIGKILL) == []


# ---- the files --------------------------------------------------------------------------------------------------

Tree = dict[str, tuple[int, int, bytes]]
GUARDS = {".git/hooks", ".git/commondir"}
"""Names that are taken while commands run, so that these can't make them."""
OWN_BUSINESS = ("aside", "gone", "new")
"""What commands here make in a repository that is none of what others run."""


def tree(root: Path) -> Tree:
    """Every file below a directory, as mode, number and content."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.split("/")[0] not in OWN_BUSINESS:
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[name] = status.st_mode, status.st_ino, content
    return found


async def comes_to_be(root: Path, wanted: Tree) -> Tree:
    """The files below a directory, as soon as they are what is wanted, and at the latest after a while."""
    await eventually(lambda: _glimpse(root) == wanted)
    return _glimpse(root)


def _glimpse(root: Path) -> Tree:
    try:
        return tree(root)
    except FileNotFoundError:  # it was removed while we looked
        return {}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository that has no hooks yet."""
    path = tmp_path / "repository"
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run([git, "init", "-q", str(path)], check=True, env=environment)
    shutil.rmtree(path / ".git" / "hooks")
    (path / "file").write_text("tracked\n")
    return path


BEHAVIOURS = {
    "does nothing": "echo go; while :; do sleep 1; done",
    "makes hooks": """
        echo go
        while :; do
            mkdir -p .git/hooks
            echo 'echo planted' > .git/hooks/pre-commit
            echo /elsewhere > .git/commondir
        done 2>/dev/null
        """,
    "puts others in their place": """
        mkdir -p aside/hooks && echo 'echo planted' > aside/hooks/pre-commit && echo /elsewhere > aside/commondir
        echo go
        while :; do
            rmdir .git/hooks; mv .git/hooks gone
            mv aside/hooks .git/hooks; cp -r aside/hooks .git
            rm -f .git/commondir; mv .git/commondir gone
            mv aside/commondir .git/commondir; ln aside/commondir .git/commondir
        done 2>/dev/null
        """,
    "moves the whole directory": """
        mkdir -p aside/hooks && echo 'echo planted' > aside/hooks/pre-commit && cp .git/HEAD .git/config aside
        echo go
        while :; do
            mv .git gone && mv aside .git
            mv .git aside; mv gone .git
        done 2>/dev/null
        """,
}
"""What a command may do in a repository, in a loop that ends with it."""


@enclosing
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("turn", range(2))
async def test_a_repository_is_left_as_it_was_and_nobody_gets_in_before_its_guards_go(
    owners: Owners, repository: Path, driver: str, behaviour: str, turn: int
) -> None:
    before = tree(repository)
    owner = owners.start(driver, f'cd "$1"; {BEHAVIOURS[behaviour]}', str(repository), writable=repository)
    owner.hear("go\n")
    assert GUARDS & set(before) == set()
    assert await eventually(lambda: set(_glimpse(repository)) >= GUARDS)
    assert keepers(owner.below)
    assert await owner.ends_by(signal.SIGKILL) == []
    assert await comes_to_be(repository, before) == before
    assert list(owners.base_dir.iterdir()) == []


@enclosing
async def test_whoever_can_clean_up_does_and_needs_no_keeper_for_that(
    owners: Owners, repository: Path, driver: str
) -> None:
    before = tree(repository)
    owner = owners.start(driver, 'cd "$1"; echo go; echo more > new', str(repository), writable=repository)
    owner.hear("go\n")
    assert await asyncio.to_thread(owner.process.wait, HANG) == 0
    assert await survivors(owner.below, 0) == []
    assert (repository / "new").read_text() == "more\n"
    assert tree(repository) == before


@enclosing
async def test_hooks_of_the_users_stay_whoever_is_killed(owners: Owners, repository: Path, driver: str) -> None:
    hooks = repository / ".git" / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\n")
    before = tree(repository)
    line = 'cd "$1"; rm -rf .git/hooks; echo planted > .git/hooks/pre-commit; echo go; sleep 999'
    owner = owners.start(driver, f"exec 2>/dev/null; {line}", str(repository), writable=repository)
    owner.hear("go\n")
    assert await owner.ends_by(signal.SIGKILL) == []
    assert await comes_to_be(repository, before) == before


@pytest.mark.parametrize(
    "order",
    [
        (0, 1),
        (1, 0),
    ],
    ids=["the earlier one is killed first", "the later one is killed first"],
)
async def test_what_two_owners_guard_stays_until_both_are_gone(
    owners: Owners, repository: Path, order: tuple[int, int]
) -> None:
    before = tree(repository)
    started = []
    for _ in range(2):
        owner = owners.start("bubblewrap", 'cd "$1"; echo go; sleep 999', str(repository), writable=repository)
        owner.hear("go\n")
        started.append(owner)
    first, second = (started[number] for number in order)
    assert await first.ends_by(signal.SIGKILL) == []
    assert set(tree(repository)) >= GUARDS
    assert await second.ends_by(signal.SIGKILL) == []
    assert await comes_to_be(repository, before) == before


# ---- who removes the guards -------------------------------------------------------------------------------------

GUARDIAN = """
import os, sys, time
from ipybox.sandbox.placeholder_keeper import KeptPlaceholders

pid, *paths = sys.argv[1:]
placeholders = KeptPlaceholders()
placeholders.make(paths)
if pid:
    placeholders.outlive(os.pidfd_open(int(pid)))
print("go", flush=True)
time.sleep(999)
"""


class Guardian(Owner):
    """Somebody who guards names, for another process or for nobody, and is killed."""

    def __init__(self, paths: Sequence[Path], waits_for: int | None) -> None:
        command = [sys.executable, "-c", GUARDIAN, str(waits_for or ""), *map(str, paths)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.below = []
        self.hear("go\n")
        deadline = time.monotonic() + HANG
        while not (found := keepers(self.below)) and time.monotonic() < deadline:
            pass  # a process that was executed just now has no command line for a moment
        (self.keeper,) = found

    def keeper_knows(self) -> bool:
        """Whether the keeper has seen the end of the one it keeps for, and has nothing more to be told."""
        try:
            return not any(
                os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{self.keeper.pid}/fd").iterdir()
            )
        except OSError:
            return not is_alive(self.keeper)


def ignores(pid: int, signum: int) -> bool:
    """Whether a signal is none to a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (signum - 1) & 1)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives for as long as a test lets it."""
    with subprocess.Popen(["sleep", "999"]) as process:
        yield process
        process.kill()


async def test_guards_go_only_when_the_last_one_is_gone_who_must_not_find_them_gone(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    guard = tmp_path / "guard"
    guardian = Guardian([guard], waits_for=other.pid)
    try:
        guardian.process.kill()
        assert await eventually(guardian.keeper_knows)
        assert guard.exists()
        assert is_alive(guardian.keeper)
        other.kill()
        assert await survivors([guardian.keeper], HANG) == []
        assert not guard.exists()
    finally:
        guardian.close()


async def test_guards_that_nobody_needs_go_with_their_owner(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "commondir", "two")]
    guardian = Guardian(paths, waits_for=None)
    try:
        assert {path.name for path in tmp_path.iterdir()} == {"one", "commondir", "two"}
        assert await guardian.ends_by(signal.SIGKILL) == []
        assert list(tmp_path.iterdir()) == []
    finally:
        guardian.close()


KILLED_EARLY = """
import os, signal, sys
from ipybox.sandbox.placeholder_keeper import KeptPlaceholders

guard = sys.argv[1]

def on_event(event, arguments):
    if event == "subprocess.Popen" and os.path.exists(guard):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(on_event)
KeptPlaceholders().make([guard])
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_guards_are_never_there_before_somebody_who_removes_them(tmp_path: Path) -> None:
    guard = tmp_path / "guard"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED_EARLY, str(guard)], timeout=HANG)
    assert done.returncode == -signal.SIGKILL
    assert await eventually(lambda: not guard.exists())


async def test_what_has_become_a_file_of_the_users_is_never_removed(tmp_path: Path) -> None:
    written, replaced, linked, untouched = [tmp_path / name for name in ("written", "replaced", "linked", "untouched")]
    guardian = Guardian([written, replaced, linked, untouched], waits_for=None)
    try:
        written.write_text("theirs")
        replaced.unlink()
        replaced.write_text("")
        linked.unlink()
        linked.symlink_to(untouched)
        assert await guardian.ends_by(signal.SIGKILL) == []
        assert {path.name for path in tmp_path.iterdir()} == {"written", "replaced", "linked"}
        assert written.read_text() == "theirs"
    finally:
        guardian.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda signum: signum.name)
async def test_a_keeper_is_not_ended_by_what_ends_its_owner(tmp_path: Path, signum: signal.Signals) -> None:
    guard = tmp_path / "guard"
    guardian = Guardian([guard], waits_for=None)
    try:
        assert await eventually(lambda: ignores(guardian.keeper.pid, signum))
        guardian.keeper.send_signal(signum)
        guardian.process.kill()
        assert await survivors([guardian.keeper], HANG) == []
        assert not guard.exists()
    finally:
        guardian.close()
