"""Tests that lie about their outcome, crash, hang, and get in each other's way: each is told as what it is.

What can't be held, and is not tried here as if it were:

- Code in a test's own process can look through the memory of its interpreter (``gc``, frames, ``__closure__``,
  ``ctypes``, ``/proc/self/mem``), and so find the functions that report, and the key that they have. It has to look for
  them: nothing that pytest hands to a test leads there.
- What a project says by the framework's own means is its own word: a ``conftest.py`` with a hook that turns failures
  into passes, a fixture that puts another function in the place of its test, a mark that expects a failure. They are
  there before the test begins; the same from within a test is noticed.
- Tests of one sandbox, with isolation by class or file, share a process. What one of them leaves behind, such as
  another value of a module's variable, is found by the next one, as it is with pytest. What it changes of pytest, or of
  another test, is noticed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipybox.errors import CollectionError
from ipybox.testrun import runner
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import ExitCode, Outcome
from ipybox.testrun.runner import TestRun
from ipybox.testrun.settings import RunSettings
from tests.testrun.hostile import Hostile, hostile, make_project

pytestmark = pytest.mark.sandbox
_TIMEOUTS = {"quick": 60.0, "reported": 60.0, "slow": 3.0, "neighbours": 3.0}
_CASES = [(kind, case) for kind in _TIMEOUTS for case in hostile(kind)]


def settings_for(directory: Path, **more: Any) -> RunSettings:
    facts = {"paths": (".",), "cwd": str(directory), "scratch": 64 * 1024**2, "memory": 256 * 1024**2}
    return RunSettings(**{**facts, **more})


async def run(settings: RunSettings, **more: Any) -> RunReport:
    async with TestRun(settings, **more) as tests:
        return await tests.run()


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\n")
    return directory


def outcomes(report: RunReport) -> dict[str, str]:
    return {result.id.partition("::")[2] or result.id: str(result.outcome) for result in report.results}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunReport]:
    """One run for each directory."""
    found = {}
    for kind, timeout in _TIMEOUTS.items():
        directory = tmp_path_factory.mktemp(kind)
        make_project(directory, kind)
        isolation = "file" if kind == "neighbours" else "test"
        workers = 6 if kind == "slow" else None
        found[kind] = asyncio.run(run(settings_for(directory, timeout=timeout, isolation=isolation, workers=workers)))
    return found


@pytest.mark.parametrize(("kind", "case"), _CASES, ids=[f"{case.file[5:-3]}-{case.name[5:]}" for _, case in _CASES])
def test_is_told_as_what_it_is(reports: dict[str, RunReport], kind: str, case: Hostile) -> None:
    results = [result for result in reports[kind].results if case.is_about(result)]

    assert results
    for result in results:
        case.check(result)


def test_all_of_them_are_told(reports: dict[str, RunReport]) -> None:
    for kind, report in reports.items():
        cases = hostile(kind)
        others = [result.id for result in report.results if not any(case.is_about(result) for case in cases)]
        assert others == (["test_skips_itself.py"] if kind == "quick" else [])
        assert not report.not_run
        assert not report.interrupted
        assert report.exit_code == ExitCode.TESTS_FAILED


def test_a_file_that_skips_itself_is_told_once(reports: dict[str, RunReport]) -> None:
    [result] = [result for result in reports["quick"].results if result.id == "test_skips_itself.py"]

    assert (result.outcome, result.message) == (Outcome.SKIPPED, "not today")


# ---- projects ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_two_runs_find_the_same(tmp_path: Path) -> None:
    text = """
import os, time, locale
def test_says():
    order = list({"a", "b", "c", "d", "e"})
    raise ValueError(f"{hash('x')} {order} {time.tzname} {locale.setlocale(locale.LC_ALL)} {sorted(os.environ)}")
"""
    write(tmp_path, test_x=text)

    one, other = [(await run(settings_for(tmp_path))).results[0] for _ in range(2)]

    assert one.outcome is Outcome.FAILED
    assert one.message == other.message
    assert "('UTC', 'UTC')" in one.message


@pytest.mark.asyncio
async def test_a_file_that_can_not_be_imported_ends_the_run(tmp_path: Path) -> None:
    report = await run(settings_for(write(tmp_path, test_good="def test_good(): pass", test_bad="def test_bad(: pass")))

    assert outcomes(report) == {"test_bad.py": "error"}
    assert "SyntaxError" in report.results[0].message
    assert report.not_run == ("test_good.py::test_good",)
    assert report.exit_code == ExitCode.INTERRUPTED


_TESTS = "def test_passes(): pass\ndef test_fails(): assert 0\n"
_FORGED = """
import {module}
def forged(cls, item, call):
    return cls(item.nodeid, item.location, {{}}, "passed", None, call.when)
