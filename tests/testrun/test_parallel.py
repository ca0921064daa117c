"""Suites of tests, at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ipybox.session.blocking import close_background
from ipybox.testrun.parallel import ParallelTestExecutor

PASSES, FAILS = "def test_a(): pass", "def test_a(): assert 0"


@pytest.fixture(scope="module")
def executor() -> Iterator[ParallelTestExecutor]:
    yield ParallelTestExecutor()
    close_background()


@pytest.mark.sandbox
def test_a_suite_is_added_up(executor: ParallelTestExecutor) -> None:
    suite: list[dict[str, Any]] = [
        {"name": "one", "code": PASSES, "timeout": 30},
        {"name": "two", "code": FAILS, "framework": "pytest"},
        {"code": "print('plain')", "framework": "plain"},
    ]
    found = executor.execute_test_suite(suite, max_workers=3)
    assert list(found) == ["total_tests", "passed", "failed", "success_rate", "results"]
    assert (found["total_tests"], found["passed"], found["failed"]) == (3, 2, 1)
    assert found["success_rate"] == pytest.approx(66.67, abs=0.01)
    by_name = {each["test_name"]: each["result"] for each in found["results"]}
    assert set(by_name) == {"one", "two", "unknown"}
    assert by_name["two"]["test_results"]["failed"] == 1


def test_an_empty_suite_has_a_rate_of_0(executor: ParallelTestExecutor) -> None:
    found = executor.execute_test_suite([])
    assert found == {"total_tests": 0, "passed": 0, "failed": 0, "success_rate": 0, "results": []}


def test_what_is_no_test_has_failed_and_says_why(executor: ParallelTestExecutor) -> None:
    wrong: list[Any] = [{"name": "no code"}, 5]
    found = executor.execute_test_suite(wrong)
    assert found["failed"] == 2
    assert {each["test_name"] for each in found["results"]} == {"no code", "unknown"}
    assert all(each["result"]["error"] for each in found["results"])


@pytest.mark.sandbox
def test_results_come_in_the_order_in_which_tests_end(executor: ParallelTestExecutor) -> None:
    slow = "import time; time.sleep(4)"
    suite = [{"name": "slow", "code": slow, "framework": "plain"}, {"name": "quick", "code": "", "framework": "plain"}]
    found = executor.execute_test_suite(suite, max_workers=2)
    assert [each["test_name"] for each in found["results"]] == ["quick", "slow"]


def test_there_has_to_be_a_worker(executor: ParallelTestExecutor) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        executor.execute_test_suite([], max_workers=0)
