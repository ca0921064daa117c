"""Runs one file of tests with its framework, and writes down what became of each. Floor: testrun.

A script of its own, that is copied into a sandbox and needs nothing but the framework there:
``python -P SCRIPT CONFIG``. The configuration is gone before a test runs; with it goes the word that each line of the
report begins with, so that a line which a test writes is known for what it is. What is printed means nothing, and a
report without its last line is one of tests that did not come to their end.

A test shares its process with the framework, so one that is out to take that apart can have it say anything.
"""

from __future__ import annotations

import json
import os
import sys
import unittest
from collections.abc import Callable
from typing import Any

Tell = Callable[..., None]


def main(arguments: list[str]) -> int:
    """Runs what the configuration says."""
    with open(arguments[0], encoding="utf-8") as file:
        config = json.load(file)
    os.unlink(arguments[0])
    report = os.open(config["report"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    owner = os.getpid()

    def tell(**facts: Any) -> None:
        if os.getpid() == owner:  # a fork of a test has nothing to say
            os.write(report, f"{config['word']} {json.dumps(facts)}\n".encode())

    directory = os.path.dirname(config["file"])
    os.chdir(directory)
    if config["framework"] == "pytest":
        code = run_pytest(config["file"], tell)
    else:
        sys.path.insert(0, directory)
        code = run_unittest(config["file"], tell)
    tell(finished=code)
    return code


class Outcomes:
    """A plugin of pytest that follows every test to its end.

    Args:
        tell: Gets the id of each test and its outcome.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._outcomes: dict[str, str] = {}

    def pytest_collectreport(self, report: Any) -> None:
        """A file that can't be imported is an error; one that skips itself as a whole is skipped."""
        if report.outcome != "passed":
            self._tell(test=report.nodeid, outcome="error" if report.failed else "skipped")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One phase of one test."""
        known = self._outcomes.get(report.nodeid, "passed")
        if report.failed:
            outcome = "failed" if report.when == "call" else "error"
        elif report.skipped:
            outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
        elif report.when == "call" and hasattr(report, "wasxfail"):
            outcome = "xpassed"
        else:
            outcome = known
        self._outcomes[report.nodeid] = outcome
        if report.when == "teardown":
            self._tell(test=report.nodeid, outcome=outcome)


def run_pytest(file: str, tell: Tell) -> int:
    """Runs a file with pytest; returns its exit code."""
    try:
        import pytest
    except ImportError as error:
        sys.stderr.write(f"pytest can't be imported in the sandbox: {error}\n")
        return 3
    return int(pytest.main(["-v", "-p", "no:cacheprovider", file], plugins=[Outcomes(tell)]))


def run_unittest(file: str, tell: Tell) -> int:
    """Runs a file with unittest; returns 0, 1, or 5 if there was no test."""
    outcomes: dict[str, str] = {}

    class Result(unittest.TextTestResult):
        def _note(self, test: Any, outcome: str) -> None:
            outcomes[str(test)] = outcome

        def stopTest(self, test: unittest.TestCase) -> None:
            super().stopTest(test)
            tell(test=str(test), outcome=outcomes.get(str(test), "error"))

        def addSuccess(self, test: unittest.TestCase) -> None:
            super().addSuccess(test)
            self._note(test, "passed")

        def addFailure(self, test: unittest.TestCase, err: Any) -> None:
            super().addFailure(test, err)
            self._note(test, "failed")

        def addError(self, test: Any, err: Any) -> None:
            super().addError(test, err)
            self._note(test, "error")
            if not isinstance(test, unittest.TestCase):  # set-up of a class or of the module
                tell(test=str(test), outcome="error")

        def addSkip(self, test: Any, reason: str) -> None:
            super().addSkip(test, reason)
            if outcomes.get(str(test), "passed") == "passed":
                self._note(test, "skipped")
            if not isinstance(test, unittest.TestCase):
                tell(test=str(test), outcome="skipped")

        def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
            super().addExpectedFailure(test, err)
            self._note(test, "xfailed")

        def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
            super().addUnexpectedSuccess(test)
            self._note(test, "xpassed")

        def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
            super().addSubTest(test, subtest, err)
            if err is not None:
                failed = issubclass(err[0], test.failureException)
                self._note(test, "failed" if failed else "error")

    name = os.path.splitext(os.path.basename(file))[0]
    suite = unittest.defaultTestLoader.loadTestsFromName(name)
    make: Any = Result
    result = unittest.TextTestRunner(resultclass=make, verbosity=2).run(suite)
    if not outcomes:
        sys.stderr.write("there is no test\n")
        return 5
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
