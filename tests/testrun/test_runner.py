"""Tests in sandboxes have the outcomes that pytest gives them, whatever they do, and whatever becomes of the run."""

from __future__ import annotations

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipybox.errors import CollectionError, PreloadError, ProgramStartError
from ipybox.testrun.model import Isolation, RunReport
from ipybox.testrun.runner import TestRun
from ipybox.testrun.sandboxes import Sandboxes
from ipybox.testrun.settings import RunSettings
from tests.kernels.helpers import HANG, eventually, is_alive
from tests.testrun.comparison import differences, key_of, run_pytest
from tests.testrun.layouts import LAYOUTS, Layout
from tests.testrun.small_projects import INI, only, outcomes, run, write
from tests.testrun.zoo import ZOO

pytestmark = pytest.mark.sandbox
ISOLATIONS: tuple[Isolation, ...] = ("test", "class", "file")


# ---- the truth --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], str], int]:
    """A project with everything, and what a plain pytest says of it."""
    root = write(tmp_path_factory.mktemp("zoo"), ZOO)
    return root, *run_pytest(root)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_outcomes_are_those_of_a_plain_run(zoo: Any, isolation: Isolation) -> None:
    root, plain, code = zoo
    report = run(root, isolation=isolation)
    # JUnit calls a test skipped if a part of it is; the test itself passed.
    (part,) = [each for each in report.results if each.id.endswith("::test_skipped_part")]
    assert (part.outcome, plain.pop(key_of(part), "skipped")) == ("passed", "skipped")
    assert differences({**plain, key_of(part): "passed"}, report.results) == []
    assert report.exit_code == code == 1
    assert (report.stopped, report.not_run, report.interrupted) == ("", (), False)
    assert all(result.attempts == 1 for result in report.results)


def test_results_are_in_the_order_of_the_collection_whichever_came_first(tmp_path: Path) -> None:
    names = [f"test_{name}" for name in "abcdef"]
    text = "".join(f"def {name}(): pass\n" for name in names)
    ids = [f"test_m.py::{name}" for name in names]
    durations = {name: float(number) for number, name in enumerate(ids)}
    report = run(write(tmp_path, {"test_m.py": text}), watch={"durations": durations})
    assert [result.id for result in report.results] == ids


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_projects_of_every_shape_have_the_outcomes_of_a_plain_run(tmp_path: Path, layout: Layout) -> None:
    root = write(tmp_path / "project", layout.files)
    for name, target in layout.links.items():
        (root / name).symlink_to(root / target)
    plain, code = run_pytest(root / layout.cwd, *layout.arguments, *layout.paths)
    report = run(root / layout.cwd, *layout.paths, arguments=layout.arguments)
    assert differences(plain, report.results) == []
    assert report.exit_code == code


def test_a_result_says_where_the_test_is_and_what_was_wrong(tmp_path: Path) -> None:
    text = "import sys\n\ndef test_x():\n    print('out')\n    print('err', file=sys.stderr)\n    assert [1] == [2]\n"
    result = only(run(write(tmp_path, {"deep/test_m.py": text})))
    assert (result.file, result.line, result.phase) == ("deep/test_m.py", 3, "call")
    assert result.message.startswith("assert [1] == [2]")
    assert "At index 0 diff: 1 != 2" in result.details
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


# ---- what shares a sandbox --------------------------------------------------------------------------------------

SHARING = """\
    import os
    NOTED = []
    def note(name):
        NOTED.append(name)
        open("/tmp/noted", "a").close()
    def test_a(): note("a"); assert NOTED == ["a"]
    def test_b(): note("b"); assert NOTED == ["b"]
    class TestC:
        def test_c(self): note("c"); assert NOTED == ["c"]
        def test_d(self): note("d"); assert NOTED == ["d"]
    """


@pytest.mark.parametrize(
    ("isolation", "good"),
    [("test", {"a", "b", "c", "d"}), ("class", {"a", "c"}), ("file", {"a"})],
)
def test_what_is_apart_finds_nothing_of_the_others(tmp_path: Path, isolation: Isolation, good: set[str]) -> None:
    found = outcomes(run(write(tmp_path, {"test_m.py": SHARING}), isolation=isolation))
    assert {name[-1] for name, outcome in found.items() if outcome == "passed"} == good


