"""Reads test results out of JUnit XML, in the dialects of pytest, jest-junit, surefire, gotestsum and others. Pure.

Floor: testrun. The document is written where tests run, so it is refused if it is too long, too deep, or has a DTD or
an entity of its own. Everything else that is well-formed and has a root of the right name is read as far as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.parsers import expat

from ipybox.errors import ReportFormatError
from ipybox.testrun.foreign_cases import MOST_BYTES, MOST_CASES, case, distinct, line_number, seconds
from ipybox.testrun.model import CaseResult
from ipybox.testrun.outcome import Outcome

FORMAT = "JUnit XML"
DEEPEST = 100
_ROOTS = ("testsuites", "testsuite", "testrun")
_FAILURES = {"failure": Outcome.FAILED, "error": Outcome.ERROR}
_STATUSES = {
    "failed": Outcome.FAILED,
    "failure": Outcome.FAILED,
    "fail": Outcome.FAILED,
    "error": Outcome.ERROR,
    "skipped": Outcome.SKIPPED,
    "disabled": Outcome.SKIPPED,
    "ignored": Outcome.SKIPPED,
    "notrun": Outcome.SKIPPED,
    "pending": Outcome.SKIPPED,
    "suppressed": Outcome.SKIPPED,
}
"""What some write in an attribute instead of an element."""
_FLAKES = ("flakyfailure", "flakyerror")
_XFAILED = "pytest.xfail"


def read(data: bytes) -> list[CaseResult]:
    """The results, in the order of the document.

    A suite that counts more failures than its test cases show has another result that says so, as an error.

    Raises:
        ReportFormatError: It is no JUnit XML, or one that nobody writes in earnest.
    """
    if len(data) > MOST_BYTES:
        raise ReportFormatError(FORMAT, f"it is longer than {MOST_BYTES} bytes")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
    except ReportFormatError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ReportFormatError(FORMAT, str(error) or type(error).__name__) from None
    return distinct(reader.cases)


def _refuse(*_: object) -> NoReturn:
    raise ReportFormatError(FORMAT, "it has a DTD or an entity of its own")


@dataclass
class _Suite:
    """A suite that has begun."""

    name: str
    file: str
    claimed: int
    shown: int = 0


@dataclass
class _Case:
    """A test case that has begun."""

    facts: Mapping[str, str]
    suite: _Suite
    failures: list[tuple[Outcome, str, str]] = field(default_factory=list)
    skip: tuple[str, str] | None = None
    flake: str | None = None
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


class _Reader:
    """What expat calls."""

    def __init__(self) -> None:
        self.cases: list[CaseResult] = []
        self._path: list[str] = []
        self._suites: list[_Suite] = []
        self._case: _Case | None = None
        self._depth = 0
        self._facts: Mapping[str, str] = {}
        self._text: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        name = tag.rpartition(":")[2].lower()
        if not self._path and name not in _ROOTS:
            raise ReportFormatError(FORMAT, f"its root is {tag[:100]!r}, and not 'testsuites' or 'testsuite'")
        self._path.append(name)
        if len(self._path) > DEEPEST:
            raise ReportFormatError(FORMAT, f"it is deeper than {DEEPEST} elements")
        if self._case is None:
            if name in _ROOTS:
                file = attributes.get("file") or attributes.get("filepath", "")
                self._suites.append(_Suite(attributes.get("name", ""), file, _claimed(attributes)))
            elif name == "testcase" and self._suites:
                self._case, self._depth = _Case(dict(attributes), self._suites[-1]), len(self._path)
        elif len(self._path) == self._depth + 1:
            self._facts, self._text = dict(attributes), []

    def text(self, text: str) -> None:
        """Text, or a part of it."""
        if self._case is not None and len(self._path) == self._depth + 1:
            self._text.append(text)

    def end(self, tag: str) -> None:
        """An element ends."""
        name, depth = self._path.pop(), len(self._path) + 1
        if self._case is not None:
            if depth == self._depth:
                self._finish(self._case)
                self._case = None
            elif depth == self._depth + 1:
                self._take(self._case, name)
        elif name in _ROOTS:
            self._leave(self._suites.pop())

    def _take(self, found: _Case, name: str) -> None:
        text = "".join(self._text)
        message, kind = self._facts.get("message", ""), self._facts.get("type", "")
        if name in _FAILURES:
            found.failures.append((_FAILURES[name], message or kind, text or message))
        elif name == "skipped":
            found.skip = (kind, message or text)
        elif name in _FLAKES:
            found.flake = message or kind or text
        elif name == "system-out":
            found.stdout.append(text)
        elif name == "system-err":
            found.stderr.append(text)

    def _finish(self, found: _Case) -> None:
        facts, status = found.facts, _status(found.facts)
        message, details = "", ""
        if found.failures:
            outcome, message, details = found.failures[0]
            details = "\n".join(each[2] for each in found.failures)
        elif status in (Outcome.FAILED, Outcome.ERROR):
            outcome, message = status, f"its status is {status}"
        elif found.skip is not None:
            outcome, message = Outcome.XFAILED if found.skip[0] == _XFAILED else Outcome.SKIPPED, found.skip[1]
        elif status is Outcome.SKIPPED:
            outcome, message = status, facts.get("message", "")
        else:
            outcome, message = Outcome.PASSED, f"first it failed: {found.flake}" if found.flake is not None else ""
        if not outcome.is_success:
            found.suite.shown += 1
        self._add(
            case(
                _name(facts, found.suite),
                outcome,
                message=message,
                details=details,
                stdout="".join(found.stdout),
                stderr="".join(found.stderr),
                duration=seconds(facts.get("time")),
                file=facts.get("file") or facts.get("filepath") or found.suite.file,
                line=line_number(facts.get("line")),
                flaky=outcome is Outcome.PASSED and found.flake is not None,
            )
        )

    def _add(self, result: CaseResult) -> None:
        if len(self.cases) >= MOST_CASES:
            raise ReportFormatError(FORMAT, f"it has more than {MOST_CASES} test cases")
        self.cases.append(result)

    def _leave(self, suite: _Suite) -> None:
        if self._suites:
            self._suites[-1].shown += suite.shown
        if suite.claimed > suite.shown:
            missing = f"it counts {suite.claimed} failures and errors, and shows {suite.shown}"
            self._add(case(suite.name or "the report", Outcome.ERROR, phase="collect", message=missing))
            for outer in self._suites[-1:]:
                outer.shown += suite.claimed - suite.shown  # said already


def _claimed(attributes: Mapping[str, Any]) -> int:
    return sum(line_number(attributes.get(name, "")) or 0 for name in ("failures", "errors"))


def _status(facts: Mapping[str, str]) -> Outcome | None:
    for name in ("result", "status"):
        found = _STATUSES.get(facts.get(name, "").lower())
        if found is not None:
            return found
    return None


def _name(facts: Mapping[str, str], suite: _Suite) -> str:
    group, name = (facts.get("classname") or suite.name).strip(), facts.get("name", "").strip()
    return name if not group or group == name else f"{group}::{name}" if name else group