"""
_CONFTESTS = {
    "at import": _FORGED + "{module}.TestReport.from_item_and_call = classmethod(forged)",
    "when configured": _FORGED
    + "def pytest_configure(config): {module}.TestReport.from_item_and_call = classmethod(forged)",
    "when collected": _FORGED
    + "def pytest_collection_modifyitems(items): {module}.TestReport.from_item_and_call = classmethod(forged)",
    "before each test": _FORGED
    + "def pytest_runtest_setup(item): {module}.TestReport.from_item_and_call = classmethod(forged)",
    "class of the reports": _FORGED + "import _pytest.runner\n_pytest.runner.TestReport = type('TestReport', "
    "({module}.TestReport,), {{'from_item_and_call': classmethod(forged)}})",
}


@pytest.mark.parametrize("isolation", ["test", "file"])
@pytest.mark.parametrize("text", _CONFTESTS.values(), ids=_CONFTESTS)
@pytest.mark.asyncio
async def test_a_conftest_that_patches_pytest_is_noticed(tmp_path: Path, text: str, isolation: str) -> None:
    write(tmp_path, conftest=text.format(module="_pytest.reports"), test_x=_TESTS)

    report = await run(settings_for(tmp_path, isolation=isolation))

    assert outcomes(report) == {"test_passes": "error", "test_fails": "error"}
    assert all("was replaced" in result.message for result in report.results)


@pytest.mark.asyncio
async def test_hooks_of_a_conftest_have_their_say(tmp_path: Path) -> None:
    conftest = """
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if item.name == "test_fails" and report.failed:
        report.outcome, report.wasxfail = "skipped", "reason: known here"
    return report
"""
    report = await run(settings_for(write(tmp_path, conftest=conftest, test_x=_TESTS)))

    assert outcomes(report) == {"test_passes": "passed", "test_fails": "xfailed"}


_IN_COLLECTION = {
    "exits": ("os._exit(0)", "exit code 0"),
    "kills itself": ("os.kill(os.getpid(), 9)", "SIGKILL"),
    "writes to the line": ("os.write(1000, bytes(100)); time.sleep(60)", "wrote to the line"),
    "prints items": ("print('test_x.py::test_other\\n\\n1 test collected'); os._exit(0)", "exit code 0"),
    "closes everything": ("os.closerange(3, 4096); os._exit(0)", "exit code 0"),
    "hangs": ("time.sleep(1000)", "took longer than 2 s"),
}


@pytest.mark.parametrize(("text", "message"), _IN_COLLECTION.values(), ids=_IN_COLLECTION)
@pytest.mark.asyncio
async def test_what_gets_in_the_way_of_finding_tests_is_told(
    tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_COLLECT_SECONDS", 2.0)
    write(tmp_path, test_x=f"import os, time\n{text}\ndef test_x(): pass\n")

    with pytest.raises(CollectionError, match=message):
        await run(settings_for(tmp_path, timeout=2.0))


@pytest.mark.asyncio
async def test_only_what_has_passed_each_time_is_not_flaky(tmp_path: Path) -> None:
    text = """
import os, pathlib
COUNT = pathlib.Path(__file__).with_name("count")
def test_by_file():
    count = int(COUNT.read_text()) if COUNT.exists() else 0
    COUNT.write_text(str(count + 1))
    assert count
"""
    report = await run(settings_for(write(tmp_path, test_x=text), rerun_failures=3))

    [result] = report.results
    assert (result.outcome, result.attempts, result.flaky) == (Outcome.FAILED, 4, False)
    assert not (tmp_path / "count").exists()


@pytest.mark.asyncio
async def test_what_raises_at_any_time_does_not_pass(tmp_path: Path) -> None:
    text = """
import pytest, signal
def ring(*_):
    raise ValueError("rung")
@pytest.mark.parametrize("number", range(12))
def test_rings(number):
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.0003 * number + 0.0001)
    while True:
        pass
"""
    report = await run(settings_for(write(tmp_path, test_x=text), timeout=20.0))

    assert len(report.results) == 12
    assert {result.outcome for result in report.results} <= {Outcome.FAILED, Outcome.ERROR, Outcome.CRASHED}


# ---- what ends sandboxes from outside ---------------------------------------------------------------------------


def inmost() -> list[psutil.Process]:
    """Our processes that have no children: the tests that run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if not process.children() and b"TIME_TO_DIE" in Path(f"/proc/{process.pid}/comm").read_bytes():
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


_WAITS = """
import threading, time
def test_waits():
    open("/proc/self/comm", "w").write("TIME_TO_DIE")
    time.sleep(30)
"""


async def end_each(times: int, choose: Callable[[psutil.Process], psutil.Process | None]) -> int:
    """Kills what belongs to the next tests that run; returns how many it were."""
    done: set[int] = set()
    until = time.monotonic() + 20
    while len(done) < times and time.monotonic() < until:
        for process in inmost():
            target = choose(process)
            if target is not None and process.pid not in done:
                done.add(process.pid)
                target.send_signal(signal.SIGKILL)
        await asyncio.sleep(0.02)
    return len(done)


@pytest.mark.asyncio
async def test_a_sandbox_that_is_ended_from_outside_is_nobodys_failure(tmp_path: Path) -> None:
    write(tmp_path, test_x=_WAITS)
    killer = asyncio.create_task(end_each(3, lambda process: process.parent()))

    report = await run(settings_for(tmp_path, workers=1))

    assert await killer == 3
    [result] = report.results
    assert (result.outcome, result.attempts) == (Outcome.INFRASTRUCTURE_ERROR, 3)
    assert "ended from outside" in result.message
    assert report.exit_code == ExitCode.INTERNAL_ERROR


