"""Tests of unittest in sandboxes have the outcomes that unittest gives them, and can't give themselves others."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import CollectionError
from ipybox.testrun.model import CaseResult, Isolation, RunReport
from ipybox.testrun.runner import Collected, TestRun
from ipybox.testrun.settings import RunSettings
from tests.testrun.unittest_projects import HOSTILE, NAMED, TRICKY, write

pytestmark = pytest.mark.sandbox

_TOLD = re.compile(
    r"^ *(\w+) \(([\w.]+)\).*? \.\.\. (ok|FAIL|ERROR|skipped|expected failure|unexpected success)", re.MULTILINE
)
_SAME = {
    "ok": {"passed"},
    "FAIL": {"failed", "error"},
    "ERROR": {"failed", "error"},
    "skipped": {"skipped"},
    "expected failure": {"xfailed"},
    "unexpected success": {"failed"},
}


def _run(cwd: Path, *paths: str, **settings: Any) -> tuple[Collected, RunReport]:
    async def run() -> tuple[Collected, RunReport]:
        wanted = RunSettings(paths=paths, cwd=str(cwd), framework="unittest", **settings)
        async with TestRun(wanted) as one:
            return await one.collect(), await one.run()

    return asyncio.run(run())


def _collect(cwd: Path, *paths: str, **settings: Any) -> Collected:
    async def collect() -> Collected:
        wanted = RunSettings(paths=paths, cwd=str(cwd), framework="unittest", **settings)
        async with TestRun(wanted) as one:
            return await one.collect()

    return asyncio.run(collect())


def _ids(collected: Collected) -> list[str]:
    return [item.id for item in collected.items]


def _shown(report: RunReport) -> dict[str, str]:
    return {each.id: f"{each.outcome} {each.phase}".strip().replace(" collect", "") for each in report.results}


# ---- the truth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["test", "class", "file"])
def test_outcomes_are_those_of_unittest(tmp_path: Path, isolation: Isolation) -> None:
    collected, report = _run(write(TRICKY, tmp_path), isolation=isolation)
    expected = dict(NAMED)
    if isolation != "test":
        # What comes after the last test of a class or of a module is told of that test; the others had come to an end.
        expected["test_outcomes.py::BadClassEnd::test_a"] = "passed"
        expected["pkg/test_module_end.py::A::test_a"] = "passed"
    assert _shown(report) == expected
    assert collected.framework.startswith("unittest of Python 3.")
    assert report.root == str(tmp_path)
    assert report.exit_code == 1


def test_they_agree_with_a_plain_run(tmp_path: Path) -> None:
    _, report = _run(write(TRICKY, tmp_path), isolation="file")
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-v"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    plain: dict[str, set[str]] = {}
    for step, name, outcome in _TOLD.findall(done.stderr):
        if not step.startswith(("setUp", "tearDown")):
            plain.setdefault(name, set()).add(outcome)
    found: dict[str, set[str]] = {}
    for each in report.results:
        name = each.id.partition("[")[0].replace("/", ".").replace(".py::", ".").replace("::", ".")
        found.setdefault(name, set()).add(str(each.outcome))
    assert set(plain) <= set(found)
    # Those whose class or module could not be set up are not in unittest's list.
    assert {name if name.endswith("file") else name.rpartition(".")[0] for name in set(found) - set(plain)} == {
        "pkg.test_module.A",
        "pkg.test_module.B",
        "pkg.test_module_skip.A",
        "pkg.test_skipped_file",
        "pkg.deep.test_loaded.pkg.deep.test_loaded",
        "test_outcomes.BadClass",
        "test_outcomes.SkippingClass",
    }
    wrong = {
        name
        for name, outcomes in plain.items()
        if name in found and not all(found[name] & _SAME[outcome] for outcome in outcomes)
    }
    assert wrong == {"test_outcomes.BadClassEnd.test_b", "pkg.test_module_end.A.test_b"}  # what comes after the last


def test_a_test_can_not_give_itself_an_outcome(tmp_path: Path) -> None:
    _, report = _run(write(HOSTILE, tmp_path), memory=300 * 1024**2, timeout=30.0)
    found = {each.id.partition("::")[2]: each for each in report.results}
    shown = {name: f"{each.outcome} {each.phase}" for name, each in found.items()}
    assert {name for name, each in found.items() if each.outcome.is_success} == {
        "Hostile::test_innocent",
        "Skipping::test_a",
    }
    assert shown["Skipping::test_a"].strip() == "skipped"  # as it is when `setUp` says so
    assert {name: shown[f"Hostile::test_{name}"] for name in ("hard_exit", "signal", "success_and_exit")} == {
        "hard_exit": "crashed call",
        "signal": "crashed call",
        "success_and_exit": "crashed call",
    }
    assert found["Hostile::test_signal"].signal == 11
    assert shown["Hostile::test_interrupt"] == "failed call"
    assert found["Hostile::test_fork"].message == "AssertionError: the parent fails"
    assert shown["Hostile::test_memory"] == "out_of_memory call"
    assert found["Hostile::test_nasty_exception"].message == "Nasty"
    for name in ("own_success", "own_success_of_a_thread", "class_of_result", "result", "assertions"):
        assert "decides about the outcome" in found[f"Hostile::test_{name}"].message
    assert shown["Hostile::test_silence"] == "error call"
    assert shown["Exiting::test_a"] == "error setup"
    assert found["Exiting::test_a"].message == "SystemExit: 0"
    assert shown["ExitingInTheEnd::test_a"] == "error teardown"


def test_a_test_that_does_not_pass_has_its_output_and_its_traceback(tmp_path: Path) -> None:
    _, report = _run(write(HOSTILE, tmp_path), "test_hostile.py::Told", isolation="class")
    much, told = report.results
    assert told.stdout.splitlines() == ["of a child", "to stdout"]
    assert told.stderr == "to stderr"
    assert "Traceback" in told.details
    assert 'self.fail("x")' in told.details
    assert "unittest/case.py" not in told.details
    assert 1_000 < len(much.stdout) < 70_000
    assert "to stdout" not in much.stdout


def test_a_test_that_hangs_is_ended_and_says_where_it_was(tmp_path: Path) -> None:
    files = {
        "test_a.py": "import threading, unittest\n"
        "class A(unittest.TestCase):\n"
        "    def test_a(self): threading.Event().wait()\n"
        "    def test_b(self): pass\n"
        "class B(unittest.TestCase):\n"
        "    @classmethod\n"
        "    def setUpClass(cls): threading.Event().wait()\n"
        "    def test_a(self): pass\n"
    }
    _, report = _run(write(files, tmp_path), isolation="file", timeout=1.0)
    assert [str(each.outcome) for each in report.results] == ["timeout", "passed", "timeout"]
    assert "in test_a" in report.results[0].stderr


# ---- finding ----------------------------------------------------------------------------------------------------


def test_files_directories_names_and_ids_can_be_asked_for(tmp_path: Path) -> None:
    write(TRICKY, tmp_path)
    loaded = [name for name in NAMED if name.startswith("pkg/deep/")]
    assert sorted(_ids(_collect(tmp_path, "pkg/deep/test_loaded.py"))) == sorted(loaded)
    assert sorted(_ids(_collect(tmp_path, "pkg.deep.test_loaded"))) == sorted(loaded)
    assert _ids(_collect(tmp_path, "pkg.test_module.A.test_a")) == ["pkg/test_module.py::A::test_a"]
    assert _ids(_collect(tmp_path, "pkg/test_module.py::A")) == ["pkg/test_module.py::A::test_a"]
    assert sorted(_ids(_collect(tmp_path / "pkg", "test_module.py"))) == [
        "pkg/test_module.py::A::test_a",
        "pkg/test_module.py::B::test_b",
    ]


def test_a_directory_is_where_its_modules_are_named_from(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "",
        "tests/near.py": "VALUE = 1\n",
        "tests/test_a.py": "import unittest, near\n"
        "class A(unittest.TestCase):\n"
        "    def test_name(self): self.assertEqual(__name__, 'test_a')\n"
        "    def test_value(self): self.assertEqual(near.VALUE, 1)\n",
    }
    _, report = _run(write(files, tmp_path), "tests")
    assert _shown(report) == {"tests/test_a.py::A::test_name": "passed", "tests/test_a.py::A::test_value": "passed"}


def test_options_of_unittest(tmp_path: Path) -> None:
    write(TRICKY, tmp_path)
    (tmp_path / "check_more.py").write_text(
        "import unittest\nclass C(unittest.TestCase):\n    def test_c(self): pass\n"
    )
    _, report = _run(tmp_path, arguments=("-p", "check_*.py"))
    assert _shown(report) == {"check_more.py::C::test_c": "passed"}
    chosen = _collect(tmp_path, "test_outcomes.py", selection=("-k", "BadClass.", "-k", "*.Async.test_p*"))
    assert _ids(chosen) == [
        "test_outcomes.py::Async::test_passes",
        "test_outcomes.py::BadClass::test_a",
        "test_outcomes.py::BadClass::test_b",
    ]
    assert chosen.deselected == 21
    with pytest.raises(CollectionError, match="--nonsense"):
        _collect(tmp_path, arguments=("--nonsense",))


def test_a_file_that_can_not_be_imported_is_named(tmp_path: Path) -> None:
    files = {
        "test_a.py": "import nowhere\n",
        "test_b.py": "raise SystemExit(0)\n",
        "test_c.py": "import unittest\ndef load_tests(*_): raise ValueError('no tests')\n",
        "pkg/__init__.py": "1 / 0\n",
        "pkg/test_d.py": "",
    }
    _, report = _run(write(files, tmp_path))
    found: dict[str, CaseResult] = {each.id: each for each in report.results}
    assert set(found) == {"test_a.py", "test_b.py", "test_c.py", "pkg/__init__.py"}
    assert found["test_a.py"].message == "ModuleNotFoundError: No module named 'nowhere'"
    assert found["test_b.py"].message == "SystemExit: 0"
    assert found["test_c.py"].message == "ValueError: no tests"
    assert report.exit_code == 2
    for path in ("test_a.py", "test_e.py", "no.such.name"):
        (only,) = _collect(tmp_path, path).errors
        assert only.phase == "collect"


def test_a_package_that_loads_its_own_tests_is_asked_each_time(tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": "import unittest\n"
        "def load_tests(loader, tests, pattern):\n"
        "    from pkg.cases import Case\n"
        "    return unittest.TestSuite([Case('test_v'), Case('test_v', 7)])\n",
        "pkg/cases.py": "import unittest\n"
        "class Case(unittest.TestCase):\n"
        "    def __init__(self, name, value=0):\n"
        "        super().__init__(name)\n"
        "        self.value = value\n"
        "    def test_v(self): self.assertEqual(self.value, 0)\n",
    }
    _, report = _run(write(files, tmp_path))
    assert _shown(report) == {
        "pkg/__init__.py::Case::test_v": "passed",
        "pkg/__init__.py::Case::test_v[2]": "failed call",
    }


def test_a_test_case_that_is_imported_runs_in_each_file_that_has_it(tmp_path: Path) -> None:
    files = {
        "test_a.py": "import unittest\nclass A(unittest.TestCase):\n    def test_a(self): pass\n",
        "test_b.py": "from test_a import A\n",
    }
    _, report = _run(write(files, tmp_path))
    assert _shown(report) == {"test_a.py::A::test_a": "passed", "test_b.py::A::test_a": "passed"}
