"""Follows unittest's tests inside a sandbox, and tells what became of each. Floor: testrun.

Tests are run by unittest's own suite. A test can change every object that it finds, so what takes unittest's word is
in the closures of functions, where none of that leads; and a success is held against what was seen here of the test:
whether it came to its end, and whether it raised.
"""

from __future__ import annotations

import builtins
import fcntl
import os
import sys
import tempfile
import threading
import time
import unittest
import unittest.async_case
import unittest.case
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, FunctionType, TracebackType
from typing import Any

from ipybox.testrun import integrity
from ipybox.testrun.channel import Value, Write
from ipybox.testrun.in_sandbox import LONGEST_TEXT, cut, flush, is_near, traceback_of
from ipybox.testrun.unittest_finder import Found

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

__unittest = True  # which has unittest leave the frames of this module out of tracebacks

_OUT_OF_THE_WAY = 1001
_STEPS = {"_callSetUp": "setup", "_callTestMethod": "call", "_callTearDown": "teardown", "_callCleanup": "teardown"}
_OBSERVED = ("_callSetUp", "_callTestMethod", "_callTearDown")
_UNITTEST = (vars(unittest.case), vars(unittest.async_case))


@dataclass(slots=True)
class _Finding:
    """Something that went wrong."""

    outcome: str
    phase: str
    message: str
    details: str


@dataclass(slots=True)
class _Seen:
    """What was seen here of a test, whatever unittest was told.

    Attributes:
        is_to_fail: Whether it was marked as an expected failure when it began.
        steps: The steps that it has come through, with the exception that it ended with, if it did.
        has_own_run: Whether it takes these steps in a way of its own, or none of them.
    """

    is_to_fail: bool
    has_own_run: bool = True
    steps: list[tuple[str, type[BaseException] | None]] = field(default_factory=list)

    def contradiction(self, test: Any, outcome: str) -> str:
        """What was seen that an outcome does not go with; empty if it does."""
        if self.has_own_run or outcome not in ("passed", "skipped", "xfailed"):
            return ""
        raised = [kind for _, kind in self.steps if kind is not None and not issubclass(kind, unittest.SkipTest)]
        if raised and not (outcome == "xfailed" and self.is_to_fail):
            return f"it raised {raised[0].__name__}"
        if outcome == "passed" and ("_callTestMethod", None) not in self.steps:
            return "it did not come to its end"
        if outcome == "xfailed" and not self.is_to_fail:
            return "it was not marked as an expected failure"
        return ""


def _observe(test: Any) -> _Seen:
    """Looks at the steps of a test, from its own methods, which are themselves again as soon as they are called."""
    method = getattr(test, getattr(test, "_testMethodName", ""), None)
    marks = [getattr(each, "__unittest_expecting_failure__", False) for each in (test, method)]
    is_plain = isinstance(test, unittest.TestCase) and type(test).run is unittest.TestCase.run
    seen = _Seen(any(marks), not is_plain or "run" in vars(test))
    if seen.has_own_run:
        return seen
    for name in _OBSERVED:
        vars(test)[name] = _observed(test, name, seen.steps)
    return seen


def _observed(test: Any, name: str, steps: list[tuple[str, type[BaseException] | None]]) -> Callable[..., Any]:
    original = getattr(test, name)

    def step(*arguments: Any) -> Any:
        vars(test).pop(name, None)
        try:
            result = original(*arguments)
        except BaseException as error:
            steps.append((name, type(error)))
            raise
        steps.append((name, None))
        return result

    return step


@dataclass(slots=True)
class _Record:
    """What is known about the test that runs."""

    found: Found
    began: float
    is_running: bool = False
    has_run: bool = False
    has_passed: bool = False
    is_surprising: bool = False
    expected: str | None = None
    skip: str | None = None
    findings: list[_Finding] = field(default_factory=list)
    seen: _Seen = field(default_factory=lambda: _Seen(False))


