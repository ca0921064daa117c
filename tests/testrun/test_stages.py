"""A test in stages: the one that failed is named, and teardown always comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from ipybox.session.blocking import close_background
from ipybox.testrun.stages import IsolatedTestRunner
from tests.processes import below

pytestmark = pytest.mark.sandbox

TEST_FIELDS = {"success", "stdout", "stderr", "exit_code", "execution_time"}
UNITTEST = """
class TestMath(unittest.TestCase):
    def test_addition(self):
        self.assertEqual(1 + 1, {two})

if __name__ == '__main__':
    unittest.main()
"""


@pytest.fixture(scope="module", autouse=True)
def background() -> Iterator[None]:
    yield
    close_background()


def run(**config: Any) -> dict[str, Any]:
    return IsolatedTestRunner(api_key=None).run_isolated_test(config)


def test_a_test_that_passes_has_exactly_its_fields() -> None:
    found = run(test_code="print(1)")
    assert set(found) == TEST_FIELDS
    assert (found["success"], found["stdout"], found["exit_code"]) == (True, "1\n", 0)


def test_files_are_there_for_setup_and_setup_is_there_for_the_test() -> None:
    files = [{"path": "/workspace/test_utils.py", "content": "def helper(): return 'helper'"}]
    found = run(files=files, setup="import test_utils; x = test_utils.helper()", test_code="print(x)")
    assert found["stdout"] == "helper\n"


def test_a_unittest_program_runs_as_a_program_does() -> None:
    assert run(setup="import unittest", test_code=UNITTEST.format(two=2))["success"] is True
    failed = run(setup="import unittest", test_code=UNITTEST.format(two=3))
    assert (failed["success"], failed["exit_code"], failed["stage"]) == (False, 1, "test")
    assert "2 != 3" in failed["stderr"]


def test_env_vars_and_language_are_heeded() -> None:
    found = run(test_code="echo $TEST_MODE", language="sh", env_vars={"TEST_MODE": "true"})
    assert found["stdout"] == "true\n"


@pytest.mark.parametrize(
    ("config", "stage"),
    [
        ({}, "create"),
        ({"test_code": "1", "env_vars": {"A": 1}}, "create"),
        ({"test_code": "1", "timeout": -1000}, "create"),
        ({"test_code": "1", "files": [{"path": "/usr/x", "content": ""}]}, "files"),
        ({"test_code": "1", "files": [{"path": "x"}]}, "files"),
        ({"test_code": "1", "setup": "1 / 0"}, "setup"),
        ({"test_code": "1 / 0"}, "test"),
        ({"test_code": "1", "language": "cobol"}, "test"),
        ({"test_code": "import os; os._exit(0)"}, "test"),
        ({"test_code": "1", "teardown": "1 / 0"}, "teardown"),
    ],
)
def test_the_stage_that_failed_is_named(config: dict[str, Any], stage: str) -> None:
    found = run(**config)
    assert (found["success"], found["stage"]) == (False, stage)
    assert found["error"]


def test_a_setup_that_failed_says_how() -> None:
    found = run(test_code="1", setup="raise RuntimeError('not today')")
    assert set(found) == {"success", "error", "stage"}
    assert found["error"].startswith("Setup failed: ")
    assert "not today" in found["error"]


def test_a_teardown_that_failed_keeps_what_the_test_said() -> None:
    found = run(test_code="print('tested')", teardown="raise RuntimeError('stuck')")
    assert set(found) == TEST_FIELDS | {"stage", "error"}
    assert found["stdout"] == "tested\n"
    assert "stuck" in found["error"]


@pytest.mark.parametrize(
    "config",
    [
        {"test_code": "1 / 0"},
        {"test_code": "while True: pass", "timeout": 0.3},
        {"test_code": "import os; os._exit(1)"},
        {"test_code": "1", "language": "cobol"},
        {"test_code": "1", "setup": "1 / 0"},
        {"test_code": "1", "files": [{"path": "/usr/x", "content": ""}]},
    ],
)
def test_teardown_runs_whatever_became_of_the_test(config: dict[str, Any]) -> None:
    found = run(**config, teardown="raise RuntimeError('teardown was here')")
    assert "teardown was here" in found["teardown_error"]
    assert found["stage"] != "teardown"


def test_teardown_sees_what_the_test_has_left() -> None:
    found = run(test_code="x = 1\nwhile True: pass", timeout=1, teardown="raise RuntimeError(f'x is {x}')")
    assert "x is 1" in found["teardown_error"]


def test_a_test_that_takes_too_long_is_named_as_such() -> None:
    found = run(test_code="while True: pass", timeout=0.3)
    assert (found["success"], found["exit_code"], found["stage"]) == (False, 124, "test")
    assert "longer than 0.3 s" in found["error"]


def test_a_sandbox_that_ends_meanwhile_is_a_failure_of_that_stage() -> None:
    found = run(test_code="import os; os.kill(os.getppid(), 9)", teardown="print(1)")
    assert (found["success"], found["stage"]) == (False, "test")
    assert "ended" in found["error"]
    assert "ended" in found["teardown_error"]


def test_nothing_is_left_of_any_of_them(others: set[psutil.Process]) -> None:
    run(test_code="import os; os.system('sleep 1000 &')", teardown="1 / 0")
    close_background()
    assert not below() - others
