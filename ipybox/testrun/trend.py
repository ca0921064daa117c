"""How the last runs went, as values and as a table of plain text. Floor: testrun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ipybox.testrun.outcome import Outcome
from ipybox.testrun.visible_text import visible_line

_HEADER = ("started", "seconds", "tests", "success", "failed", "flaky", "newly failing", "newly fixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """One run among those before and after it.

    Attributes:
        run_id: Its number in the history.
        started_at: When it began, in UTC, as in ISO 8601.
        duration: Seconds.
        counts: How many tests came to which outcome; those that none came to are left out.
        flaky: How many succeeded only on a later attempt.
        newly_failing: Ids of those that did not succeed but had succeeded the last time, or had never been run. The
            first run of a history has none.
        newly_fixed: Ids of those that succeeded but had not the last time.
    """

    run_id: int
    started_at: str
    duration: float
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    flaky: int = 0
    newly_failing: tuple[str, ...] = ()
    newly_fixed: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many tests have a result."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """How many of them did not succeed."""
        return sum(count for outcome, count in self.counts.items() if not outcome.is_success)

    @property
    def success_rate(self) -> float | None:
        """The share of results that are a success, from 0 to 1, where skipped tests count as one; None without any."""
        return 1 - self.failed / self.total if self.total else None


def percent(rate: float | None) -> str:
    """A share as text such as ``99.9%``; 100% only if it is all of them, and a dash for None."""
    if rate is None:
        return "-"
    if 0 < 1 - rate < 0.0005:
        return "99.9%"
    return f"{rate * 100:.1f}".removesuffix(".0") + "%"


def trend_table(trend: Sequence[TrendPoint]) -> str:
    """The runs as a table, one a line, in the order given. Ends without a line end; empty without runs."""
    if not trend:
        return ""
    rows = [_HEADER, *(_row(point) for point in trend)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line) for line in lines)


def _row(point: TrendPoint) -> tuple[str, ...]:
    return (
        visible_line(point.started_at)[:19].replace("T", " ") or "-",
        f"{point.duration:.1f}",
        str(point.total),
        percent(point.success_rate),
        str(point.failed),
        str(point.flaky),
        str(len(point.newly_failing)),
        str(len(point.newly_fixed)),
    )