class Ledger:
    """Takes what unittest says about each test, and tells it when all of it has been said.

    Args:
        names: The tests, by their identities.
        limit: Bytes of private memory at which an allocation fails.
        tell: The private line.
        check: Names what was replaced of unittest.
        has_locals: Whether tracebacks show local variables.
    """

    def __init__(
        self, names: dict[int, Found], limit: int, tell: Write, check: integrity.Check, *, has_locals: bool = False
    ) -> None:
        self._names, self._limit, self._tell, self._check = names, limit, tell, check
        self._formatter = unittest.TestResult()
        self._formatter.tb_locals = has_locals
        self._record: _Record | None = None
        self._broken: str | None = None
        self._fixtures: dict[object, _Finding] = {}
        self._output = _Output()
        self._pid, self._thread, self._now = os.getpid(), threading.get_ident(), time.perf_counter
        self._no_memory = False
        self._replaced: integrity.Check = lambda: None

    def run(self, tests: list[Any]) -> None:
        """Runs them one after the other; what ends unittest's own run ends one test."""
        result, suite, self._replaced = _facade(self)
        left = tests
        while left:
            try:
                suite(left).run(result)
                left = self._rest(left) if result.shouldStop else []  # no test stops the others
            except BaseException as error:
                here = self._record
                if here is None:
                    raise
                left = self._rest(left)
                phase = _phase(error.__traceback__)
                if phase is None:
                    result._previousTestClass = None  # type: ignore[attr-defined]  # it can't be torn down once more
                phase = phase or ("teardown" if here.has_run else "setup")
                self._find((type(error), error, error.__traceback__), phase)
            result.shouldStop = result._testRunEntered = False  # type: ignore[attr-defined]
        self.settle()

    def _rest(self, tests: list[Any]) -> list[Any]:
        """What comes after the test that runs."""
        assert self._record is not None
        return tests[[id(each) for each in tests].index(id(self._record.found.test)) + 1 :]

    def begin(self, test: Any) -> None:
        """Goes on to a test, unless it is the one that runs."""
        if self._record is not None and self._record.found.test is test:
            return
        self.settle()
        found = self._names[id(test)]
        self._tell({"kind": "start", "id": cut(found.id)})
        self._output.begin()
        self._record, self._no_memory, self._broken = _Record(found, self._now()), False, None
        self._record.seen = _observe(test)

    def settle(self) -> None:
        """Tells what became of the test that ran."""
        if os.getpid() != self._pid:
            os._exit(1)  # a child of the test that went on as if it were the test
        record, self._record = self._record, None
        if record is None:
            return
        stdout, stderr = self._output.end()
        result: dict[str, Value] = {"kind": "result", "id": cut(record.found.id), "line": record.found.line}
        replaced = self._check() or self._replaced()
        self._broken = self._broken or (f"{replaced} was replaced" if replaced is not None else None)
        if self._broken is not None:
            message = f"{self._broken}, which decides about the outcome: nothing is known about the test"
            return self._tell({**result, "outcome": "error", "phase": "call", "message": message})
        outcome, phase, message, details = self._verdict(record)
        lie = record.seen.contradiction(record.found.test, outcome)
        if lie:
            outcome, phase, message, details = "error", "call", f"{lie}, and unittest was told otherwise", ""
        if self._no_memory and outcome in ("failed", "error"):
            outcome = "out_of_memory"
        result |= {"outcome": outcome, "phase": phase, "message": cut(message), "duration": self._now() - record.began}
        if outcome not in ("passed", "skipped", "xfailed"):
            result |= {"details": cut(details), "stdout": cut(stdout), "stderr": cut(stderr)}
        self._tell(result)

    def _verdict(self, record: _Record) -> tuple[str, str, str, str]:
        kind = type(record.found.test)
        fixture = self._fixtures.get(kind) or self._fixtures.get(kind.__module__)
        if record.findings:
            first = record.findings[0]
            return first.outcome, first.phase, first.message, "\n".join(each.details for each in record.findings)
        if fixture is not None:
            return fixture.outcome, fixture.phase, fixture.message, fixture.details
        if record.is_surprising:
            return "failed", "call", "unexpected success: it is marked as an expected failure, and it passed", ""
        if record.skip is not None:
            return "skipped", "", record.skip, ""
        if record.expected is not None:
            return "xfailed", "", record.expected, ""
        if record.has_passed:
            return "passed", "", "", ""
        return "error", "call", "unittest made no report about it", ""

    # ---- what unittest calls ------------------------------------------------------------------------------------

    def start_test(self, test: Any) -> None:
        """A test begins."""
        record = self._mine(test)
        if record is None:
            return
        if record.is_running:
            self._broken = self._broken or "the test called TestCase.run for itself"
        record.is_running = True

    def stop_test(self, test: Any) -> None:
        """It ends."""
        record = self._mine(test)
        if record is not None:
            record.is_running, record.has_run = False, True

    def add_success(self, test: Any) -> None:
        """It passed."""
        record = self._mine(test)
        if record is None or os.getpid() != self._pid:
            return
        outcome = getattr(test, "_outcome", None)
        if getattr(outcome, "expectedFailure", None) is not None or "testPartExecutor" in vars(outcome or test):
            self._broken = self._broken or "the test changed what unittest notes about it"
        if threading.get_ident() != self._thread or _is_in_test():
            self._broken = self._broken or "the test called TestResult.addSuccess"
        record.has_passed = True

    def add_error(self, test: Any, err: Any) -> None:
        """It raised; or a fixture did."""
        if type(test).__name__ == "_ErrorHolder":
            return self._find_fixture(str(test.description), err)
        self._find(err, _phase(err[2]) or "")

    def add_failure(self, test: Any, err: Any) -> None:
        """An assertion of it failed."""
        self._find(err, _phase(err[2]) or "call")

    def add_subtest(self, test: Any, subtest: Any, err: Any) -> None:
        """One of its subtests ended."""
        if err is not None:
            self._find(err, _phase(err[2]) or "call", str(subtest.id()).removeprefix(str(test.id())).strip())

    def add_skip(self, test: Any, reason: str) -> None:
        """It was skipped, or a fixture was."""
        record = self._record
        if record is None:
            return
        record.skip = str(reason)
        if type(test).__name__ == "_ErrorHolder":
            self._fixtures[_needed_by(str(test.description), record)] = _Finding("skipped", "", str(reason), "")

    def add_expected_failure(self, test: Any, err: Any) -> None:
        """It failed as expected."""
        record = self._mine(test)
        if record is not None:
            record.expected = _said(err[1])

    def add_unexpected_success(self, test: Any) -> None:
        """It passed, which was not expected."""
        record = self._mine(test)
        if record is not None:
            record.is_surprising = True

    def _mine(self, test: Any) -> _Record | None:
        return self._record if self._record is not None and self._record.found.test is test else None

    def _find_fixture(self, description: str, err: Any) -> None:
        record = self._record
        if description.startswith(("tearDown", "setUp")) and record is not None:
            phase = "teardown" if description.startswith("tearDown") else "setup"
            self._find(err, phase)
            if phase == "setup":
                self._fixtures.setdefault(_needed_by(description, record), record.findings[-1])

    def _find(self, err: Any, phase: str, subtest: str = "") -> None:
        kind, error, _ = err
        if issubclass(kind, MemoryError):
            self._no_memory = self._no_memory or is_near(self._limit)
        if self._record is None:
            return
        try:
            details = str(self._formatter._exc_info_to_string(err, self._record.found.test))  # type: ignore[attr-defined]
        except BaseException:  # the exception's own methods can do anything
            details = traceback_of(error)
        outcome, message = "failed" if phase == "call" else "error", _said(error)
        if subtest:
            message, details = f"{message} {subtest}", f"subtest {subtest}\n{details}"
        self._record.findings.append(_Finding(outcome, phase or "setup", message, details))


