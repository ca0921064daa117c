"""Reads test results out of what ``jest --json`` writes; ``vitest --reporter=json`` writes the same. Pure.

Floor: testrun.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from ipybox.errors import ReportFormatError
from ipybox.testrun.foreign_cases import MOST_BYTES, MOST_CASES, case, distinct, line_number, seconds
from ipybox.testrun.model import CaseResult
from ipybox.testrun.outcome import Outcome

FORMAT = "the JSON of jest"
_OUTCOMES = {
    "passed": Outcome.PASSED,
    "failed": Outcome.FAILED,
    "pending": Outcome.SKIPPED,
    "skipped": Outcome.SKIPPED,
    "todo": Outcome.SKIPPED,
    "disabled": Outcome.SKIPPED,
}


def read(data: bytes, root: str = "") -> list[CaseResult]:
    """The results, in the order of the report.

    A file that could not be run has a result with its own name, as an error; and so has a report that says that it is
    no success, or that it counts more failures, without a test that failed.

    Args:
        data: The report.
        root: The directory that the names of files are made relative to.

    Raises:
        ReportFormatError: It is none.
    """
    if len(data) > MOST_BYTES:
        raise ReportFormatError(FORMAT, f"it is longer than {MOST_BYTES} bytes")
    try:
        report = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ReportFormatError(FORMAT, str(error)) from None
    if not isinstance(report, dict) or not isinstance(report.get("testResults"), list):
        raise ReportFormatError(FORMAT, "it has no list of testResults")
    found: list[CaseResult] = []
    for suite in report["testResults"]:
        if not isinstance(suite, dict):
            raise ReportFormatError(FORMAT, "an element of testResults is no object")
        for each in _cases(suite, root):
            if len(found) >= MOST_CASES:
                raise ReportFormatError(FORMAT, f"it has more than {MOST_CASES} test cases")
            found.append(each)
    found += _disagreements(report, found)
    return distinct(found)


def _cases(suite: dict[str, Any], root: str) -> Iterator[CaseResult]:
    name = _text(suite.get("name")) or _text(suite.get("testFilePath")) or "?"
    file = _relative(name, root)
    tests = suite.get("assertionResults")
    if not isinstance(tests, list):
        tests = []
    outcomes = []
    for test in tests:
        if not isinstance(test, dict):
            raise ReportFormatError(FORMAT, "an element of assertionResults is no object")
        result = _case(test, file)
        outcomes.append(result.outcome)
        yield result
    if suite.get("status") == "failed" and all(each.is_success for each in outcomes):
        details = _text(suite.get("message")) or _text(suite.get("failureMessage"))
        yield case(file, Outcome.ERROR, phase="collect", message=_first(details), details=details, file=file)


def _case(test: dict[str, Any], file: str) -> CaseResult:
    titles = test.get("ancestorTitles")
    names = [*(map(_text, titles) if isinstance(titles, list) else ()), _text(test.get("title"))]
    status, location = _text(test.get("status")), test.get("location")
    outcome = _OUTCOMES.get(status, Outcome.ERROR)
    messages = test.get("failureMessages")
    details = "\n".join(map(_text, messages)) if isinstance(messages, list) else ""
    invocations = _count(test.get("invocations"))
    is_flaky = outcome is Outcome.PASSED and invocations > 1
    if status == "todo":
        details = "todo"
    elif status not in _OUTCOMES:
        details = details or f"its status is {status!r}"
    elif is_flaky:
        details = f"it passed when it was run for the {invocations}. time"
    return case(
        "::".join([file, *names]),
        outcome,
        message=_first(details),
        details=details if not outcome.is_success else "",
        duration=seconds(test.get("duration")) / 1000,
        file=file,
        line=line_number(location.get("line")) if isinstance(location, dict) else None,
        flaky=is_flaky,
    )


def _disagreements(report: dict[str, Any], found: list[CaseResult]) -> Iterator[CaseResult]:
    failed = sum(not each.outcome.is_success for each in found)
    claimed = sum(_count(report.get(name)) for name in ("numFailedTests", "numRuntimeErrorTestSuites"))
    if report.get("wasInterrupted") is True:
        yield case("the report", Outcome.ERROR, phase="collect", message="jest was interrupted")
    elif claimed > failed:
        message = f"it counts {claimed} failures, and shows {failed}"
        yield case("the report", Outcome.ERROR, phase="collect", message=message)
    elif report.get("success") is False and not failed:
        yield case("the report", Outcome.ERROR, phase="collect", message="it says that it is no success")


def _first(text: str) -> str:
    """The first line that says something: jest puts a heading with a dot before it."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if line and not line.startswith("●")), lines[0] if lines else "")


def _relative(name: str, root: str) -> str:
    return os.path.relpath(name, root) if root and name.startswith(f"{root}/") else name


def _count(value: object) -> int:
    return line_number(value) or 0  # a positive integer of bearable size, or none


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
