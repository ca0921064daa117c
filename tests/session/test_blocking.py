"""The same for code that is not asynchronous."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from ipybox.errors import SandboxEndedError, SandboxExpiredError, SandboxFileError, UnknownTemplateError
from ipybox.session import Sandbox
from ipybox.session.blocking import close_background
from tests.kernels.helpers import HANG, family, survivors
from tests.processes import below

pytestmark = pytest.mark.sandbox

OWNER = """
import sys
from ipybox.session import Sandbox

sandbox = Sandbox.create()
sandbox.commands.run("setsid sleep 1000 & sleep 1000 &")
sandbox.run_code("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)")
print("go", flush=True)
if sys.argv[1] == "wait":
    sandbox.run_code("import time; time.sleep(1000)")
if sys.argv[1] == "raise":
    raise RuntimeError
"""


@pytest.fixture(autouse=True)
def background() -> Iterator[None]:
    yield
    close_background()


def start(what: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", OWNER, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], HANG)[0]
    assert process.stdout.readline() == b"go\n"
    return process


def test_it_does_all_that_the_other_one_does() -> None:
    with Sandbox.create(template="code-interpreter", api_key=None, timeout_seconds=60, env_vars={"A": "b"}) as sandbox:
        sandbox.files.write("d/f", "text")
        assert sandbox.files.read("d/f") == "text"
        assert sandbox.files.read_bytes("d/f") == b"text"
        assert sandbox.files.exists("d")
        assert [entry.name for entry in sandbox.files.list("d")] == ["f"]
        sandbox.files.mkdir("e")
        sandbox.files.remove("e")
        assert sandbox.commands.run("cat d/f; echo $A").stdout == "textb\n"
        assert sandbox.run_code("x = 1").success is True
        assert sandbox.run_code("x + 1", language="python", timeout=5).result == "2"
        assert sandbox.is_running
        assert sandbox.settings.timeout_seconds == 60
    assert not sandbox.is_running


def test_its_errors_are_the_same() -> None:
    with pytest.raises(UnknownTemplateError):
        Sandbox.create(template="nonsense")
    sandbox = Sandbox.create()
    with pytest.raises(SandboxFileError):
        sandbox.files.read("missing")
    sandbox.kill()
    sandbox.kill()
    with pytest.raises(SandboxEndedError):
        sandbox.run_code("1")
    with Sandbox.create(timeout_seconds=0.3) as brief:
        with pytest.raises(SandboxExpiredError):
            brief.run_code("import time; time.sleep(1000)")


def test_any_thread_may_use_it_and_any_thread_may_kill_it() -> None:
    with Sandbox.create() as sandbox, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda number: sandbox.commands.run(f"echo {number}").stdout, range(20))
        assert list(found) == [f"{number}\n" for number in range(20)]
        waiting = pool.submit(sandbox.run_code, "import time; time.sleep(1000)")
        pool.submit(sandbox.kill).result()
        with pytest.raises(SandboxEndedError, match="killed"):
            waiting.result()


def test_it_works_where_an_event_loop_runs() -> None:
    async def use() -> str | None:
        with Sandbox.create() as sandbox:
            return sandbox.run_code("1 + 1").result

    assert asyncio.run(use()) == "2"


def test_the_next_one_comes_up_behind_the_same_wall(others: set[psutil.Process]) -> None:
    Sandbox.create().kill()
    walls = set(psutil.Process().children()) - others
    assert len(walls) <= 1  # none if it was there before
    with Sandbox.create() as one, Sandbox.create() as other:
        assert one.run_code("1").success
        assert other.run_code("1").success
        assert set(psutil.Process().children()) - others == walls


def test_when_the_background_is_closed_all_is_gone_and_the_next_one_works(others: set[psutil.Process]) -> None:
    sandbox = Sandbox.create()
    gc.collect()
    close_background()
    assert not below() - others
    with pytest.raises(SandboxEndedError):
        sandbox.run_code("1")
    sandbox.kill()
    with Sandbox.create() as another:
        assert another.run_code("1").success


def test_twenty_of_them_leave_nothing(others: set[psutil.Process]) -> None:
    Sandbox.create().kill()
    close_background()
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for number in range(20):
        with Sandbox.create() as sandbox:
            assert sandbox.run_code(str(number)).result == str(number)
    close_background()
    assert not below() - others
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks where there are threads
def test_a_fork_has_sandboxes_of_its_own_and_leaves_those_of_its_parent_alone() -> None:
    with Sandbox.create() as sandbox:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                try:
                    sandbox.run_code("1")
                except SandboxEndedError:
                    sandbox.kill()
                    with Sandbox.create() as own:
                        status = 0 if own.run_code("1 + 1").result == "2" else 2
                    close_background()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert sandbox.run_code("2 + 2").result == "4"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=lambda signum: signum.name)
def test_nothing_outlives_an_owner_that_is_killed(signum: signal.Signals) -> None:
    with start("wait") as process:
        below = [each for each in family(process.pid) if each.pid != process.pid]
        assert len(below) > 3
        process.send_signal(signum)
        assert process.wait(HANG) == -signum
        assert asyncio.run(survivors(below, HANG)) == []


@pytest.mark.parametrize("how", ["end", "raise"])
def test_an_owner_that_forgets_them_ends_in_peace(how: str) -> None:
    with start(how) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait(HANG) == (1 if how == "raise" else 0)
        assert ("RuntimeError" in said) == (how == "raise")
        assert "ipybox" not in said


def test_ctrl_c_ends_the_wait_and_the_code() -> None:
    with start("wait") as process:
        below = [each for each in family(process.pid) if each.pid != process.pid]
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "KeyboardInterrupt" in process.stderr.read().decode()
        assert process.wait(HANG) == -signal.SIGINT
        assert asyncio.run(survivors(below, HANG)) == []