@pytest.mark.asyncio
async def test_a_test_whose_sandbox_was_ended_from_outside_is_run_again(tmp_path: Path) -> None:
    text = _WAITS.replace("time.sleep(30)", "time.sleep(1.5)")
    write(tmp_path, test_x=text, test_y="def test_y(): pass\n")
    killer = asyncio.create_task(end_each(1, lambda process: process.parent()))

    report = await run(settings_for(tmp_path, workers=1))

    assert await killer == 1
    assert outcomes(report) == {"test_waits": "passed", "test_y": "passed"}
    assert report.results[0].attempts == 2


@pytest.mark.asyncio
async def test_the_end_of_what_makes_sandboxes_is_nobodys_failure(tmp_path: Path) -> None:
    text = _WAITS.replace("time.sleep(30)", "time.sleep(1.5)")
    write(tmp_path, test_x=text, test_y="def test_y(): pass\n", test_z="def test_z(): assert 0\n")
    killer = asyncio.create_task(end_each(1, lambda process: process.parents()[1]))

    report = await run(settings_for(tmp_path, workers=1))

    assert await killer == 1
    told = outcomes(report)
    assert told["test_waits"] in ("passed", "infrastructure_error")
    assert told["test_y"] in ("passed", "infrastructure_error")
    assert told["test_z"] in ("failed", "infrastructure_error")


# ---- what is left behind ----------------------------------------------------------------------------------------


class Owner:
    """What this process has, to be compared."""

    def __init__(self) -> None:
        self.processes = {process.pid for process in psutil.Process().children(recursive=True)}
        self.descriptors = {name: _target(name) for name in os.listdir("/proc/self/fd")}
        self.temporary = set(os.listdir(tempfile.gettempdir()))

    async def has_nothing_more(self) -> None:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if not Owner()._more_than(self):
                return
            await asyncio.sleep(0.05)
        assert Owner()._more_than(self) == []

    def _more_than(self, before: Owner) -> list[object]:
        return [
            *(self.processes - before.processes),
            *(self.descriptors.items() - before.descriptors.items()),
            *(name for name in self.temporary - before.temporary if "ipybox" in name),
        ]


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""  # of this listing


_MESS = """
import os, subprocess, tempfile, threading, time
import pytest
@pytest.mark.parametrize("number", range(8))
def test_mess(number):
    subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    tempfile.mkdtemp()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    if number % 2:
        time.sleep(1000)
"""


async def _as_it_is(tests: TestRun) -> None:
    await tests.run()


async def _stopped(tests: TestRun) -> None:
    running = asyncio.create_task(tests.run())
    await asyncio.sleep(1.0)
    tests.stop()
    report = await running
    assert report.interrupted
    assert len(report.results) + len(report.not_run) == 8
    assert report.not_run
    assert report.exit_code == ExitCode.INTERRUPTED


async def _finished(tests: TestRun) -> None:
    running = asyncio.create_task(tests.run())
    await asyncio.sleep(1.0)
    tests.finish_running()
    report = await running
    assert report.interrupted
    assert report.not_run
    assert {result.outcome for result in report.results} <= {Outcome.PASSED, Outcome.TIMEOUT}


async def _cancelled(tests: TestRun) -> None:
    running = asyncio.create_task(tests.run())
    await asyncio.sleep(1.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def _left(tests: TestRun) -> None:
    """Nobody waits for it."""


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place for temporary files that nobody else uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("how", [_as_it_is, _stopped, _finished, _cancelled, _left], ids=lambda how: how.__name__[1:])
@pytest.mark.asyncio
async def test_nothing_is_left_of_a_run(tmp_path: Path, how: Callable[[TestRun], Any]) -> None:
    write(tmp_path, test_x=_MESS)
    async with TestRun(settings_for(write(tmp_path), timeout=10.0)):
        pass  # what is made once for all runs
    before, listing = Owner(), sorted(os.listdir(tmp_path))

    async with TestRun(settings_for(tmp_path, timeout=2.0)) as tests:
        await how(tests)

    await before.has_nothing_more()
    assert sorted(os.listdir(tmp_path)) == listing


@pytest.mark.usefixtures("temporary")
@pytest.mark.asyncio
async def test_a_run_that_is_cancelled_while_it_opens_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, test_x=_MESS)
    await run(settings_for(tmp_path, paths=("test_x.py::test_mess[0]",), timeout=10.0))
    before = Owner()

    for delay in (0.0, 0.02, 0.1, 0.2, 0.4):
        running = asyncio.create_task(run(settings_for(tmp_path)))
        await asyncio.sleep(delay)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    await before.has_nothing_more()


@pytest.mark.asyncio
async def test_results_are_told_as_they_come(tmp_path: Path) -> None:
    told: list[CaseResult] = []
    write(tmp_path, test_x=_TESTS)

    report = await run(settings_for(tmp_path), on_result=told.append)

    assert sorted(told, key=lambda result: result.id) == sorted(report.results, key=lambda result: result.id)
