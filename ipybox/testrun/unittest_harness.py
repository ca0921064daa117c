"""Finds and runs tests with the standard library's unittest, inside a sandbox. Floor: testrun.

Tests are found as ``python -m unittest discover`` finds them, and run by unittest's own suite. A test is named after
the file that it was found through, such as ``tests/test_a.py::TestB::test_c``. Outcomes are in pytest's words:

- Any exception out of the test method, ``SystemExit`` and a failed subtest too, is ``failed``.
- One out of ``setUp``, ``tearDown`` or a cleanup is ``error``, and so is one out of ``setUpClass`` or ``setUpModule``,
  for all tests that needed it, and out of ``tearDownClass`` or ``tearDownModule``, for the last test before it.
- An unexpected success is ``failed``, as unittest counts it.
- A test that unittest says nothing about is ``error``.

A suite that ``load_tests`` returns is taken for the tests in it; a ``run`` of its own is not called.
"""

from __future__ import annotations

import argparse
import builtins
import faulthandler
import fcntl
import os
import platform
import sys
import tempfile
import threading
import time
import unittest
import unittest.async_case
import unittest.case
import unittest.loader
import unittest.suite
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from ipybox.testrun import integrity, unittest_finder
from ipybox.testrun.channel import Value, Write
from ipybox.testrun.code_archive import loaded_sources
from ipybox.testrun.in_sandbox import LONGEST_TEXT, OFTEN_NEEDED, cut, flush, is_near, leave, load, traceback_of
from ipybox.testrun.request import Request
from ipybox.testrun.unittest_finder import Finder, Found

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

_AT_ONCE = 300
_OUT_OF_THE_WAY = 1001
_STEPS = {"_callSetUp": "setup", "_callTestMethod": "call", "_callTearDown": "teardown", "_callCleanup": "teardown"}
_UNITTEST = (vars(unittest.case), vars(unittest.async_case))


def prepare() -> Callable[[Request, Write, Callable[[], None]], None]:
    """Imports what tests often need; returns what runs in a fork."""
    load(OFTEN_NEEDED)
    check = integrity.watch((*integrity.UNITTEST, __name__))

    def run(request: Request, tell: Write, begun: Callable[[], None]) -> None:
        arguments = request.arguments if request.mode == "collect" else request.arguments[:-1]
        try:
            options = unittest_finder.options().parse_intermixed_args(arguments)
        except SystemExit as error:
            tell({"kind": "end", "code": int(error.code or 0)})
            leave()
        me = os.getpid()
        sys.argv[:] = ["unittest", *options.paths]
        sys.path.insert(0, os.getcwd())  # as `python -m` does
        faulthandler.enable(_aside(2))
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("default")  # as unittest's own runner does
            if request.mode == "collect":
                _collect(options, request.root, tell)
            else:
                _run(options, request, tell, begun, check)
        if os.getpid() != me:
            os._exit(1)  # a child of the project's code that went on as if it were this
        tell({"kind": "end", "code": 0})
        leave()

    return run


# ---- finding ----------------------------------------------------------------------------------------------------


def _collect(options: argparse.Namespace, root: str, tell: Write) -> None:
    finder = Finder(options, root)
    finder.find()
    for name, details in finder.failed:
        tell({"kind": "not_collected", "id": cut(name), "details": cut(details)})
    for name, reason in finder.skipped:
        tell({"kind": "skipped_file", "id": cut(name), "message": cut(reason)})
    tell(
        {
            "kind": "project",
            "framework": f"unittest of Python {platform.python_version()}",
            "root": root,
            "configuration": "",
            "deselected": finder.deselected,
        }
    )
    for start in range(0, len(finder.found), _AT_ONCE):
        some = finder.found[start : start + _AT_ONCE]
        tell(
            {
                "kind": "items",
                "ids": [cut(each.id) for each in some],
                "paths": [each.path for each in some],
                "lines": [str(each.line or "") for each in some],
            }
        )
    plain, _ = loaded_sources(root)
    tell({"kind": "sources", "plain": [cut(each) for each in plain], "rewritten": []})


# ---- running ----------------------------------------------------------------------------------------------------


def _run(
    options: argparse.Namespace, request: Request, tell: Write, begun: Callable[[], None], check: integrity.Check
) -> None:
    wanted = set(request.ids)
    options.patterns = []  # the ids say it all
    finder = Finder(options, request.root, request.arguments[-1].partition("::")[0])
    finder.find()
    if not wanted <= {each.id for each in finder.found}:
        if finder.failed:
            for name, details in finder.failed:
                tell({"kind": "not_collected", "id": cut(name), "details": cut(details)})
            return
        finder = Finder(
            options, request.root
        )  # a test can be found through another file than the one that it is named after
        finder.find()
    found = [each for each in finder.found if each.id in wanted]
    result = _Result({id(each.test): each for each in found}, request.data_limit, tell, check)
    result.tb_locals = options.locals
    begun()
    result.run([each.test for each in found])