CRASHING = """\
    import os, signal, sys
    def test_before(): pass
    def test_killed(): os.kill(os.getpid(), signal.SIGSEGV)
    def test_between(): assert 0
    def test_exits(): os._exit(0)
    def test_hangs():
        import time
        time.sleep(1000)
    def test_after(): pass
    """


@pytest.mark.parametrize("isolation", ["test", "file"])
def test_one_that_takes_its_process_along_leaves_the_others_their_results(tmp_path: Path, isolation: Isolation) -> None:
    report = run(write(tmp_path, {"test_m.py": CRASHING}), isolation=isolation, timeout=1.5)
    assert [(each.id.partition("::test_")[2], str(each.outcome), each.attempts) for each in report.results] == [
        ("before", "passed", 1),
        ("killed", "crashed", 1),
        ("between", "failed", 1),
        ("exits", "crashed", 1),
        ("hangs", "timeout", 1),
        ("after", "passed", 1),
    ]
    by_name = {each.id.partition("::test_")[2]: each for each in report.results}
    assert by_name["killed"].signal == signal.SIGSEGV
    assert by_name["exits"].exit_code == 0
    assert "test_hangs" in by_name["hangs"].stderr  # where it was


def test_time_runs_out_wherever_it_is_spent(tmp_path: Path) -> None:
    files = {
        "test_setup.py": """\
            import pytest, time
            @pytest.fixture
            def slow(): time.sleep(1000)
            def test_x(slow): pass
            """,
        "test_teardown.py": """\
            import pytest, time
            @pytest.fixture
            def slow():
                yield
                time.sleep(1000)
            def test_x(slow): pass
            """,
        "test_import.py": """\
            import os, time
            if os.path.exists("/tmp/.pytest_cache") or "--collect-only" not in __import__("sys").argv:
                time.sleep(1000)
            def test_x(): pass
            """,
    }
    report = run(write(tmp_path, files), timeout=1.5)
    assert {each.file: (str(each.outcome), each.phase) for each in report.results} == {
        "test_setup.py": ("timeout", "call"),
        "test_teardown.py": ("timeout", "call"),
        "test_import.py": ("timeout", "collect"),
    }
    (imported,) = [each for each in report.results if each.file == "test_import.py"]
    assert imported.message == "importing its file took longer than 1.5 s"


# ---- which are run ----------------------------------------------------------------------------------------------

MARKED = """\
    import pytest
    @pytest.mark.filterwarnings("ignore")
    def test_marked(): pass
    def test_other(): pass
    def test_third(): pass
    """


@pytest.mark.parametrize(
    ("selection", "names"),
    [(("-k", "other or third"), ["other", "third"]), (("-m", "filterwarnings"), ["marked"]), (("-k", "no"), [])],
)
def test_those_that_were_not_asked_for_are_counted(
    tmp_path: Path, selection: tuple[str, str], names: list[str]
) -> None:
    report = run(write(tmp_path, {"test_m.py": MARKED}), selection=selection)
    assert list(outcomes(report)) == [f"test_m.py::test_{name}" for name in names]
    assert report.deselected == 3 - len(names)
    assert report.exit_code == (0 if names else 5)


def test_only_those_of_a_list_are_run_or_all_of_a_file(tmp_path: Path) -> None:
    root = write(tmp_path, {"test_m.py": MARKED, "test_n.py": MARKED})
    report = run(root, only=("test_m.py::test_other", "test_n.py", "test_gone.py::test_x"))
    assert list(outcomes(report)) == [
        "test_m.py::test_other",
        *(f"test_n.py::test_{name}" for name in ("marked", "other", "third")),
    ]
    assert report.deselected == 2


FAILING = "".join(f"def test_{number}(): assert {number} % 2\n" for number in range(8))


