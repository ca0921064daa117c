"""Several tests at the same time, each in a sandbox of its own: step 2 of a cookbook for cloud sandboxes.

The package has these classes ready made, and more careful: see ``ipybox.testrun``. No account is needed.
"""

# ruff: noqa: UP006, UP035

import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Dict, List

from cookbook_step1 import IsolatedTestExecutor


class ParallelTestExecutor(IsolatedTestExecutor):
    def execute_test_suite(self, test_suite: List[Dict], max_workers: int = 5) -> Dict[str, Any]:
        """Execute multiple tests in parallel"""
        results = []

        with ThreadPoolExecutor(max_workers=max_workers) as executor:
            # Submit all tests
            future_to_test = {
                executor.submit(
                    self.execute_test, test["code"], test.get("framework", "pytest"), test.get("timeout", 60)
                ): test
                for test in test_suite
            }

            # Collect results as they complete
            for future in as_completed(future_to_test):
                test = future_to_test[future]
                try:
                    result = future.result()
                    results.append({"test_name": test.get("name", "unknown"), "result": result})
                except Exception as e:
                    results.append(
                        {"test_name": test.get("name", "unknown"), "result": {"success": False, "error": str(e)}}
                    )

        # Aggregate results
        total_tests = len(results)
        passed_tests = sum(1 for r in results if r["result"].get("success", False))
        failed_tests = total_tests - passed_tests

        return {
            "total_tests": total_tests,
            "passed": passed_tests,
            "failed": failed_tests,
            "success_rate": (passed_tests / total_tests * 100) if total_tests > 0 else 0,
            "results": results,
        }


# Usage
if __name__ == "__main__":
    executor = ParallelTestExecutor(api_key=os.getenv("HOPX_API_KEY"))

    test_suite = [
        {
            "name": "test_math",
            "code": """
def test_addition():
    assert 1 + 1 == 2
""",
            "framework": "pytest",
            "timeout": 30,
        },
        {
            "name": "test_strings",
            "code": """
def test_concatenation():
    assert "hello" + " " + "world" == "hello world"
""",
            "framework": "pytest",
            "timeout": 30,
        },
    ]

    results = executor.execute_test_suite(test_suite, max_workers=2)
    print(json.dumps(results, indent=2))
