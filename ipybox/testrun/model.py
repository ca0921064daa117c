"""The results of a test run, as values. Floor: testrun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from ipybox.testrun.outcome import ExitCode, Outcome, exit_code

Isolation = Literal["test", "class", "file"]
Phase = Literal["", "collect", "setup", "call", "teardown"]

FORMAT = 1
"""Version of the JSON shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What became of one test.

    Attributes:
        id: The framework's own name of it, such as ``tests/test_a.py::TestB::test_c[1]``.
        outcome: See there.
        phase: Where it failed; empty if it did not.
        message: One line: the exception, the reason of a skip, the signal. Empty for a test that passed.
        details: The framework's own account, with the traceback; several lines.
        stdout: What it printed, where that was captured; the last part if it was much.
        stderr: What it wrote to stderr, likewise.
        duration: Seconds in the sandbox: set-up, test and teardown.
        file: The file it is in, relative to the project's root; empty if unknown.
        line: Line number there, from 1; None if unknown.
        signal: Number of the signal that ended its process, for ``crashed`` and ``out_of_memory``.
        exit_code: What its process exited with instead of reporting, for ``crashed``.
        attempts: How often it was run, at least 1; 0 if it is from the cache.
        flaky: Whether it succeeded only on a later attempt.
        cached: Whether this is an earlier run's result, of the same test with the same files.
    """

    id: str
    outcome: Outcome
    phase: Phase = ""
    message: str = ""
    details: str = ""
    stdout: str = ""
    stderr: str = ""
    duration: float = 0.0
    file: str = ""
    line: int | None = None
    signal: int | None = None
    exit_code: int | None = None
    attempts: int = 1
    flaky: bool = False
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_dict` wrote; what a later version added is left out."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        return cls(**{**values, "outcome": Outcome(data["outcome"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What became of a run.

    Attributes:
        results: One for each test that has one, in the order of collection; and one for each file that could not be
            collected, with its path as id.
        not_run: Ids of tests without a result, because the run was stopped.
        started_at: When it began, in UTC, as in ISO 8601.
        duration: Seconds from the beginning to the end.
        interrupted: Whether it was ended before its time: by Ctrl-C, or by files that could not be collected.
        stopped: Why tests were not run, in words; empty if all were.
        deselected: How many tests of the files were not asked for.
        framework: Such as ``pytest 9.0.1``.
        isolation: What shares a sandbox.
        workers: Most sandboxes at the same time.
        root: The project's directory.
        python: Version of Python that ran the tests.
        notes: What could not be had here, and what that means for the results.
    """

    results: tuple[CaseResult, ...] = ()
    not_run: tuple[str, ...] = ()
    started_at: str = ""
    duration: float = 0.0
    interrupted: bool = False
    stopped: str = ""
    deselected: int = 0
    framework: str = ""
    isolation: Isolation = "test"
    workers: int = 1
    root: str = ""
    python: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many tests came to which outcome; those that none came to are left out."""
        found = Counter(result.outcome for result in self.results)
        return {outcome: found[outcome] for outcome in Outcome if found[outcome]}

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The results that keep the run from having succeeded."""
        return tuple(result for result in self.results if not result.outcome.is_success)

    @property
    def flaky(self) -> tuple[CaseResult, ...]:
        """Those that succeeded only on a later attempt."""
        return tuple(result for result in self.results if result.flaky)

    @property
    def exit_code(self) -> ExitCode:
        """What ``ipybox test`` exits with."""
        return exit_code((result.outcome for result in self.results), interrupted=self.interrupted)

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape: all attributes, and ``format``, ``summary`` and ``exit_code`` for those who read it."""
        return {
            "format": FORMAT,
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "not_run": list(self.not_run),
            "notes": list(self.notes),
            "results": [result.to_dict() for result in self.results],
            "summary": {"total": len(self.results), **{str(key): count for key, count in self.counts.items()}},
            "exit_code": int(self.exit_code),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_dict` wrote; what a later version added is left out."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        results = tuple(CaseResult.from_dict(each) for each in data["results"])
        return cls(**{**values, "results": results, "not_run": tuple(data["not_run"]), "notes": tuple(data["notes"])})