@pytest.mark.parametrize("isolation", ["test", "file"])
@pytest.mark.parametrize("most", [1, 2])
def test_a_run_ends_after_so_many_failures(tmp_path: Path, isolation: Isolation, most: int) -> None:
    report = run(write(tmp_path, {"test_m.py": FAILING}), isolation=isolation, most_failures=most, workers=1)
    assert len(report.failures) == most
    assert len(report.results) + len(report.not_run) == 8
    assert len(report.results) == 2 * most - 1
    assert report.stopped == f"stopped after {most} failures"
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("addopts", "arguments"), [("-x", ()), ("", ("--maxfail=1",))], ids=["configuration", "arguments"]
)
def test_a_run_ends_after_so_many_failures_also_if_only_pytest_is_told(
    tmp_path: Path, addopts: str, arguments: tuple[str, ...]
) -> None:
    root = write(tmp_path, {"pytest.ini": f"{INI}addopts = {addopts}\n", "test_m.py": FAILING})
    report = run(root, arguments=arguments, workers=1)
    assert (outcomes(report), report.exit_code) == ({"test_m.py::test_0": "failed"}, 1)
    assert report.stopped == "stopped after 1 failures"


def test_the_longest_are_begun_first(tmp_path: Path) -> None:
    begun: list[str] = []
    ids = [f"test_m.py::test_{number}" for number in range(8)]
    durations = {ids[0]: 1.0, ids[5]: 9.0, ids[2]: 5.0, ids[7]: 0.5}
    watch = {"on_start": begun.append, "durations": durations}
    run(write(tmp_path, {"test_m.py": FAILING}), workers=1, watch=watch)
    assert (begun[:2], begun[-2:]) == ([ids[5], ids[2]], [ids[0], ids[7]])
    assert sorted(begun) == ids


# ---- more than one attempt --------------------------------------------------------------------------------------


def _failing_starts(monkeypatch: pytest.MonkeyPatch, is_to_fail: Callable[[Any], bool]) -> list[Any]:
    """Has sandboxes fail to start; returns the requests that did."""
    start, failed = Sandboxes.start, []

    @asynccontextmanager
    async def failing(self: Sandboxes, request: Any, archive: int | None = None) -> AsyncIterator[Any]:
        if is_to_fail(request):
            failed.append(request)
            raise ProgramStartError("no more processes")
        async with start(self, request, archive) as sandbox:
            yield sandbox

    monkeypatch.setattr(Sandboxes, "start", failing)
    return failed


def test_what_had_no_sandbox_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[None] = []

    def twice(request: Any) -> bool:
        if request.mode == "run":
            tries.append(None)
        return request.mode == "run" and len(tries) <= 2

    _failing_starts(monkeypatch, twice)
    result = only(run(write(tmp_path, {"test_m.py": "def test_x(): pass\n"}), retries=2))
    assert (result.outcome, result.attempts) == ("passed", 3)


def test_what_never_has_a_sandbox_has_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = _failing_starts(monkeypatch, lambda request: request.mode == "run" and "test_m.py::test_x" in request.ids)
    text = "def test_x(): pass\ndef test_y(): assert 0\n"
    report = run(write(tmp_path, {"test_m.py": text}), retries=1)
    assert outcomes(report) == {"test_m.py::test_x": "infrastructure_error", "test_m.py::test_y": "failed"}
    assert report.results[0].attempts == len(failed) == 2
    assert "no more processes" in report.results[0].message
    assert report.exit_code == 3


def test_without_a_sandbox_to_find_tests_in_it_is_no_fault_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing_starts(monkeypatch, lambda request: True)
    with pytest.raises(CollectionError, match="no more processes") as error:
        run(write(tmp_path, {"test_m.py": "def test_x(): pass\n"}), retries=0)
    assert error.value.is_infrastructure


def test_without_compiled_modules_all_is_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing_starts(monkeypatch, lambda request: request.mode == "compile")
    text = "def test_x(): pass\ndef test_y(): assert 1 == 2\n"
    report = run(write(tmp_path, {"test_m.py": text}))
    assert list(outcomes(report).values()) == ["passed", "failed"]
    assert report.failures[0].message == "assert 1 == 2"


def test_a_failure_is_not_tried_again_unless_asked_for(tmp_path: Path) -> None:
    report = run(write(tmp_path, {"test_m.py": FAILING}))
    assert {result.attempts for result in report.results} == {1}


