"""Reads test results out of TAP, the Test Anything Protocol, versions 12, 13 and 14. Pure. Floor: testrun.

What does not agree with itself has a result more, as an error: tests that the plan has and that were not reported,
tests that it does not have, a plan that is missing, and ``Bail out!``. Of a test point with subtests there are the
results of these, and its own where they do not say why it failed. Diagnostics in YAML stay the text that they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ipybox.errors import ReportFormatError
from ipybox.testrun.foreign_cases import MOST_BYTES, MOST_CASES, case, distinct, seconds
from ipybox.testrun.model import CaseResult
from ipybox.testrun.outcome import Outcome

FORMAT = "TAP"
DEEPEST = 50
_MOST_LINES = 2_000_000
_MOST_NAMED = 1_000
_LONGEST_LINE = 20_000
_SEPARATOR = " > "
_PLAN = re.compile(r"1\.\.(\d{1,9})\s*(?:#\s*(.*))?$")
_TEST = re.compile(r"(not )?ok(?:\s+(\d{1,9}))?(?=\s|$)\s*(?:-\s*)?(.*)$")
_BAIL = re.compile(r"Bail out!\s*(.*)$", re.IGNORECASE)
_SUBTEST = re.compile(r"#\s*Subtest(?::\s*(.*))?$")
_DIRECTIVE = re.compile(r"(?<!\\)#\s*(skip(?:ped)?|todo)\b[:\s]*", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([\\#])")
_YAML_FACT = re.compile(r"\s*(message|error|duration_ms):\s*(.*)$")
_YAML_BLOCK = re.compile(r"[|>][-+]?$")


def read(data: bytes) -> list[CaseResult]:
    """The results, in the order in which they were reported.

    Raises:
        ReportFormatError: There is neither a plan nor a test in it, or it is too long or too deep.
    """
    if len(data) > MOST_BYTES:
        raise ReportFormatError(FORMAT, f"it is longer than {MOST_BYTES} bytes")
    if data.count(b"\n") > _MOST_LINES:
        raise ReportFormatError(FORMAT, f"it has more than {_MOST_LINES} lines")
    parser = _Parser([line[:_LONGEST_LINE] for line in data.decode("utf-8", "replace").split("\n")])
    points = parser.level(0)
    if not parser.has_begun:
        raise ReportFormatError(FORMAT, "it has no plan and no test")
    return distinct(result for point in points for result in _results(point, ""))


@dataclass
class _Point:
    """A test point."""

    name: str
    outcome: Outcome
    message: str = ""
    details: list[str] = field(default_factory=list)
    duration: float = 0.0
    children: list[_Point] = field(default_factory=list)
    is_open: bool = False


@dataclass
class _Level:
    """The test points of one level, as far as they have come."""

    points: list[_Point] = field(default_factory=list)
    plan: int | None = None
    skip: str = ""
    numbers: set[int] = field(default_factory=set)
    count: int = 0
    is_planned_at: int | None = None
    subtest: str = ""
    children: list[_Point] = field(default_factory=list)

    def error(self, name: str, message: str) -> None:
        """Something does not agree."""
        self.points.append(_Point(name, Outcome.ERROR, message))


class _Parser:
    """Goes through the lines once."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0
        self._cases = 0
        self._has_ended = False
        self.has_begun = False
        """Whether there was a plan, a test, or a reason for neither."""

    def level(self, indent: int) -> list[_Point]:
        """The test points from here on that are indented by so much."""
        if indent > DEEPEST * 4:
            raise ReportFormatError(FORMAT, f"it has more than {DEEPEST} levels of subtests")
        level = _Level()
        while self._at < len(self._lines) and not self._has_ended:
            line = self._lines[self._at].rstrip()
            spaces = len(line) - len(line.lstrip(" "))
            if not line:
                self._at += 1
            elif spaces >= indent + 4:
                self._subtests(level, indent, line)
            elif spaces < indent:
                break
            elif level.points and line[indent:] == "  ---":
                self._yaml(level.points[-1], indent)
            else:
                self._at += 1
                self._line(level, line[indent:])
        self._check(level)
        return level.points

    def _subtests(self, level: _Level, indent: int, line: str) -> None:
        if not _is_tap(line.lstrip(" ")):
            self._at += 1
            return
        children = self.level(indent + 4)
        last = level.points[-1] if level.points else None
        if last is not None and last.is_open:
            last.children += children
        else:
            level.children += children

    def _yaml(self, point: _Point, indent: int) -> None:
        end, self._at, is_message = " " * indent + "  ...", self._at + 1, False
        while self._at < len(self._lines):
            line = self._lines[self._at].rstrip()
            self._at += 1
            if line == end:
                return
            point.details.append(line[indent + 2 :])
            found = _YAML_FACT.match(line)
            if is_message:
                point.message, is_message = line.strip(), False
            elif found is not None and found[1] != "duration_ms" and not point.message:
                is_message = _YAML_BLOCK.match(found[2]) is not None  # then it is in the lines below
                point.message = "" if is_message else found[2].strip("'\"")
            elif found is not None and found[1] == "duration_ms":
                point.duration = point.duration or seconds(found[2]) / 1000

    def _line(self, level: _Level, line: str) -> None:
        if found := _TEST.match(line):
            self._test(level, found)
        elif found := _PLAN.match(line):
            self.has_begun = True
            if level.plan is not None:
                level.error("plan", "there is more than one plan")
            level.plan, level.skip = int(found[1]), found[2] or ""
            level.is_planned_at = level.count
        elif found := _BAIL.match(line):
            self.has_begun = self._has_ended = True
            level.error("Bail out!", found[1] or "it gave up")
        elif found := _SUBTEST.match(line):
            level.subtest = found[1] or ""
        elif line.startswith("#") and level.points and not level.points[-1].outcome.is_success:
            point = level.points[-1]
            point.details.append(line[1:].removeprefix(" "))
            point.message = point.message or line[1:].strip()
        elif line == "}" and level.points:
            level.points[-1].is_open = False

    def _test(self, level: _Level, found: re.Match[str]) -> None:
        self.has_begun = True
        self._cases += 1
        if self._cases > MOST_CASES:
            raise ReportFormatError(FORMAT, f"it has more than {MOST_CASES} tests")
        level.count += 1
        number, text = int(found[2]) if found[2] else level.count, found[3]
        directive = _DIRECTIVE.search(text)
        name, reason = (text, "") if directive is None else (text[: directive.start()], text[directive.end() :])
        is_open = name.rstrip().endswith("{")
        if is_open:
            name = name.rstrip()[:-1]
        name = _ESCAPED.sub(r"\1", name.strip()) or level.subtest or f"test {number}"
        outcome = _outcome(found[1] is None, directive[1].lower() if directive is not None else "")
        level.points.append(_Point(name, outcome, reason.strip(), children=level.children, is_open=is_open))
        level.children, level.subtest = [], ""
        if number in level.numbers:
            level.error(name, f"there is another test with the number {number}")
        level.numbers.add(number)

    def _check(self, level: _Level) -> None:
        if level.children:
            level.points.append(_Point(level.subtest or "subtest", Outcome.PASSED, children=level.children))
        if self._has_ended:
            return
        if level.plan is None:
            if level.points:
                level.error("plan", "there is no plan: it ended before its time")
            return
        if level.is_planned_at not in (0, level.count):
            level.error("plan", "the plan is between the tests")
        if level.plan == 0 and not level.count:
            if level.skip:
                reason = _DIRECTIVE.sub("", f"#{level.skip}", count=1).lstrip("#").strip()
                level.points.append(_Point("all tests", Outcome.SKIPPED, reason))
            return
        for number in sorted(number for number in level.numbers if not 1 <= number <= level.plan):
            level.error(f"test {number}", f"it is not in the plan, which is 1..{level.plan}")
        missing = level.plan - sum(1 <= number <= level.plan for number in level.numbers)
        if missing > _MOST_NAMED:
            level.error("plan", f"{missing} tests of 1..{level.plan} were not reported")
        elif missing:
            for number in range(1, level.plan + 1):
                if number not in level.numbers:
                    level.error(f"test {number}", f"it is in the plan, 1..{level.plan}, and was not reported")


