"""Results out of another framework's report. Pure. Floor: testrun.

A report is written where tests run, so what is in it can be anything: every text is cut, every number is checked, and
no two results have the same id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from ipybox.testrun.in_sandbox import cut
from ipybox.testrun.model import CaseResult, Phase
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.seconds import finite

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of a report that are read; a longer one is no report."""
MOST_CASES = 100_000
_LONGEST_NAME = 2_000
_LONGEST_DURATION = 1e9
_MOST_LINES = 10**9


def case(
    name: str,
    outcome: Outcome,
    *,
    phase: Phase = "call",
    message: str = "",
    details: str = "",
    stdout: str = "",
    stderr: str = "",
    duration: float = 0.0,
    file: str = "",
    line: int | None = None,
    flaky: bool = False,
) -> CaseResult:
    """A result; the phase is left out where nothing failed, and the message where the test passed.

    Without a message, the first line of the details is one.
    """
    if outcome is Outcome.PASSED:
        message = message if flaky else ""
    else:
        message = message if message.strip() else details
    return CaseResult(
        id=name.strip()[:_LONGEST_NAME] or "?",
        outcome=outcome,
        phase="" if outcome.is_success else phase,
        message=cut(next((line.strip() for line in message.splitlines() if line.strip()), "")),
        details=cut(details),
        stdout=cut(stdout),
        stderr=cut(stderr),
        duration=seconds(duration),
        file=file[:_LONGEST_NAME],
        line=line,
        flaky=flaky,
    )


def seconds(value: object) -> float:
    """A duration, out of whatever somebody wrote; 0 if it is none."""
    try:
        found = float(value.replace(",", "")) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return finite(min(found, _LONGEST_DURATION)) if math.isfinite(found) else 0.0


def line_number(value: object) -> int | None:
    """A line number, out of whatever somebody wrote; None if it is none."""
    if type(value) is int:
        return value if 0 < value < _MOST_LINES else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value) or None
    return None


def distinct(cases: Iterable[CaseResult]) -> list[CaseResult]:
    """The same, with a number behind each id that was there before."""
    used: set[str] = set()
    counts: dict[str, int] = {}
    found = []
    for each in cases:
        name = each.id
        while name in used:
            counts[each.id] = counts.get(each.id, 1) + 1
            name = f"{each.id} ({counts[each.id]})"
        used.add(name)
        found.append(each if name == each.id else replace(each, id=name))
    return found
