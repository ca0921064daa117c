"""Results of tests added up to a report: step 4 of a cookbook for cloud sandboxes."""

# ruff: noqa: UP006, UP035

import json
from typing import Any, Dict


class TestResultAggregator:
    def __init__(self):
        self.results = []

    def add_result(self, test_name: str, result: Dict[str, Any]):
        """Add test result to aggregation"""
        self.results.append({"test_name": test_name, "result": result, "timestamp": self._get_timestamp()})

    def generate_report(self) -> Dict[str, Any]:
        """Generate aggregated test report"""
        total = len(self.results)
        passed = sum(1 for r in self.results if r["result"].get("success", False))
        failed = total - passed

        # Calculate execution times
        execution_times = [
            r["result"].get("execution_time", 0) for r in self.results if "execution_time" in r["result"]
        ]
        avg_time = sum(execution_times) / len(execution_times) if execution_times else 0
        total_time = sum(execution_times)

        # Group by status
        passed_tests = [r for r in self.results if r["result"].get("success", False)]
        failed_tests = [r for r in self.results if not r["result"].get("success", False)]

        return {
            "summary": {
                "total": total,
                "passed": passed,
                "failed": failed,
                "success_rate": (passed / total * 100) if total > 0 else 0,
                "average_execution_time": avg_time,
                "total_execution_time": total_time,
            },
            "passed_tests": [
                {"name": r["test_name"], "execution_time": r["result"].get("execution_time", 0)} for r in passed_tests
            ],
            "failed_tests": [
                {
                    "name": r["test_name"],
                    "error": r["result"].get("error") or r["result"].get("stderr", ""),
                    "execution_time": r["result"].get("execution_time", 0),
                }
                for r in failed_tests
            ],
            "all_results": self.results,
        }

    def _get_timestamp(self) -> str:
        from datetime import datetime

        return datetime.now().isoformat()


# Usage
if __name__ == "__main__":
    aggregator = TestResultAggregator()

    # Add results
    aggregator.add_result("test_1", {"success": True, "execution_time": 1.5})
    aggregator.add_result("test_2", {"success": False, "error": "Assertion failed"})
    aggregator.add_result("test_3", {"success": True, "execution_time": 2.1})

    # Generate report
    report = aggregator.generate_report()
    print(json.dumps(report, indent=2))
