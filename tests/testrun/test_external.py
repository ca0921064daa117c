"""Commands of other frameworks run in a sandbox, and what their reports say is compared with how they ended."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import ProgramStartError
from ipybox.testrun import command_inside, foreign_cases
from ipybox.testrun.external import ExternalCommand, ReportKind, run_external
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import ExitCode, Outcome
from ipybox.testrun.request import Request
from ipybox.testrun.sandboxes import Sandbox, Sandboxes
from ipybox.testrun.settings import RunSettings

sandbox = pytest.mark.sandbox

GOOD = '<testsuite><testcase classname="s" name="a" time="0.5"/></testsuite>'
BAD = '<testsuite><testcase classname="s" name="a"><failure message="no"/></testcase></testsuite>'


def _run(cwd: Path, *argv: str, reports: tuple[ReportKind, str], **settings: Any) -> RunReport:
    told: list[CaseResult] = []
    report = asyncio.run(
        run_external(RunSettings(cwd=str(cwd), **settings), ExternalCommand(argv, reports), on_result=told.append)
    )
    assert tuple(told) == report.results
    return report


def _sh(cwd: Path, script: str, kind: ReportKind = "junit", where: str = "report.xml", **settings: Any) -> RunReport:
    return _run(cwd, "sh", "-c", script, reports=(kind, where), **settings)


def _only(report: RunReport) -> CaseResult:
    (result,) = report.results
    return result


# ---- reports that are there -------------------------------------------------------------------------------------


@sandbox
def test_a_junit_file(tmp_path: Path) -> None:
    report = _sh(tmp_path, f"echo '{GOOD}' > report.xml; touch left_behind")
    result = _only(report)
    assert (result.id, result.outcome, result.duration, result.attempts) == ("s::a", Outcome.PASSED, 0.5, 1)
    assert report.exit_code == ExitCode.OK
    assert report.framework == "sh (junit)"
    assert any("its tests could write it as well" in note for note in report.notes)
    assert list(tmp_path.iterdir()) == []  # all of it happened in the sandbox


@sandbox
def test_tap_on_stdout(tmp_path: Path) -> None:
    report = _sh(tmp_path, "echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1", "tap", "stdout")
    assert [(each.id, each.outcome) for each in report.results] == [("a", Outcome.PASSED), ("b", Outcome.FAILED)]
    assert report.exit_code == ExitCode.TESTS_FAILED


@sandbox
def test_what_a_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    report = _sh(tmp_path, "sleep 600 & echo 1..1; echo ok 1 - a", "tap", "stdout")
    assert _only(report).outcome is Outcome.PASSED


@sandbox
def test_a_long_report_arrives_whole(tmp_path: Path) -> None:
    script = "print('1..20000'); [print(f'ok {n} - {\"x\" * 200}') for n in range(1, 20001)]"
    report = _run(tmp_path, "python", "-c", script, reports=("tap", "stdout"))
    assert report.counts == {Outcome.PASSED: 20000}


@sandbox
def test_a_report_of_an_earlier_run_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(GOOD)
    result = _only(_sh(tmp_path, "true"))
    assert (result.outcome, result.exit_code) == (Outcome.ERROR, 0)
    assert "it exited with 0, without a report" in result.message
    assert (tmp_path / "report.xml").read_text() == GOOD


@sandbox
def test_no_tests_are_no_success(tmp_path: Path) -> None:
    assert _sh(tmp_path, "echo '<testsuite/>' > report.xml").exit_code == ExitCode.NO_TESTS


# ---- reports that do not agree with the command -----------------------------------------------------------------


@sandbox
@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (BAD, 0, "it exited with 0, and its report has 1 failures"),
        (GOOD, 3, "it exited with 3, and its report has no failure"),
    ],
)
def test_a_command_and_its_report_have_to_agree(tmp_path: Path, text: str, code: int, message: str) -> None:
    report = _sh(tmp_path, f"echo '{text}' > report.xml; echo said; echo told >&2; exit {code}")
    command, test = report.results
    assert (command.outcome, command.message, command.exit_code) == (Outcome.ERROR, message, code)
    assert (command.stdout, command.stderr) == ("said\n", "told\n")
    assert command.id.startswith("sh -c ")
    assert test.id == "s::a"
    assert report.exit_code == ExitCode.TESTS_FAILED


@sandbox
def test_a_command_that_is_ended_after_its_report_has_crashed(tmp_path: Path) -> None:
    command, test = _sh(tmp_path, f"echo '{GOOD}' > report.xml; kill -SEGV $$").results
    assert (command.outcome, command.signal, test.outcome) == (Outcome.CRASHED, 11, Outcome.PASSED)


@sandbox
@pytest.mark.parametrize(
    ("script", "outcome", "facts"),
    [
        ("echo no > report.xml; exit 1", Outcome.ERROR, {"exit_code": 1, "phase": "call"}),
        ("exit 7", Outcome.ERROR, {"exit_code": 7}),
        ("kill -KILL $$", Outcome.CRASHED, {"signal": 9}),
        ("mkdir report.xml", Outcome.ERROR, {"exit_code": 0}),
        ("mkfifo report.xml", Outcome.ERROR, {"exit_code": 0}),
        ("ln -s /dev/zero report.xml", Outcome.ERROR, {"exit_code": 0}),
        ("ln -s report.xml report.xml", Outcome.ERROR, {"exit_code": 0}),
        ("kill -KILL $PPID; sleep 60", Outcome.CRASHED, {"signal": 9}),
    ],
)
def test_without_a_report_there_is_a_result_that_says_so(
    tmp_path: Path, script: str, outcome: Outcome, facts: dict[str, object]
) -> None:
    result = _only(_sh(tmp_path, script))
    assert result.outcome is outcome
    assert {name: getattr(result, name) for name in facts} == facts


@sandbox
def test_a_report_that_is_too_long_is_none(tmp_path: Path) -> None:
    size = foreign_cases.MOST_BYTES + 1
    assert "longer than" in _only(_sh(tmp_path, f"head -c {size} /dev/zero > report.xml")).message
    assert "longer than" in _only(_sh(tmp_path, f"head -c {size} /dev/zero", "tap", "stdout")).message


@sandbox
def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    result = _only(_run(tmp_path, "no-such-command", reports=("junit", "report.xml")))
    assert (result.outcome, result.phase) == (Outcome.ERROR, "setup")
    assert "'no-such-command' can't be started" in result.message


@sandbox
def test_time_and_memory_are_limited(tmp_path: Path) -> None:
    slow = _only(_sh(tmp_path, f"echo '{GOOD}' > report.xml; echo said; sleep 600", timeout=1.0))
    assert (slow.outcome, slow.message, slow.stdout) == (Outcome.TIMEOUT, "took longer than 1 s", "said\n")
    hoard = "import time; hoard = b'x' * 400_000_000; time.sleep(600)"
    large = _only(_run(tmp_path, "python", "-c", hoard, reports=("tap", "stdout"), memory=200 * 1024**2))
    assert large.outcome is Outcome.OUT_OF_MEMORY


# ---- walls ------------------------------------------------------------------------------------------------------


@sandbox
def test_the_command_can_not_get_at_the_line(tmp_path: Path) -> None:
    script = """
