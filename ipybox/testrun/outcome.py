"""What can become of a test, and what that means for a run. Floor: testrun."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum


class Outcome(StrEnum):
    """What became of one test.

    The first six are the framework's own words. The others are what a framework that shares a process with its tests
    can't say any more.
    """

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    """A fixture failed, the test's file can't be imported, or the test tampered with what reports it."""
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    """Its process ended, by a signal or by an exit, before there was a result."""
    OUT_OF_MEMORY = "out_of_memory"
    INFRASTRUCTURE_ERROR = "infrastructure_error"
    """No sandbox could be had, or it ended from outside: nothing is known about the test."""

    @property
    def is_success(self) -> bool:
        """Whether a run in which all tests are like that has succeeded."""
        return self in _SUCCESSES


_SUCCESSES = frozenset((Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.XPASSED))


class ExitCode(IntEnum):
    """How ``ipybox test`` exits; the numbers are pytest's."""

    OK = 0
    TESTS_FAILED = 1
    INTERRUPTED = 2
    INTERNAL_ERROR = 3
    USAGE_ERROR = 4
    NO_TESTS = 5


def exit_code(outcomes: Iterable[Outcome], *, interrupted: bool) -> ExitCode:
    """What a run exits with.

    A run with an infrastructure error has no verdict, so that counts more than a failed test.
    """
    found = set(outcomes)
    if interrupted:
        return ExitCode.INTERRUPTED
    if Outcome.INFRASTRUCTURE_ERROR in found:
        return ExitCode.INTERNAL_ERROR
    if any(not outcome.is_success for outcome in found):
        return ExitCode.TESTS_FAILED
    return ExitCode.OK if found else ExitCode.NO_TESTS
