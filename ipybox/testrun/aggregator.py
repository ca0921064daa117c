"""Adds results of tests up to a report. Floor: testrun."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


class TestResultAggregator:
    """Collects what the executors return, and adds it up.

    Attributes:
        results: ``test_name``, ``result`` and ``timestamp`` (ISO 8601, UTC) of each, in the order of adding.
    """

    __test__ = False  # no test, whatever pytest makes of the name

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def add_result(self, test_name: str, result: Mapping[str, Any]) -> None:
        """Adds what became of a test: anything with ``success``, and ``execution_time`` in seconds if it has one."""
        timestamp = datetime.now(UTC).isoformat()
        self.results.append({"test_name": test_name, "result": dict(result), "timestamp": timestamp})

    def generate_report(self) -> dict[str, Any]:
        """All results so far, added up.

        Returns:
            ``summary`` with ``total``, ``passed``, ``failed``, ``success_rate`` in percent, ``average_execution_time``
            and ``total_execution_time`` in seconds, over those results that have a time; ``passed_tests`` with ``name``
            and ``execution_time``; ``failed_tests`` with ``error`` as well; ``all_results``.
        """
        passed = [each for each in self.results if each["result"].get("success", False)]
        failed = [each for each in self.results if not each["result"].get("success", False)]
        times = [each["result"]["execution_time"] for each in self.results if "execution_time" in each["result"]]
        total = len(self.results)
        return {
            "summary": {
                "total": total,
                "passed": len(passed),
                "failed": len(failed),
                "success_rate": len(passed) / total * 100 if total else 0,
                "average_execution_time": sum(times) / len(times) if times else 0,
                "total_execution_time": sum(times),
            },
            "passed_tests": [_entry(each) for each in passed],
            "failed_tests": [{**_entry(each), "error": _error(each["result"])} for each in failed],
            "all_results": [dict(each) for each in self.results],
        }


def _entry(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": found["test_name"], "execution_time": found["result"].get("execution_time", 0)}


def _error(result: Mapping[str, Any]) -> str:
    return str(result.get("error") or result.get("stderr", ""))
