"""``ipybox test`` as people type it: exit codes, files, what is shown, and ends that come from outside."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from ipybox.cli.test import history_file
from ipybox.testrun.webhook import signature
from tests.kernels.helpers import HANG, is_alive
from tests.testrun.small_projects import write

pytestmark = pytest.mark.sandbox

IPYBOX = (sys.executable, "-c", "from ipybox.cli import main; main()", "test")
GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert [1] == [2]\n"
WAITING = """\
    import os, time
    def test_one(): wait()
    def test_two(): wait()
    def wait():
        while not os.path.exists(os.environ["GO"]):
            time.sleep(0.02)
    """


def _environment(home: Path, more: Mapping[str, str] = {}) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "PYTEST_"))}
    return {**plain, "XDG_STATE_HOME": str(home / "state"), "COLUMNS": "200", **more}


class Project:
    """A project, and what people type in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root.parent

    def test(self, *arguments: object, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        """Runs ``ipybox test`` to its end."""
        return subprocess.run(
            [*IPYBOX, *map(str, arguments)],
            cwd=self.root,
            env=_environment(self.home, env),
            capture_output=True,
            text=True,
            timeout=2 * HANG,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """Begins one."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*IPYBOX, *map(str, arguments)], cwd=self.root, env=_environment(self.home), **streams)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    return Project(root)


# ---- exit codes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "arguments", "code", "last"),
    [
        ({"test_m.py": GOOD}, (), 0, "1 passed in "),
        ({"test_m.py": GOOD + BAD}, (), 1, "1 failed, 1 passed in "),
        ({"test_m.py": "import nothing_like_that\n", "test_n.py": GOOD}, (), 2, "1 errors, 1 not run in "),
        ({"m.py": GOOD}, (), 5, "no tests were found in "),
        ({"test_m.py": GOOD}, ("-k", "other"), 5, "no tests were found, 1 deselected in "),
    ],
    ids=["good", "bad", "not imported", "none", "none left"],
)
def test_the_exit_code_says_how_it_went(
    project: Project, files: dict[str, str], arguments: tuple[str, ...], code: int, last: str
) -> None:
    write(project.root, files)
    done = project.test(*arguments)
    assert (done.returncode, done.stderr) == (code, "")
    assert last.replace("no tests were found, ", "") in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--no-such-option"], "No such option"),
        (["--isolate", "module"], "isolation must be"),
        (["--workers", "0"], "workers must be"),
        (["--timeout", "0"], "timeout must be"),
        (["--hash-seed", "x"], "--hash-seed wants a number"),
        (["--env", "X"], "X"),
        (["--maxfail", "-1"], "must not be negative"),
        (["there/is/nothing.py"], "there/is/nothing.py does not exist"),
        (["test_m.py::test_nothing"], "not found"),
        (["--", "--no-such-option"], "--no-such-option"),
        (["-k", "not ("], "Wrong expression"),
        (["--webhook", "nonsense"], "http"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_4_with_its_reason_and_nothing_else(project: Project, arguments: list[str], reason: str) -> None:
    write(project.root, {"test_m.py": GOOD})
    done = project.test(*arguments)
    assert done.returncode in ((2, 4) if arguments == ["--no-such-option"] else (4,))
    assert reason in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "passed" not in done.stdout


def test_a_file_that_can_not_be_written_is_3_with_its_reason(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD})
    done = project.test("--json", project.root / "test_m.py" / "x.json")
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "x.json" in done.stderr
    assert "1 passed" in done.stdout


# ---- what is shown ----------------------------------------------------------------------------------------------


def test_failures_are_shown_with_their_reasons_and_successes_are_counted(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + "def test_bad():\n    print('it said this')\n    assert [1] == [2]\n"})
    lines = project.test().stdout.splitlines()
    assert lines[0].startswith(f"2 tests in {project.root}, each in a sandbox of its own, ")
    assert lines[1].startswith("failed test_m.py::test_bad: assert [1] == [2]")
    assert any("At index 0 diff: 1 != 2" in line for line in lines)
    assert any(line.strip() == "it said this" for line in lines)
    assert not any("test_good" in line for line in lines)


def test_verbose_shows_all_and_quiet_only_the_end(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + BAD})
    assert "passed test_m.py::test_good" in project.test("-v").stdout.splitlines()
    (line,) = project.test("-q").stdout.splitlines()
    assert line.startswith("1 failed, 1 passed in ")


HOSTILE = """\
    import pytest
    EVIL = "\\x1b[31m\\x1b]0;owned\\x07\\x1b[2J[bold]::error::x\\r\\u202e\\x9b"
    @pytest.mark.parametrize("a", [1], ids=[EVIL])
    def test_named(a):
        print(EVIL)
        raise ValueError(EVIL + "\\n::add-mask::x")
    def test_skipped(): pytest.skip(EVIL)
    """


@pytest.mark.parametrize("colour", ["--color", "--no-color"])
def test_nothing_that_a_test_says_reaches_the_terminal_as_a_command(project: Project, colour: str) -> None:
    write(project.root, {"test_m.py": HOSTILE})
    done = project.test("-v", colour, env={"GITHUB_ACTIONS": "true"})
    assert done.returncode == 1
    for bad in ("\x1b]", "\x1b[2J", "\x07", "\r", "\u202e", "\x9b", "\x1b[31mowned"):
        assert bad not in done.stdout
    assert ("\x1b[" in done.stdout) == (colour == "--color")
    assert "[bold]" in done.stdout  # as it is, and not as markup of ours
    commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert [line.partition(" ")[0] for line in commands] == ["::error"]


def test_what_a_project_says_that_can_not_begin_is_no_command_either(project: Project) -> None:
    evil = "raise ValueError('broken \\x1b]0;owned\\x07 \\r \\x9b')\n"
    write(project.root, {"conftest.py": evil})
    done = project.test("--color")
    assert done.returncode == 4
    assert "broken" in done.stderr
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(done.stderr)


def _on_terminal(project: Project, *arguments: str) -> str:
    ours, theirs = pty.openpty()
    process = project.start(*arguments, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    while True:
        assert select.select([ours], [], [], HANG)[0], "nothing came"
        try:
            data = os.read(ours, 65536)
        except OSError:  # nobody has it open any more
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait(HANG) == 0
    return shown.decode()


def test_on_a_terminal_something_moves_and_elsewhere_nothing(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD})
    shown = _on_terminal(project)
    assert "\x1b[" in shown
    assert "1 passed" in shown
    done = project.test()
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout


def test_a_reader_that_goes_away_ends_it_without_a_word(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + "".join(f"def test_{n}(): assert 0, 'x' * 50\n" for n in range(30))})
    process = project.start("-v")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(HANG) != 0
    assert b"Traceback" not in errors
    assert not errors.strip()


# ---- options ----------------------------------------------------------------------------------------------------


def test_options_of_the_framework_come_after_two_dashes(project: Project) -> None:
    write(project.root, {"test_m.py": "import warnings\ndef test_w(): warnings.warn('careful')\n"})
    assert project.test().returncode == 0
    done = project.test("--", "-W", "error")
    assert (done.returncode, "UserWarning: careful" in done.stdout) == (1, True)
    assert project.test("test_m.py", "--", "-W", "error").returncode == 1


def test_options_of_the_run_arrive_in_the_tests(project: Project) -> None:
    write(
        project.root,
        {
            "test_m.py": """\
                import os, time
                def test_all():
                    found = [os.environ[name] for name in ("A", "TZ", "PYTHONHASHSEED")]
                    assert found == ["b=c", "Asia/Tokyo", "7"]
                    assert open(os.environ["READ"]).read() == "x"
                """
        },
    )
    other = project.home / "other"
    other.mkdir(0o755)
    (other / "file").write_text("x")
    done = project.test(
        *("--env", "A=b=c", "--time-zone", "Asia/Tokyo", "--hash-seed", "7"),
        *("--read", other, "--env", f"READ={other}/file", "-n", "1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_random_seed_is_shown_so_that_it_can_be_used_again(project: Project) -> None:
    write(project.root, {"test_m.py": "import os\ndef test_x(): assert 0, os.environ['PYTHONHASHSEED']\n"})
    done = project.test("--hash-seed", "random")
    seed = done.stdout.splitlines()[0].removeprefix("hash seed: ")
    assert f"AssertionError: {seed}" in done.stdout


# ---- files ------------------------------------------------------------------------------------------------------


def test_reports_are_written(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + BAD})
    done = project.test("--json", "r.json", "--junitxml", "r.xml", "--html", "r.html")
    assert done.returncode == 1
    data = json.loads((project.root / "r.json").read_text())
    assert data["summary"] == {"total": 2, "passed": 1, "failed": 1}
    assert data["exit_code"] == 1
    cases = list(ET.parse(project.root / "r.xml").iter("testcase"))
    assert [case.get("name") for case in cases] == ["test_good", "test_bad"]
    assert "test_bad" in (project.root / "r.html").read_text()


def test_results_are_kept_outside_of_the_project(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD})
    before = sorted(project.root.rglob("*"))
    project.test()
    assert sorted(project.root.rglob("*")) == before
    path = history_file(str(project.root), {"XDG_STATE_HOME": str(project.home / "state")})
    assert path.exists()
    assert list((project.home / "state").rglob("*.sqlite")) == [path]


def test_nothing_is_kept_if_that_is_not_wanted(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD})
    project.test("--no-history")
    assert not (project.home / "state").exists()


def test_projects_of_the_same_name_have_results_of_their_own() -> None:
    assert history_file("/a/project", {}) != history_file("/b/project", {})


def test_only_what_failed_last_is_run_again(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + BAD})
    project.test()
    done = project.test("--lf", "-v")
    assert done.returncode == 1
    assert "test_good" not in done.stdout
    write(project.root, {"test_m.py": GOOD + BAD.replace("[2]", "[1]")})
    assert "1 passed, 1 deselected" in project.test("--lf").stdout
    done = project.test("--lf")
    assert "no test failed when it was last run: all are run" in done.stdout
    assert "2 passed" in done.stdout


def test_a_file_that_could_not_be_imported_is_run_again_as_a_whole(project: Project) -> None:
    write(project.root, {"test_m.py": "import nothing_like_that\n", "test_n.py": GOOD})
    assert project.test().returncode == 2
    write(project.root, {"test_m.py": GOOD + GOOD.replace("good", "too")})
    done = project.test("--lf", "-v")
    assert done.returncode == 0
    assert "2 passed, 1 deselected" in done.stdout


def test_all_are_run_if_those_that_failed_are_not_there_any_more(project: Project) -> None:
    write(project.root, {"test_m.py": BAD})
    project.test()
    write(project.root, {"test_m.py": GOOD})
    done = project.test("--lf")
    assert (done.returncode, "1 passed" in done.stdout) == (0, True)


def test_the_trend_is_shown(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD})
    project.test()
    write(project.root, {"test_m.py": BAD})
    assert len(project.test("--trend", "-q").stdout.splitlines()) > 2


def test_results_come_from_the_cache_or_it_is_said_why_not(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + BAD})
    project.test("--cached")
    done = project.test("--cached", "-v")
    assert done.returncode == 1
    if "no results are taken from the cache: " not in done.stdout:  # ipybox itself may be a link to a checkout
        assert "passed (cached) test_m.py::test_good" in done.stdout
        assert "1 failed, 1 passed, 1 cached" in done.stdout.splitlines()[-1]
        write(project.root, {"test_m.py": GOOD})
        assert "cached" not in project.test("--cached").stdout.splitlines()[-1]


def test_github_is_told_where_it_looks(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + BAD})
    summary = project.home / "summary.md"
    done = project.test(env={"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"})
    assert "test_bad" in summary.read_text()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert line.startswith("::error file=test_m.py,line=2")


@pytest.mark.asyncio
async def test_an_address_is_told_although_it_fails_twice(project: Project) -> None:
    write(project.root, {"test_m.py": GOOD + BAD})
    told: list[tuple[bytes, str]] = []

    async def hook(request: web.Request) -> web.Response:
        told.append((await request.read(), request.headers["X-Ipybox-Signature-256"]))
        return web.Response(status=503 if len(told) < 3 else 200, headers={"Retry-After": "0"})

    application = web.Application()
    application.router.add_post("/hook", hook)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        done = await asyncio.to_thread(project.test, "--webhook", address, env={"IPYBOX_WEBHOOK_SECRET": "hunter2"})
    finally:
        await runner.cleanup()
    assert (done.returncode, done.stderr) == (1, "")
    assert len(told) == 3
    assert len({body for body, _ in told}) == 1
    assert {sign for _, sign in told} == {signature("hunter2", told[0][0])}
    assert b"test_bad" in told[0][0]


# ---- ends from outside ------------------------------------------------------------------------------------------


class Waiting:
    """An ``ipybox test`` whose first test waits."""

    def __init__(self, project: Project) -> None:
        write(project.root, {"test_m.py": WAITING})
        self.gate, self.report = project.home / "gate", project.home / "report.json"
        self.gate.mkdir(0o755)
        options: Sequence[object] = ("--read", self.gate, "--env", f"GO={self.gate}/go", "--json", self.report)
        self.process = project.start("-n", 1, *options, start_new_session=True)
        assert self.line().startswith(b"2 tests in ")
        self.children = self._with_a_test()

    def _with_a_test(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def line(self) -> bytes:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], HANG)[0], "nothing came"
        return self.process.stdout.readline()

    def end(self) -> tuple[int, bytes, bytes]:
        output, errors = self.process.communicate(timeout=HANG)
        return self.process.returncode, output, errors


@pytest.fixture
def waiting(project: Project) -> Iterator[Waiting]:
    one = Waiting(project)
    yield one
    one.process.kill()
    one.process.communicate()


def test_after_an_interrupt_what_runs_comes_to_its_end_and_is_reported(waiting: Waiting) -> None:
    os.kill(waiting.process.pid, signal.SIGINT)
    assert waiting.line().startswith(b"interrupted: waiting")
    (waiting.gate / "go").touch()
    code, _, errors = waiting.end()
    data = json.loads(waiting.report.read_text())
    assert (code, errors, data["interrupted"]) == (2, b"", True)
    # Whether the first one had begun is for the machine to say; the second had not, with one worker.
    assert len(data["not_run"]) + len(data["results"]) == 2
    assert "test_m.py::test_two" in data["not_run"]


@pytest.mark.parametrize("numbers", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM]], ids=["twice", "SIGTERM"])
def test_a_second_interrupt_or_an_order_to_end_ends_it_now(waiting: Waiting, numbers: list[int]) -> None:
    os.kill(waiting.process.pid, numbers[0])
    if len(numbers) > 1:
        assert waiting.line().startswith(b"interrupted: waiting")
        os.kill(waiting.process.pid, numbers[1])
    code, output, errors = waiting.end()
    assert (code, errors) == (2, b"")
    assert b"2 not run" in output.splitlines()[-1]
    assert json.loads(waiting.report.read_text())["results"] == []
    assert [child for child in waiting.children if is_alive(child)] == []


def test_when_it_is_killed_nothing_is_left(waiting: Waiting) -> None:
    waiting.process.kill()
    waiting.process.wait(HANG)
    _, alive = psutil.wait_procs(waiting.children, HANG)
    assert [child for child in alive if is_alive(child)] == []
