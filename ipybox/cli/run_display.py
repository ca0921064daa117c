"""What ``ipybox test`` shows while it runs. Floor: cli.

On a terminal a line at the bottom that moves; everywhere else nothing moves, so that logs stay readable. Failures are
shown as soon as they are known, the first few in full.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.visible_text import visible, visible_line

FULL_FAILURES = 10
LISTED_FAILURES = 100
_OUTPUT_LINES = 40
_STYLES = {
    Outcome.PASSED: "green",
    Outcome.SKIPPED: "yellow",
    Outcome.XFAILED: "yellow",
    Outcome.XPASSED: "yellow",
}
_WORDS = {
    Outcome.ERROR: "errors",
    Outcome.TIMEOUT: "timed out",
    Outcome.OUT_OF_MEMORY: "out of memory",
    Outcome.INFRASTRUCTURE_ERROR: "infrastructure errors",
}


class Display:
    """Shows a run. A context manager, which takes the moving line away in the end.

    Args:
        console: Where to.
        verbosity: -1 shows the last line only, 0 failures, 1 each test.
    """

    def __init__(self, console: Console, verbosity: int = 0) -> None:
        self._console, self._verbosity = console, verbosity
        self._shown = self._failed = self._flaky = 0
        self._running: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal or verbosity < 0,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("finding tests", total=None, now="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def found(self, number: int, root: str, workers: int, isolation: str) -> None:
        """How many tests there are."""
        assert self._task is not None
        self._progress.update(self._task, total=number, description="running")
        if self._verbosity >= 0:
            each = {"test": "each in a sandbox of its own", "class": "a sandbox for each class"}.get(
                isolation, "a sandbox for each file"
            )
            self._print(f"{number} tests in {_safe(root)}, {each}, {workers} at a time")

    def started(self, name: str) -> None:
        """A test begins."""
        self._running[name] = time.monotonic()
        self._show_running()

    def finished(self, result: CaseResult) -> None:
        """A result is final."""
        self._running.pop(result.id, None)
        assert self._task is not None
        self._progress.advance(self._task)
        if not result.outcome.is_success:
            self._failed += 1
        self._show_running()
        if self._verbosity < 0:
            return
        if not result.outcome.is_success:
            self._failure(result)
        elif result.flaky:
            self._print(f"[yellow]flaky[/] {_safe(result.id)}: {_safe(result.message)}")
        elif self._verbosity > 0:
            style = _STYLES[result.outcome]
            cached = " (cached)" if result.cached else ""
            reason = f": {_safe(result.message)}" if result.message else ""
            self._print(f"[{style}]{result.outcome}[/]{cached} {_safe(result.id)}{reason}")

    def _failure(self, result: CaseResult) -> None:
        self._shown += 1
        if self._shown > LISTED_FAILURES and self._verbosity < 1:
            return
        where = f" ({result.phase})" if result.phase not in ("", "call") else ""
        self._print(f"[bold red]{_word(result.outcome)}[/]{where} [bold]{_safe(result.id)}[/]: {_safe(result.message)}")
        if self._shown > FULL_FAILURES:
            return
        for title, text in (("", result.details), ("stdout", result.stdout), ("stderr", result.stderr)):
            lines = visible(text).rstrip().splitlines()
            if not lines:
                continue
            if title:
                self._console.print(f"  {title}:", style="dim", highlight=False)
            more = len(lines) - _OUTPUT_LINES
            if more > 0:
                self._console.print(f"  ... {more} lines left out", style="dim", highlight=False)
            for line in lines[-_OUTPUT_LINES:]:
                self._console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)

    def _show_running(self) -> None:
        assert self._task is not None
        failed = f"{self._failed} failed  " if self._failed else ""
        oldest = min(self._running, key=self._running.__getitem__, default="")
        self._progress.update(self._task, now=failed + visible_line(oldest)[:60])

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def summary(self, report: RunReport) -> None:
        """The last words."""
        for note in report.notes:
            self._print(f"[yellow]note:[/] {_safe(note)}")
        if self._shown > FULL_FAILURES and self._verbosity >= 0:
            listed = f", the first {LISTED_FAILURES} are listed" if len(report.failures) > LISTED_FAILURES else ""
            self._print(f"{len(report.failures)} failures: the first {FULL_FAILURES} are shown in full above{listed}")
        if report.stopped:
            self._print(f"[yellow]{_safe(report.stopped)}[/]")
        parts = [
            f"[{_STYLES.get(outcome, 'bold red')}]{count} {_WORDS.get(outcome, outcome)}[/]"
            for outcome, count in sorted(report.counts.items(), key=lambda pair: pair[0].is_success)
        ]
        if report.flaky:
            parts.append(f"[yellow]{len(report.flaky)} flaky[/]")
        cached = sum(result.cached for result in report.results)
        if cached:
            parts.append(f"{cached} cached")
        if report.not_run:
            parts.append(f"{len(report.not_run)} not run")
        if report.deselected:
            parts.append(f"{report.deselected} deselected")
        self._print(f"{', '.join(parts) or 'no tests were found'} in {report.duration:.2f} s")


def _word(outcome: Outcome) -> str:
    return str(outcome).replace("_", " ")


def _safe(text: str) -> str:
    """Text of a test as it may be shown: with no markup of ours, and nothing that a terminal heeds."""
    return escape(visible_line(text))