import os
print("1..1")
numbers = [number for number in os.listdir("/proc/self/fd") if int(number) > 2]
found = [number for number in numbers if os.path.exists(f"/proc/self/fd/{number}")]
for name in ("mem", "environ", "fd/1000", "maps"):
    try:
        os.open(f"/proc/{os.getppid()}/{name}", os.O_RDONLY)
        found.append(name)
    except PermissionError:
        pass
print("ok" if not found else f"not ok - {found}")
"""
    assert _only(_run(tmp_path, "python", "-c", script, reports=("tap", "stdout"))).outcome is Outcome.PASSED


@sandbox
def test_nothing_of_the_project_is_loaded_by_what_runs_the_command(tmp_path: Path) -> None:
    for name in ("subprocess.py", "base64.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('loaded')")
    report = _sh(tmp_path, f"echo '{GOOD}' > report.xml", env={"PYTHONPATH": str(tmp_path)})
    assert report.exit_code == ExitCode.OK


# ---- infrastructure ---------------------------------------------------------------------------------------------


@sandbox
def test_a_sandbox_that_can_not_be_had_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, tries = Sandboxes.start, 0

    @asynccontextmanager
    async def start(self: Sandboxes, request: Request, *more: Any) -> AsyncIterator[Sandbox]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ProgramStartError("no more of them")
        async with original(self, request, *more) as one:
            yield one

    monkeypatch.setattr(Sandboxes, "start", start)
    result = _only(_sh(tmp_path, f"echo '{GOOD}' > report.xml"))
    assert (result.outcome, result.attempts) == (Outcome.PASSED, 3)
    tries = -10
    report = _sh(tmp_path, "true", retries=1)
    assert (_only(report).outcome, _only(report).attempts) == (Outcome.INFRASTRUCTURE_ERROR, 2)
    assert report.exit_code == ExitCode.INTERNAL_ERROR


@sandbox
def test_a_sandbox_that_is_ended_from_outside_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, tries = Sandboxes.start, 0

    @asynccontextmanager
    async def start(self: Sandboxes, request: Request, *more: Any) -> AsyncIterator[Sandbox]:
        nonlocal tries
        tries += 1
        async with original(self, request, *more) as one:
            if tries == 1:
                one.kill()
            yield one

    monkeypatch.setattr(Sandboxes, "start", start)
    result = _only(_sh(tmp_path, f"echo '{GOOD}' > report.xml; sleep 0.2"))
    assert (result.outcome, result.attempts, tries) == (Outcome.PASSED, 2, 2)


# ---- without a sandbox ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "reports", "named"),
    [
        ((), ("junit", "a"), "argv"),
        (("",), ("junit", "a"), "argv"),
        (("a\0",), ("junit", "a"), "argv"),
        (("a",), ("xml", "a"), "'xml'"),
        (("a",), ("junit", ""), "reports"),
        (("a",), ("junit", "a\0"), "reports"),
    ],
)
def test_a_command_that_makes_no_sense(argv: tuple[str, ...], reports: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ExternalCommand(argv, reports)


def test_a_command_is_named_as_it_would_be_typed() -> None:
    assert str(ExternalCommand(("go", "test", "a b"), ("tap", "stdout"))) == "go test 'a b'"


def test_where_a_report_is_that_is_stdout() -> None:
    assert command_inside.STDOUT == "stdout"


# ---- a real framework -------------------------------------------------------------------------------------------

JEST = os.environ.get("IPYBOX_TEST_JEST", "")
"""A directory with ``node_modules`` that have jest; there is none in this project."""


@sandbox
@pytest.mark.skipif(not JEST or shutil.which("node") is None, reason="no jest here: IPYBOX_TEST_JEST is not set")
def test_jest(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(Path(JEST, "node_modules"), project / "node_modules", symlinks=True)
    (project / "package.json").write_text('{"name": "sample"}')
    (project / "a.test.js").write_text(
        "test('adds', () => { expect(1 + 2).toBe(3); });\ntest('does not', () => { expect(1 + 2).toBe(4); });\n"
    )
    argv = ("node_modules/.bin/jest", "--ci", "--json", "--outputFile=/tmp/report.json")
    report = _run(project, *argv, reports=("jest-json", "/tmp/report.json"))
    assert {each.id: str(each.outcome) for each in report.results} == {
        "a.test.js::adds": "passed",
        "a.test.js::does not": "failed",
    }