@pytest.mark.parametrize("isolation", ["test", "file"])
def test_what_succeeds_on_a_later_attempt_is_flaky(tmp_path: Path, isolation: Isolation) -> None:
    # What is changed outside is there in the next sandbox.
    text = """\
        import time
        def test_by_the_clock(): assert time.time() > float(open("due").read())
        def test_sure(): assert 0
        def test_good(): pass
        """
    root = write(tmp_path, {"test_m.py": text, "due": "0"})

    def make_due(result: object) -> None:
        (root / "due").write_text("0")

    (root / "due").write_text("9e99")
    watch = {"on_start": lambda name: (root / "due").write_text("0") if "sure" in name else None}
    report = run(root, isolation=isolation, rerun_failures=3, workers=1, watch=watch)
    by_name = {each.id.partition("::test_")[2]: each for each in report.results}
    clock, sure, good = by_name["by_the_clock"], by_name["sure"], by_name["good"]
    assert (sure.outcome, sure.attempts, sure.flaky) == ("failed", 4, False)
    assert (good.outcome, good.attempts, good.flaky) == ("passed", 1, False)
    if isolation == "file":  # with a sandbox for each test, its attempts come right after each other
        assert (clock.outcome, clock.attempts, clock.flaky) == ("passed", 2, True)
        assert report.flaky == (clock,)
        assert "failed" in clock.message
        assert clock.details


# ---- the end of a run -------------------------------------------------------------------------------------------

WAITING = """\
    import os, time
    def test_first(): wait()
    def test_second(): wait()
    def test_third(): wait()
    def wait():
        while not os.path.exists(os.environ["GO"]):
            time.sleep(0.02)
    """


def _gate(root: Path, **more: Any) -> RunSettings:
    """Settings for tests that wait for a file beside the project: of what is in it sandboxes keep to what they saw."""
    gate = root.parent / "gate"
    gate.mkdir(0o755)
    return RunSettings(cwd=str(root), workers=1, readable=(str(gate),), env={"GO": str(gate / "go")}, **more)


def _open(settings: RunSettings) -> None:
    Path(settings.env["GO"]).touch()


async def _interrupted(settings: RunSettings, act: Callable[[TestRun], None]) -> RunReport:
    """Runs tests of which the first waits, and does something when it has begun."""
    begun = asyncio.Event()
    async with TestRun(settings, on_start=lambda name: begun.set()) as one:
        running = asyncio.create_task(one.run())
        await asyncio.wait_for(begun.wait(), HANG)
        act(one)
        return await asyncio.wait_for(running, HANG)


@pytest.mark.parametrize("isolation", ["test", "file"])
def test_those_that_run_come_to_their_end_and_no_more_are_begun(tmp_path: Path, isolation: Isolation) -> None:
    settings = _gate(write(tmp_path / "p", {"test_m.py": WAITING}), isolation=isolation)

    def act(one: TestRun) -> None:
        one.finish_running("enough")
        _open(settings)

    report = asyncio.run(_interrupted(settings, act))
    assert outcomes(report) == {"test_m.py::test_first": "passed"}
    assert report.not_run == ("test_m.py::test_second", "test_m.py::test_third")
    assert (report.interrupted, report.stopped, report.exit_code) == (True, "enough", 2)


def test_a_run_that_is_stopped_ends_what_runs(tmp_path: Path) -> None:
    settings = _gate(write(tmp_path / "p", {"test_m.py": WAITING}))
    report = asyncio.run(_interrupted(settings, lambda one: one.stop()))
    assert report.results == ()
    assert len(report.not_run) == 3
    assert report.exit_code == 2


@pytest.mark.parametrize("is_stopped_first", [False, True])
def test_a_run_that_is_cancelled_leaves_nothing_and_says_so(tmp_path: Path, is_stopped_first: bool) -> None:
    settings = _gate(write(tmp_path / "p", {"test_m.py": WAITING}))

    async def cancelled() -> None:
        begun = asyncio.Event()
        before = len(os.listdir("/proc/self/fd"))
        async with TestRun(settings, on_start=lambda name: begun.set()) as one:
            running = asyncio.create_task(one.run())
            await asyncio.wait_for(begun.wait(), HANG)
            if is_stopped_first:
                one.finish_running()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, HANG)
        assert len(os.listdir("/proc/self/fd")) == before

    children = {child.pid for child in psutil.Process().children(recursive=True)}
    asyncio.run(cancelled())
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in children]
    assert [child for child in left if is_alive(child)] == []