@dataclass(slots=True)
class _Finding:
    """Something that went wrong."""

    outcome: str
    phase: str
    message: str
    details: str


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


class _Suite(unittest.TestSuite):
    """Unittest's own, which says when it goes on to another test: what is torn down then belongs to the one before."""

    _coming: Any = None

    def _handleModuleFixture(self, test: Any, result: _Result) -> None:
        self._coming = test
        if self._get_previous_module(result) == type(test).__module__:  # type: ignore[attr-defined]
            result.begin(test)
        super()._handleModuleFixture(test, result)  # type: ignore[misc]
        result.begin(test)

    def _handleModuleTearDown(self, result: _Result) -> None:
        super()._handleModuleTearDown(result)  # type: ignore[misc]
        if self._coming is not None:
            result.begin(self._coming)


class _Result(unittest.TestResult):
    """Takes what unittest says about each test, and tells it when all of it has been said."""

    def __init__(self, names: dict[int, Found], limit: int, tell: Write, check: integrity.Check) -> None:
        super().__init__()
        self._names, self._limit, self._tell, self._check = names, limit, tell, check
        self._record: _Record | None = None
        self._broken: str | None = None
        self._fixtures: dict[object, _Finding] = {}
        self._output = _Output()
        self._pid, self._thread, self._now = os.getpid(), threading.get_ident(), time.perf_counter
        self._no_memory = False
        self._own = frozenset(name for kind in type(self).__mro__[:-1] for name in vars(kind))
        self._given = frozenset(vars(self))

    def run(self, tests: list[Any]) -> None:
        """Runs them one after the other; what ends unittest's own run ends one test."""
        left = tests
        while left:
            try:
                _Suite(left).run(self)
                left = []
            except BaseException as error:
                here = self._record
                if here is None:
                    raise
                left = left[[id(each) for each in left].index(id(here.found.test)) + 1 :]
                phase = _phase(error.__traceback__)
                if phase is None:
                    self._previousTestClass = None  # it can't be torn down once more
                self._find(
                    (type(error), error, error.__traceback__), phase or ("teardown" if here.has_run else "setup")
                )
                self._testRunEntered = False
        self.settle()

    def begin(self, test: Any) -> None:
        """Goes on to a test, unless it is the one that runs."""
        if self._record is not None and self._record.found.test is test:
            return
        self.settle()
        found = self._names[id(test)]
        self._tell({"kind": "start", "id": cut(found.id)})
        self._output.begin()
        self._record, self._no_memory, self._broken = _Record(found, self._now()), False, None

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

    def _replaced(self) -> str | None:
        """What was put in the way of these methods, on this object itself."""
        more = (vars(self).keys() - self._given) & self._own - {"_previousTestClass", "_moduleSetUpFailed"}
        return next((f"{type(self).__name__}.{name}" for name in more if callable(vars(self)[name])), None)

    # ---- what unittest calls ------------------------------------------------------------------------------------

    def startTest(self, test: Any) -> None:
        record = self._mine(test)
        if record is None:
            return
        if record.is_running:
            self._broken = self._broken or "the test called TestCase.run for itself"
        record.is_running = True

    def stopTest(self, test: Any) -> None:
        record = self._mine(test)
        if record is not None:
            record.is_running, record.has_run = False, True

    def addSuccess(self, test: Any) -> None:
        record = self._mine(test)
        if record is None or os.getpid() != self._pid:
            return
        if threading.get_ident() != self._thread or _is_in_test():
            self._broken = self._broken or "the test called TestResult.addSuccess"
        record.has_passed = True

    def addError(self, test: Any, err: Any) -> None:
        if type(test).__name__ == "_ErrorHolder":
            return self._find_fixture(str(test.description), err)
        self._find(err, _phase(err[2]) or "")

    def addFailure(self, test: Any, err: Any) -> None:
        self._find(err, _phase(err[2]) or "call")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._find(err, _phase(err[2]) or "call", str(subtest.id()).removeprefix(str(test.id())).strip())

    def addSkip(self, test: Any, reason: str) -> None:
        record = self._record
        if record is None:
            return
        record.skip = str(reason)
        if type(test).__name__ == "_ErrorHolder":
            self._fixtures[_needed_by(str(test.description), record)] = _Finding("skipped", "", str(reason), "")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        record = self._mine(test)
        if record is not None:
            record.expected = _said(err[1])

    def addUnexpectedSuccess(self, test: Any) -> None:
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
            details = str(self._exc_info_to_string(err, self._record.found.test))  # type: ignore[attr-defined]
        except BaseException:  # the exception's own methods can do anything
            details = traceback_of(error)
        outcome, message = "failed" if phase == "call" else "error", _said(error)
        if subtest:
            message, details = f"{message} {subtest}", f"subtest {subtest}\n{details}"
        self._record.findings.append(_Finding(outcome, phase or "setup", message, details))


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
    frame: FrameType | None = sys._getframe(2)
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
                self._files.append((fd, _aside(file.fileno())))

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


def _aside(fd: int) -> int:
    """The same file, where tests seldom look."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