def _is_tap(line: str) -> bool:
    """Whether a line can be the first of a subtest."""
    return any(each.match(line) for each in (_TEST, _PLAN, _BAIL, _SUBTEST)) or line.startswith("TAP version ")


def _outcome(is_ok: bool, directive: str) -> Outcome:
    if directive == "todo":
        return Outcome.XPASSED if is_ok else Outcome.XFAILED
    if not is_ok:
        return Outcome.FAILED
    return Outcome.SKIPPED if directive else Outcome.PASSED


def _results(point: _Point, prefix: str) -> Iterator[CaseResult]:
    """Those of a point's subtests, and its own where they do not say it all."""
    name = f"{prefix}{_SEPARATOR}{point.name}" if prefix else point.name
    is_excused = point.outcome in (Outcome.XFAILED, Outcome.XPASSED)
    inner = []
    for child in point.children:
        for each in _results(child, name):
            if is_excused and not each.outcome.is_success:
                each = replace(each, outcome=Outcome.XFAILED, phase="", message=point.message or each.message)
            inner.append(each)
    yield from inner
    if not inner or (not point.outcome.is_success and all(each.outcome.is_success for each in inner)):
        yield case(
            name,
            point.outcome,
            phase="collect" if point.outcome is Outcome.ERROR else "call",
            message=point.message,
            details="\n".join(point.details),
            duration=point.duration,
        )