def test_a_run_leaves_no_processes_descriptors_or_files(tmp_path: Path) -> None:
    text = """\
        import subprocess, threading, time
        def test_child(): subprocess.Popen(["sleep", "1000"], start_new_session=True)
        def test_thread(): threading.Thread(target=time.sleep, args=(1000,)).start()
        def test_crash(): subprocess.Popen(["sleep", "1000"]); __import__("os").abort()
        def test_file(tmp_path): (tmp_path / "x").write_text("y"); open("/tmp/left", "w").close()
        """
    root = write(tmp_path / "p", {"test_m.py": text})
    places = [Path("/tmp"), Path("/dev/shm")]

    def state() -> tuple[int, set[int], set[Path]]:
        files = {path for place in places for path in place.glob("*") if path.name == "left" or "ipybox" in path.name}
        return len(os.listdir("/proc/self/fd")), {each.pid for each in psutil.Process().children(recursive=True)}, files

    before = state()
    report = run(root)
    assert report.counts == {"passed": 3, "crashed": 1}
    after = state()
    assert (after[0], after[1] - before[1]) == (before[0], set())
    assert "/tmp/left" not in map(str, after[2] - before[2])


# ---- the project ------------------------------------------------------------------------------------------------


def _tree(root: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(root)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
    }


def test_a_project_is_as_it_was_after_tests_that_change_everything_in_it(tmp_path: Path) -> None:
    text = """\
        import os, pathlib, shutil
        HERE = pathlib.Path(__file__).parent
        def test_deletes():
            for path in HERE.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            assert not list(HERE.iterdir())
        def test_rewrites():
            for path in HERE.rglob("*"):
                if path.is_file():
                    path.write_text("rewritten")
                    path.chmod(0o777)
            (HERE / "new").mkdir()
        def test_moves(): shutil.move(HERE / "data", HERE / "other")
        def test_finds_all_as_it_was():
            assert (HERE / "data/a.txt").read_text() == "a"
            assert not (HERE / "new").exists() and not (HERE / "other").exists()
        """
    root = write(tmp_path / "p", {"test_m.py": text, "data/a.txt": "a", "conftest.py": ""})
    before = _tree(root)
    report = run(root, workers=2)
    assert set(outcomes(report).values()) == {"passed"}
    assert _tree(root) == before


def test_a_project_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CollectionError):
        run(write(tmp_path, {"test_m.py": ""}), "nothing/here")


@pytest.mark.parametrize(
    ("files", "arguments", "reason"),
    [
        ({"test_m.py": ""}, ("--no-such-option",), "no-such-option"),
        ({"pytest.ini": "[pytest]\naddopts = --nonsense\n"}, (), "nonsense"),
        ({"conftest.py": "import there_is_no_such_module\n"}, (), "there_is_no_such_module"),
        ({"conftest.py": "def pytest_configure(config): 1 / 0\n"}, (), "ZeroDivisionError"),
        (
            {"conftest.py": "def pytest_collection_modifyitems(items): 1 / 0\n", "test_m.py": FAILING},
            (),
            "ZeroDivision",
        ),
        ({"conftest.py": "import os\nos._exit(7)\n"}, (), "7"),
        ({"conftest.py": "import os\nos.abort()\n"}, (), "SIGABRT|signal 6"),
    ],
    ids=["option", "addopts", "conftest", "configure", "modifyitems", "exit", "abort"],
)
def test_where_pytest_can_not_begin_its_reason_is_told(
    tmp_path: Path, files: dict[str, str], arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(CollectionError, match=reason) as error:
        run(write(tmp_path, files), arguments=arguments)
    assert not error.value.is_infrastructure


def test_a_test_that_is_found_only_once_is_told(tmp_path: Path) -> None:
    text = """\
        import pytest, sys
        @pytest.mark.parametrize("n", [1] if "--collect-only" in sys.argv else [2])
        def test_x(n): pass
        """
    result = only(run(write(tmp_path, {"test_m.py": text})))
    assert (result.outcome, result.phase, result.message) == ("error", "collect", "it was not found in a fresh sandbox")


def test_a_module_of_the_project_can_be_imported_once_for_all(tmp_path: Path) -> None:
    files = {
        "pytest.ini": "[pytest]\npythonpath = src\n",
        "src/costly.py": "import os\nmade_by = os.getpid()\nstate = []\n",
        "test_m.py": """\
            import os, costly
            def test_one(): assert costly.made_by != os.getpid(); costly.state.append(1); assert costly.state == [1]
            def test_two(): costly.state.append(2); assert costly.state == [2]
            """,
    }
    assert set(outcomes(run(write(tmp_path, files), preload=("costly",))).values()) == {"passed"}


def test_a_module_that_can_not_be_imported_beforehand_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreloadError, match="there_is_no_such_module"):
        run(write(tmp_path, {"test_m.py": ""}), preload=("there_is_no_such_module",))


