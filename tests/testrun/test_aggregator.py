"""Results are added up as promised."""

from __future__ import annotations

from datetime import datetime

import pytest

from ipybox.testrun.aggregator import TestResultAggregator


def test_the_worked_example_comes_out() -> None:
    aggregator = TestResultAggregator()
    aggregator.add_result("test_1", {"success": True, "execution_time": 1.5})
    aggregator.add_result("test_2", {"success": False, "error": "Assertion failed"})
    aggregator.add_result("test_3", {"success": True, "execution_time": 2.1})
    report = aggregator.generate_report()
    assert list(report) == ["summary", "passed_tests", "failed_tests", "all_results"]
    assert report["summary"] == {
        "total": 3,
        "passed": 2,
        "failed": 1,
        "success_rate": pytest.approx(66.67, abs=0.01),
        "average_execution_time": pytest.approx(1.8),
        "total_execution_time": pytest.approx(3.6),
    }
    assert report["passed_tests"] == [
        {"name": "test_1", "execution_time": 1.5},
        {"name": "test_3", "execution_time": 2.1},
    ]
    assert report["failed_tests"] == [{"name": "test_2", "error": "Assertion failed", "execution_time": 0}]
    assert [each["test_name"] for each in report["all_results"]] == ["test_1", "test_2", "test_3"]
    for each in report["all_results"]:
        assert datetime.fromisoformat(each["timestamp"]).tzinfo is not None


def test_nothing_adds_up_to_nothing() -> None:
    summary = TestResultAggregator().generate_report()["summary"]
    assert set(summary.values()) == {0}


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"success": False, "error": "e", "stderr": "s"}, "e"),
        ({"success": False, "stderr": "s"}, "s"),
        ({"success": False, "error": "", "stderr": "s"}, "s"),
        ({"success": False}, ""),
        ({}, ""),
    ],
)
def test_an_error_is_what_is_said_first(result: dict[str, object], error: str) -> None:
    aggregator = TestResultAggregator()
    aggregator.add_result("t", result)
    assert aggregator.generate_report()["failed_tests"][0]["error"] == error


def test_a_result_that_changes_later_stays_what_it_was() -> None:
    aggregator, result = TestResultAggregator(), {"success": True}
    aggregator.add_result("t", result)
    result["success"] = False
    assert aggregator.generate_report()["summary"]["passed"] == 1


def test_pytest_takes_it_for_no_test() -> None:
    assert TestResultAggregator.__test__ is False
