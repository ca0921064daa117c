"""Commands for code that is not asynchronous: real ones, on the host and in sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ipybox.command.blocking import BlockingSandbox
from ipybox.command.cancellation import Cancellation
from ipybox.command.driver import CommandDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.sandbox import Sandbox
from tests.command.drivers import Sleeper
from tests.kernels.helpers import is_alive

LONG = 60.0
HANG = 30.0
DRIVERS: dict[str, Callable[[ExecutionPolicy], CommandDriver]] = {
    "host": lambda policy: Sandbox.host(policy, waive="isolation"),
    "bubblewrap": Sandbox.bubblewrap,
}
pytestmark = pytest.mark.sandbox


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    return ExecutionPolicy.in_dir(tmp_path).with_timeout(LONG)


@pytest.fixture(params=list(DRIVERS))
def sandbox(policy: ExecutionPolicy, request: pytest.FixtureRequest) -> BlockingSandbox:
    return DRIVERS[request.param](policy).blocking()


def shell(line: str, *arguments: str) -> list[str]:
    return ["sh", "-c", line, "sh", *arguments]


def walls() -> set[int]:
    """Every bubblewrap that this process has started."""
    return {child.pid for child in psutil.Process().children(recursive=True) if child.name() == "bwrap"}


# ---- what it gives ----------------------------------------------------------------------------------------------


def test_a_result_comes_back_when_the_command_has_ended(sandbox: BlockingSandbox, policy: ExecutionPolicy) -> None:
    heard: list[tuple[str, str]] = []
    result = sandbox.execute(
        shell("cat; echo to stderr >&2; exit 3"), "from stdin", lambda stream, text: heard.append((stream, text))
    )
    assert (result.stdout, result.stderr, result.exit_code) == ("from stdin", "to stderr\n", 3)
    assert sorted(heard) == [("err", "to stderr\n"), ("out", "from stdin")]
    assert sandbox.policy == policy


def test_it_takes_what_the_other_one_takes(sandbox: BlockingSandbox) -> None:
    heard: list[bytes] = []
    assert sandbox.execute(["printf", r"\377"], on_bytes=lambda stream, data: heard.append(data)).success
    assert b"".join(heard) == b"\xff"


def test_a_command_can_be_cancelled_from_another_thread(sandbox: BlockingSandbox) -> None:
    sleeper, cancellation = Sleeper(), Cancellation()

    def on_output(stream: str, text: str) -> None:
        threading.Thread(target=cancellation.cancel).start()

    result = sandbox.execute(shell("echo go; sleep $1", sleeper.seconds), None, on_output, cancellation=cancellation)
    assert (result.stdout, result.stop_reason) == ("go\n", "cancelled")
    assert not sleeper.is_alive


def test_what_is_wrong_is_raised_and_the_next_command_runs(sandbox: BlockingSandbox) -> None:
    with sandbox:
        with pytest.raises(TypeError, match="argv"):
            sandbox.execute("echo hi")
        assert sandbox.execute(["echo", "hi"]).stdout == "hi\n"


@pytest.mark.parametrize("driver", list(DRIVERS))
def test_every_thread_may_have_one(policy: ExecutionPolicy, driver: str) -> None:
    def run(number: int) -> list[str]:
        with DRIVERS[driver](policy).blocking() as sandbox:
            return [sandbox.execute(["echo", f"{number}.{turn}"]).stdout for turn in range(3)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(run, range(4)))
    assert found == [[f"{number}.{turn}\n" for turn in range(3)] for number in range(4)]


def test_a_driver_may_be_used_by_many_threads_at_once(sandbox: BlockingSandbox) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda number: sandbox.execute(["echo", str(number)]), range(8)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(8)]


# ---- in an event loop -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_in_an_event_loop_it_is_refused_with_what_to_do_instead(sandbox: BlockingSandbox) -> None:
    with pytest.raises(RuntimeError, match=r"await the sandbox's own execute\(\)"):
        sandbox.execute(["true"])
    with pytest.raises(RuntimeError, match=r"await the sandbox's own execute\(\)"):
        sandbox.__enter__()


@pytest.mark.asyncio
async def test_beside_an_event_loop_it_works_in_a_thread(sandbox: BlockingSandbox) -> None:
    assert (await asyncio.to_thread(sandbox.execute, ["echo", "hi"])).stdout == "hi\n"


# ---- kept ready -------------------------------------------------------------------------------------------------


def test_one_wall_is_kept_for_all_commands_and_taken_down_at_the_end(policy: ExecutionPolicy) -> None:
    before, during = walls(), list[set[int]]()
    with Sandbox.bubblewrap(policy).blocking() as sandbox:
        kept = walls() - before
        for _ in range(2):
            sandbox.execute(shell("echo go; read line"), "line\n", lambda stream, text: during.append(walls() - before))
        assert kept
        assert during == [kept, kept]
        assert walls() - before == kept
    assert walls() == before


def test_without_keeping_one_each_command_has_a_wall_of_its_own_and_nothing_stays(policy: ExecutionPolicy) -> None:
    before, during = walls(), list[set[int]]()
    sandbox = Sandbox.bubblewrap(policy).blocking()
    for _ in range(2):
        sandbox.execute(shell("echo go; read line"), "line\n", lambda stream, text: during.append(walls() - before))
        assert walls() == before
    first, second = during
    assert first
    assert second
    assert not first & second


def test_no_process_and_no_descriptor_is_left_at_the_end(sandbox: BlockingSandbox) -> None:
    def some() -> None:
        with sandbox:
            sandbox.execute(["true"])
            sandbox.execute(["no-such-command"])
        sandbox.execute(["cat"], "text")

    some()
    descriptors, children = sorted(os.listdir("/proc/self/fd")), psutil.Process().children(recursive=True)
    some()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children(recursive=True) == children


def test_it_can_be_opened_once_at_a_time_and_again_after_it_was_closed(sandbox: BlockingSandbox) -> None:
    for _ in range(2):
        with sandbox as opened:
            assert opened is sandbox
            with pytest.raises(RuntimeError, match="open already"):
                sandbox.__enter__()
            assert sandbox.execute(["echo", "hi"]).stdout == "hi\n"


def test_it_may_be_closed_early_and_twice_and_goes_on_without_keeping_anything(sandbox: BlockingSandbox) -> None:
    before = walls()
    with sandbox:
        sandbox.close()
        sandbox.close()
        assert walls() == before
        assert sandbox.execute(["echo", "hi"]).stdout == "hi\n"
    assert walls() == before


def test_an_error_in_the_block_closes_it_and_is_raised(sandbox: BlockingSandbox) -> None:
    before = walls()
    with pytest.raises(LookupError, match="enough"):
        with sandbox:
            sandbox.execute(["true"])
            raise LookupError("enough")
    assert walls() == before


def test_what_can_not_be_opened_is_closed_and_can_be_opened_later(policy: ExecutionPolicy, tmp_path: Path) -> None:
    before = walls()
    later = tmp_path / "later"
    sandbox = Sandbox.bubblewrap(policy.with_readable_paths(later)).blocking()
    with pytest.raises(ValueError, match=r"readable_paths\[0\].*later"):
        sandbox.__enter__()
    assert walls() == before
    later.mkdir()
    with sandbox:
        assert sandbox.execute(["ls", str(later)]).success
    assert walls() == before


# ---- Ctrl-C -----------------------------------------------------------------------------------------------------

INTERRUPTED = """
import sys
from ipybox import ExecutionPolicy, Sandbox

driver, base_dir, seconds = sys.argv[1:]
options = {"waive": "isolation"} if driver == "host" else {}
sandbox = Sandbox(ExecutionPolicy.in_dir(base_dir).with_timeout(60)).using(driver, **options).blocking()
try:
    with sandbox:
        sandbox.execute(["sh", "-c", 'echo go; sleep "$1"', "sh", seconds], None, lambda *_: print("go", flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("driver", list(DRIVERS))
def test_ctrl_c_ends_the_command_before_it_is_raised(tmp_path: Path, driver: str) -> None:
    sleeper = Sleeper()
    command = [sys.executable, "-c", INTERRUPTED, driver, str(tmp_path), sleeper.seconds]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=HANG)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
    assert below
    assert not any(is_alive(each) for each in below)