def test_tests_find_the_same_environment_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_TOKEN", "PYTEST_ADDOPTS", "PYTHONSTARTUP", "LC_ALL", "TZ"):
        monkeypatch.setenv(name, "--of-this-machine")
    text = """\
        import os, sys, time, locale, socket
        def test_variables():
            known = {"HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PYTHONHASHSEED", "SHELL", "TMPDIR", "TZ", "USER",
                     "VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "MINE"}
            assert set(os.environ) <= known
            assert os.environ["MINE"] == "1"
        def test_hashes(): assert hash("ipybox") == int(os.environ["MINE"]) * hash("ipybox")
        def test_zone(): assert time.tzname[0] == "UTC" and time.localtime(0).tm_hour == 0
        def test_encoding(): assert sys.getfilesystemencoding() == "utf-8" == locale.getencoding().lower()
        def test_home(): assert os.path.expanduser("~") == os.environ["HOME"] and os.access(os.environ["HOME"], os.W_OK)
        def test_no_network():
            try:
                socket.create_connection(("1.1.1.1", 80), 1)
            except OSError:
                return
            assert False
        def test_loopback():
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()
        def test_here(): assert os.path.exists("test_m.py")
        """
    found = outcomes(run(write(tmp_path, {"test_m.py": text}), env={"MINE": "1"}))
    assert {name: outcome for name, outcome in found.items() if outcome != "passed"} == {}


def test_hashes_are_those_of_the_seed(tmp_path: Path) -> None:
    root = write(tmp_path, {"test_m.py": "def test_x(): assert 0, hash('ipybox')\n"})
    first, again, other = (only(run(root, hash_seed=seed)).message for seed in (1, 1, 2))
    assert first == again != other


def test_results_are_told_when_they_are_known(tmp_path: Path) -> None:
    told: list[str] = []
    text = f"def test_zero(): pass\n{textwrap.dedent(WAITING)}"
    settings = _gate(write(tmp_path / "p", {"test_m.py": text}), isolation="file")

    async def look() -> None:
        one = TestRun(settings, on_result=lambda result: told.append(result.id))
        async with one:
            running = asyncio.create_task(one.run())
            assert await eventually(lambda: bool(told))
            assert told == ["test_m.py::test_zero"]
            assert one.report().not_run == tuple(f"test_m.py::test_{name}" for name in ("first", "second", "third"))
            _open(settings)
            await asyncio.wait_for(running, HANG)

    asyncio.run(look())
    assert len(told) == 4


def test_results_from_elsewhere_take_the_place_of_tests(tmp_path: Path) -> None:
    root = write(tmp_path, {"test_m.py": FAILING})

    async def adopt() -> RunReport:
        async with TestRun(RunSettings(cwd=str(root))) as first:
            await first.collect()
            earlier = [result for result in (await first.run()).results if result.outcome.is_success]
        begun: list[str] = []
        async with TestRun(RunSettings(cwd=str(root)), on_start=begun.append) as second:
            await second.collect()
            second.adopt(earlier)
            report = await second.run()
        assert not set(begun) & {result.id for result in earlier}
        return report

    report = asyncio.run(adopt())
    assert report.counts == {"passed": 4, "failed": 4}


def test_a_link_out_of_the_project_is_followed_if_what_it_leads_to_may_be_read(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"test_m.py": "def test_x(): pass\n"})
    outside.chmod(0o755)
    root = write(tmp_path / "p", {"test_own.py": "def test_own(): pass\n"})
    (root / "test_link.py").symlink_to(outside / "test_m.py")
    report = run(root, readable=(str(outside),))
    assert outcomes(report) == {"test_link.py::test_x": "passed", "test_own.py::test_own": "passed"}