def _facade(ledger: Ledger) -> tuple[unittest.TestResult, type[unittest.TestSuite], integrity.Check]:
    """What a test finds in the place of the ledger, which none of its attributes leads to.

    Returns a result and a kind of suite for unittest, and what names the methods of these that were replaced.
    """

    class Result(unittest.TestResult):
        """Hands on what unittest says."""

        def startTest(self, test: Any) -> None:
            ledger.start_test(test)

        def stopTest(self, test: Any) -> None:
            ledger.stop_test(test)

        def addSuccess(self, test: Any) -> None:
            ledger.add_success(test)

        def addError(self, test: Any, err: Any) -> None:
            ledger.add_error(test, err)

        def addFailure(self, test: Any, err: Any) -> None:
            ledger.add_failure(test, err)

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
            ledger.add_subtest(test, subtest, err)

        def addSkip(self, test: Any, reason: str) -> None:
            ledger.add_skip(test, reason)

        def addExpectedFailure(self, test: Any, err: Any) -> None:
            ledger.add_expected_failure(test, err)

        def addUnexpectedSuccess(self, test: Any) -> None:
            ledger.add_unexpected_success(test)

    class Suite(unittest.TestSuite):
        """Says when it goes on to another test: what is torn down then belongs to the one before."""

        _coming: Any = None

        def _handleModuleFixture(self, test: Any, result: Any) -> None:
            self._coming = test
            if self._get_previous_module(result) == type(test).__module__:  # type: ignore[attr-defined]
                ledger.begin(test)
            super()._handleModuleFixture(test, result)  # type: ignore[misc]
            ledger.begin(test)

        def _handleModuleTearDown(self, result: Any) -> None:
            super()._handleModuleTearDown(result)  # type: ignore[misc]
            if self._coming is not None:
                ledger.begin(self._coming)

    result = Result()
    given, own = frozenset(vars(result)), frozenset(dir(result))
    noted = [(kind, dict(vars(kind))) for kind in (Result, Suite)]
    codes = [(each, each.__code__) for _, there in noted for each in there.values() if isinstance(each, FunctionType)]

    def replaced() -> str | None:
        for kind, there in noted:
            now = vars(kind)
            for name in now.keys() | there.keys():
                if now.get(name) is not there.get(name):
                    return f"{kind.__name__}.{name}"
        for function, code in codes:
            if function.__code__ is not code:
                return function.__qualname__.rpartition(">.")[2]
        more = [name for name in vars(result).keys() - given if name in own and callable(vars(result)[name])]
        if type(result) is not Result or [name for name in more if name != "_previousTestClass"]:
            return f"Result.{more[0] if more else '__class__'}"
        return None

    return result, Suite, replaced


