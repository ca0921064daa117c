"""Several pieces of test code at the same time, each in a sandbox of its own. Floor: testrun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ipybox import arguments
from ipybox.testrun.executor import IsolatedTestExecutor


class ParallelTestExecutor(IsolatedTestExecutor):
    """Runs suites of tests. See :class:`IsolatedTestExecutor` for its arguments."""

    def execute_test_suite(self, test_suite: Sequence[Mapping[str, Any]], max_workers: int = 5) -> dict[str, Any]:
        """Runs tests at the same time, and says what became of them.

        Args:
            test_suite: Of each test its ``code``, and if wanted a ``name`` (``"unknown"``), its ``framework``
                (``"pytest"``) and a ``timeout`` in seconds (60).
            max_workers: Most sandboxes at the same time.

        Returns:
            ``total_tests``, ``passed``, ``failed``, ``success_rate`` in percent (0 if there is none), and ``results``:
            ``test_name`` and ``result`` of each, in the order in which they ended. A ``result`` is what
            :meth:`execute_test` returns; one without ``code`` has failed.
        """
        arguments.count("max_workers", max_workers, 1)
        results = []
        with ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix="ipybox-test") as pool:
            named = {pool.submit(self._execute, test): _name(test) for test in test_suite}
            for future in as_completed(named):
                try:
                    result = future.result()
                except Exception as error:
                    result = {"success": False, "error": f"{type(error).__name__}: {error}"}
                results.append({"test_name": named[future], "result": result})
        passed = sum(1 for each in results if each["result"].get("success", False))
        return {
            "total_tests": len(results),
            "passed": passed,
            "failed": len(results) - passed,
            "success_rate": passed / len(results) * 100 if results else 0,
            "results": results,
        }

    def _execute(self, test: Mapping[str, Any]) -> dict[str, Any]:
        return self.execute_test(test["code"], test.get("framework", "pytest"), test.get("timeout", 60))


def _name(test: Any) -> Any:
    return test.get("name", "unknown") if isinstance(test, Mapping) else "unknown"
