"""A test in a sandbox of its own: what counts comes from the framework, and nothing that a test prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ipybox.session.blocking import close_background
from ipybox.testrun.executor import TEST_FILE, IsolatedTestExecutor

pytestmark = pytest.mark.sandbox

ALL = """
import pytest, unittest

def test_passed(): print("FAILED FAILED ERROR")
def test_failed():
    print("PASSED PASSED PASSED")
    assert 1 == 2
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.xfail
def test_xfailed(): assert 0
@pytest.mark.xfail
def test_xpassed(): pass
@pytest.fixture
def broken(): raise RuntimeError
def test_error(broken): pass
@pytest.fixture
def late():
    yield
    raise RuntimeError
def test_error_late(late): pass
"""
UNITTEST = """
import unittest
class T(unittest.TestCase):
    def test_passed(self): print("FAILED")
    def test_failed(self): self.assertEqual(1, 2)
    def test_error(self): 1 / 0
    @unittest.skip("no")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_xfailed(self): self.fail()
    @unittest.expectedFailure
    def test_xpassed(self): pass
    def test_parts(self):
        for number in range(3):
            with self.subTest(number): self.assertEqual(number, 0)
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[IsolatedTestExecutor]:
    yield IsolatedTestExecutor(api_key=None)
    close_background()


def counts(**found: int) -> dict[str, int]:
    none = dict.fromkeys(("passed", "failed", "errors", "skipped", "xfailed", "xpassed"), 0)
    return {**none, **found, "total": sum(found.values())}


def test_a_test_that_passes_is_a_success_with_all_fields(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test("def test_a(): pass\ndef test_b(): pass")
    assert list(found) == ["success", "exit_code", "stdout", "stderr", "test_results", "execution_time"]
    assert (found["success"], found["exit_code"]) == (True, 0)
    assert found["test_results"] == counts(passed=2)
    assert "2 passed" in found["stdout"]
    assert TEST_FILE == "/workspace/test_file.py"


def test_pytest_counts_and_printed_words_change_nothing(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test(ALL)
    assert (found["success"], found["exit_code"]) == (False, 1)
    assert found["test_results"] == counts(passed=1, failed=1, errors=2, skipped=1, xfailed=1, xpassed=1)
    assert "error" not in found


def test_unittest_counts_and_printed_words_change_nothing(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test(UNITTEST, test_framework="unittest")
    assert (found["success"], found["exit_code"]) == (False, 1)
    assert found["test_results"] == counts(passed=1, failed=2, errors=1, skipped=1, xfailed=1, xpassed=1)


def test_unittest_can_succeed(executor: IsolatedTestExecutor) -> None:
    code = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass"
    found = executor.execute_test(code, "unittest")
    assert (found["success"], found["test_results"]) == (True, counts(passed=1))


@pytest.mark.parametrize("framework", ["pytest", "unittest"])
def test_what_can_not_be_imported_is_no_success(executor: IsolatedTestExecutor, framework: str) -> None:
    found = executor.execute_test("import no_such_module", framework)
    assert found["success"] is False
    assert found["test_results"]["passed"] == 0
    assert "no_such_module" in found["stdout"] + found["stderr"]


@pytest.mark.parametrize("framework", ["pytest", "unittest"])
def test_no_test_is_no_success(executor: IsolatedTestExecutor, framework: str) -> None:
    found = executor.execute_test("x = 1", framework)
    assert (found["success"], found["exit_code"], found["error"]) == (False, 5, "there was no test")


@pytest.mark.parametrize(
    "code",
    [
        "import os\ndef test_a(): os._exit(0)",
        "import os\nos._exit(0)",
        "import os\ndef test_a(): pass\ndef test_b(): os._exit(0)",
        "import os, sys\ndef test_a(): print('PASSED\\n1 passed', flush=True); os._exit(0)",
        "import os, atexit\natexit.register(os._exit, 0)\ndef test_a(): assert 0",
        "import os, glob\n"
        "def test_a():\n"
        "    for path in glob.glob('/tmp/ipybox-tests/*'):\n"
        "        open(path, 'a').write('{\"finished\": 0}\\n')\n"
        "    os._exit(0)",
        "import os, glob\n"
        "def test_a():\n"
        "    for path in glob.glob('/tmp/ipybox-tests/*'): os.unlink(path)\n"
        "    assert 0",
        "import os, signal\ndef test_a(): os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_without_a_whole_report_nothing_is_a_success(executor: IsolatedTestExecutor, code: str) -> None:
    found = executor.execute_test(code)
    assert found["success"] is False
    assert found["error"]


def test_what_was_reported_before_a_crash_is_counted(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test("import os\ndef test_a(): pass\ndef test_b(): os._exit(0)")
    assert found["test_results"] == counts(passed=1)
    assert "before pytest had reported" in found["error"]


def test_a_fork_of_a_test_reports_nothing(executor: IsolatedTestExecutor) -> None:
    code = "import os\ndef test_a():\n    pid = os.fork()\n    if pid: os.waitpid(pid, 0)\n    assert pid\n"
    found = executor.execute_test(code)
    assert (found["success"], found["test_results"]) == (True, counts(passed=1))


def test_a_test_that_takes_too_long_is_ended(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test("import time\ndef test_a(): pass\ndef test_b(): time.sleep(1000)", timeout=3)
    assert (found["success"], found["exit_code"]) == (False, 124)
    assert "longer than 3 s" in found["error"]
    assert found["test_results"] in (counts(), counts(passed=1))


def test_any_other_framework_runs_the_code_and_counts_nothing(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test("print('ran')", test_framework="plain")
    assert (found["success"], found["stdout"], found["test_results"]) == (True, "ran\n", counts())
    failed = executor.execute_test("assert 0, 'no'", test_framework="plain")
    assert (failed["success"], failed["exit_code"], failed["error"]) == (False, 1, "AssertionError: no")


def test_tests_share_nothing(executor: IsolatedTestExecutor) -> None:
    code = "import os\ndef test_a():\n    assert not os.path.exists('/tmp/mark')\n    open('/tmp/mark', 'w').close()"
    assert executor.execute_test(code)["success"]
    assert executor.execute_test(code)["success"]


def test_the_sandbox_can_be_given_more_or_less() -> None:
    executor = IsolatedTestExecutor(sandbox_options={"env_vars": {"MODE": "x"}})
    assert executor.execute_test("import os\ndef test_a(): assert os.environ['MODE'] == 'x'")["success"]


def test_without_a_sandbox_there_is_a_result_that_says_why() -> None:
    wrong: dict[str, Any] = {"template": "nonsense"}
    found = IsolatedTestExecutor(sandbox_options=wrong).execute_test("def test_a(): pass")
    assert set(found) == {"success", "error", "stderr"}
    assert found["success"] is False
    assert "nonsense" in found["error"]
    assert found["stderr"] == found["error"]


def test_a_test_that_ends_its_sandbox_has_a_result_that_says_so(executor: IsolatedTestExecutor) -> None:
    found = executor.execute_test("import os, signal\ndef test_a(): os.kill(os.getppid(), signal.SIGKILL)")
    assert found["success"] is False
    assert "its agent ended" in found["error"]