def _needed_by(description: str, record: _Record) -> object:
    """Whose tests need a fixture: those of the module, or of the class."""
    kind = type(record.found.test)
    return kind.__module__ if description.startswith("setUpModule") else kind


def _phase(trace: TracebackType | None) -> str | None:
    """Which of the steps of a test an exception came out of; None if it was none of them."""
    while trace is not None:
        frame = trace.tb_frame
        phase = _STEPS.get(frame.f_code.co_name)
        if phase is not None and any(frame.f_globals is each for each in _UNITTEST):
            return phase
        trace = trace.tb_next
    return None


def _is_in_test() -> bool:
    """Whether this is called by the project's code in one of the steps of a test."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None:
        if frame.f_code.co_name in _STEPS and any(frame.f_globals is each for each in _UNITTEST):
            return True
        frame = frame.f_back
    return False


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # it can be anything
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _Output:
    """Descriptors 1 and 2, in files while a test runs."""

    def __init__(self) -> None:
        flush()
        self._files: list[tuple[int, int]] = []
        for fd in (1, 2):
            with tempfile.TemporaryFile(dir="/tmp") as file:
                fcntl.fcntl(file.fileno(), fcntl.F_SETFL, os.O_APPEND)
                self._files.append((fd, aside(file.fileno())))

    def begin(self) -> None:
        """From here on it is a test's."""
        flush()
        for fd, file in self._files:
            os.ftruncate(file, 0)
            os.dup2(file, fd)

    def end(self) -> tuple[str, str]:
        """What it wrote, with the middle left out if it was much."""
        flush()
        stdout, stderr = (_read(file) for _, file in self._files)
        return stdout, stderr


def _read(file: int) -> str:
    try:
        size = os.fstat(file).st_size
        data = os.pread(file, LONGEST_TEXT * 2, 0)
        if size > len(data):
            half = LONGEST_TEXT // 2 + 1
            data = data[:half] + b"\n...\n" + os.pread(file, half, size - half)
    except OSError:  # the test has closed it
        return ""
    return data.decode("utf-8", "replace")


def aside(fd: int) -> int:
    """The same file, where tests seldom look."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
