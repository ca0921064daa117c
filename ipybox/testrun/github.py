"""A report for GitHub Actions: a summary in Markdown, and annotations of the lines where tests failed. Floor: testrun.

What tests wrote can neither become Markdown or HTML in a summary nor a command to the runner in a log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import ExitCode, Outcome
from ipybox.testrun.seconds import finite, shown
from ipybox.testrun.trend import TrendPoint, percent
from ipybox.testrun.visible_text import shortened, visible, visible_line

SUMMARY_LIMIT = 1024 * 1024
"""Bytes that GitHub takes as the summary of a step; of more it shows nothing."""

ANNOTATIONS = 10
"""How many annotations of a kind GitHub shows for a step."""

_LISTED = 200
_DETAILED = 50
_DETAILS = 20_000
_MESSAGE = 200
_ESCAPED = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_ESCAPED_PROPERTY = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})
_SHORTENED = "\n_The rest of this summary is left out, as GitHub shows no more than 1 MiB._\n"


# ---- summary ----------------------------------------------------------------------------------------------------


def summary_markdown(report: RunReport, trend: Sequence[TrendPoint] = (), *, limit: int = SUMMARY_LIMIT) -> str:
    """The report as Markdown.

    Args:
        report: The report.
        trend: The last runs, the latest last; a table of them is added.
        limit: Most bytes that it may have as UTF-8. What does not fit is left out from the end, which a note says;
            empty if not even that fits.
    """
    parts: list[str] = []
    left = limit - len(_SHORTENED)
    for part in _sections(report, trend):
        size = len(part.encode())
        if size > left:
            parts.append(_SHORTENED)
            break
        parts.append(part)
        left -= size
    return "".join(parts) if left >= 0 else ""


def append_summary(path: str | os.PathLike[str], report: RunReport, trend: Sequence[TrendPoint] = ()) -> bool:
    """Adds the report to the summary of the step, with which it shares the limit.

    Args:
        path: The file that ``GITHUB_STEP_SUMMARY`` names.
        report: The report.
        trend: The last runs.

    Returns:
        Whether there was room for anything.

    Raises:
        OSError: The file can't be written.
    """
    with open(path, "ab") as file:
        text = summary_markdown(report, trend, limit=SUMMARY_LIMIT - file.tell())
        file.write(text.encode())
    return bool(text)


def _sections(report: RunReport, trend: Sequence[TrendPoint]) -> Iterator[str]:
    yield f"## Tests: {_verdict(report)}\n\n"
    yield "".join(_table(("Outcome", "Tests"), ((_words(outcome), str(n)) for outcome, n in report.counts.items())))
    facts = [f"{len(report.results)} tests in {shown(report.duration)}"]
    facts += [code_span(value) for value in (report.framework, f"Python {report.python}" if report.python else "")]
    if report.not_run:
        facts.append(f"**{len(report.not_run)} not run**: {code_span(report.stopped or 'stopped')}")
    yield "\n" + ", ".join(fact for fact in facts if fact) + "\n"
    if report.notes:
        yield "\n" + "".join(f"- {code_span(note)}\n" for note in report.notes)
    if report.failures:
        yield "\n### What did not succeed\n\n"
        rows = ((code_span(each.id), _words(each.outcome), _message(each)) for each in report.failures[:_LISTED])
        yield from _table(("Test", "Outcome", "Message"), rows)
        if len(report.failures) > _LISTED:
            yield f"\n... and {len(report.failures) - _LISTED} more.\n"
    if report.flaky:
        yield "\n### Flaky: succeeded only on a later attempt\n\n"
        yield from _table(
            ("Test", "Attempts"), ((code_span(each.id), str(each.attempts)) for each in report.flaky[:_LISTED])
        )
    if len(trend) > 1:
        yield "\n### The last runs\n\n"
        header = ("Started", "Seconds", "Tests", "Success", "Newly failing", "Newly fixed")
        yield from _table(header, (_trend_row(point) for point in reversed(trend)))
    for result in report.failures[:_DETAILED]:
        if text := result.details or result.stderr or result.stdout:
            title = _html(f"{shortened(result.id, 300)} ({_words(result.outcome)})")
            yield f"\n<details><summary>{title}</summary>\n\n{fenced(shortened(text, _DETAILS))}\n</details>\n"


def _verdict(report: RunReport) -> str:
    if report.interrupted:
        return "stopped before the end"
    if report.exit_code is ExitCode.INTERNAL_ERROR:
        count = report.counts[Outcome.INFRASTRUCTURE_ERROR]
        return f"no verdict, as {count} of {len(report.results)} could not be run"
    if report.failures:
        return f"{len(report.failures)} of {len(report.results)} did not succeed"
    return f"all {len(report.results)} succeeded" if report.results else "there were none"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |\n|{' --- |' * len(header)}\n"
    for row in rows:
        yield f"| {' | '.join(row)} |\n"


def _trend_row(point: TrendPoint) -> tuple[str, ...]:
    started = code_span(point.started_at[:19].replace("T", " "))
    changes = (str(len(point.newly_failing)), str(len(point.newly_fixed)))
    return (started, f"{finite(point.duration):.1f}", str(point.total), percent(point.success_rate), *changes)


def _message(result: CaseResult) -> str:
    return code_span(shortened(result.message, _MESSAGE))


def _words(outcome: Outcome) -> str:
    return str(outcome).replace("_", " ")


def code_span(text: str) -> str:
    """Any text as code in one line of Markdown, fit for the cell of a table; empty for none."""
    line = visible_line(text)
    if not line.strip():
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def fenced(text: str) -> str:
    """Any text as a block of code in Markdown."""
    shown = visible(text).replace("\r\n", "\n").replace("\r", "\\x0d").rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}\n"


def _html(text: str) -> str:
    """Any text in one line of HTML; what is special in Markdown is a character reference as well."""
    return re.sub(r"[^\w\s./()-]|_", lambda found: f"&#{ord(found[0])};", visible_line(text))


# ---- log --------------------------------------------------------------------------------------------------------


def annotation_lines(report: RunReport, *, limit: int = ANNOTATIONS) -> tuple[str, ...]:
    """Commands to the runner that mark the lines where tests failed, one a line, to be printed to stdout.

    Args:
        report: The report.
        limit: Most errors; a notice says how many more there are. The same for flaky tests, which are warnings.
    """
    failures, flaky = report.failures, report.flaky
    lines = [_annotation("error", each, _what_happened(each)) for each in failures[:limit]]
    if len(failures) > limit:
        lines.append(f"::notice::{len(failures) - limit} more tests did not succeed")
    for each in flaky[:limit]:
        lines.append(_annotation("warning", each, f"flaky: succeeded on attempt {each.attempts}"))
    return tuple(lines)


def harmless_log(text: str) -> str:
    """Text of tests such that no line of it is a command to the runner, when it is printed to a log.

    A zero-width space is put where a command would begin.
    """
    without_old = text.replace("##[", "#\u200b#[")
    return re.sub(r"^(\s*):(?=:)", "\\1:\u200b", re.sub("\r(?!\n)", "\n", without_old), flags=re.MULTILINE)


def _annotation(kind: str, result: CaseResult, message: str) -> str:
    properties = {"title": shortened(result.id, 200)}
    if result.file:
        properties = {"file": result.file, **({"line": str(result.line)} if result.line else {}), **properties}
    joined = ",".join(f"{name}={visible(value).translate(_ESCAPED_PROPERTY)}" for name, value in properties.items())
    return f"::{kind} {joined}::{visible(message).translate(_ESCAPED)}"


def _what_happened(result: CaseResult) -> str:
    words = _words(result.outcome)
    return f"{words}: {shortened(result.message, 1000)}" if result.message else words
