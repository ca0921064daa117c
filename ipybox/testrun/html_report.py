"""A report as one page of HTML that needs nothing else: no script, no other file, no network. Floor: testrun.

What tests wrote is shown as text, and even if that went wrong once, the page's policy lets nothing be loaded or run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ipybox.testrun.html_style import STYLE
from ipybox.testrun.html_trend import trend_html
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import ExitCode, Outcome
from ipybox.testrun.seconds import finite, shown
from ipybox.testrun.trend import TrendPoint
from ipybox.testrun.visible_text import shortened, visible, visible_line

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_LOOKS: dict[Outcome, tuple[str, str]] = {
    Outcome.PASSED: ("good", "✓"),
    Outcome.FAILED: ("bad", "✗"),
    Outcome.ERROR: ("bad", "✗"),
    Outcome.SKIPPED: ("quiet", "○"),
    Outcome.XFAILED: ("quiet", "✓"),
    Outcome.XPASSED: ("warn", "✓"),
    Outcome.TIMEOUT: ("bad", "✗"),
    Outcome.CRASHED: ("bad", "✗"),
    Outcome.OUT_OF_MEMORY: ("bad", "✗"),
    Outcome.INFRASTRUCTURE_ERROR: ("bad", "!"),
}
"""How each outcome looks: the class of its colour, and a sign for who does not see that."""

_WORDS = {Outcome.XFAILED: "failed as expected", Outcome.XPASSED: "passed unexpectedly"}

_ID = 500
_MESSAGE = 1_000
_IN_TABLE = 200
_TEXTS = (("details", "Details", 30_000), ("stdout", "Output", 10_000), ("stderr", "Errors it wrote", 10_000))
_ALL_TEXTS = 4_000_000
"""Characters of tests' texts in one page. What comes after that is left out, which is said."""

_DETAILED = 500
_OPEN = 5
_SLOWEST = 10
_NOT_RUN = 1_000
_NOTES = 100


def to_html(report: RunReport, trend: Sequence[TrendPoint] = ()) -> str:
    """The page, to be written as UTF-8.

    Long texts are shortened in the middle, and a run with very many failures shows the texts of the first of them; all
    results are in the table at the end.

    Args:
        report: The report.
        trend: The last runs, the latest last.
    """
    return "".join(_page(report, trend))


def _page(report: RunReport, trend: Sequence[TrendPoint]) -> Iterator[str]:
    look, sign, words = _verdict(report)
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{sign} {words} - test report</title>\n<style>{STYLE}{_filter_style(report)}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Go to the results</a>\n<header>\n<h1>Test report</h1>\n'
        f'<p class="verdict {look}"><span aria-hidden="true">{sign}</span> {words}</p>\n'
    )
    yield _counts(report)
    yield _facts(report)
    yield _navigation(report, trend)
    yield '</header>\n<main id="main">\n'
    yield from _notes(report)
    yield from _failures(report)
    yield from _flaky(report)
    yield from _not_run(report)
    yield from _slowest(report)
    if trend:
        yield f'<section aria-labelledby="trend"><h2 id="trend">The last runs</h2>\n{trend_html(trend)}\n</section>\n'
    yield from _all_results(report)
    yield "</main>\n</body>\n</html>\n"


# ---- top of the page --------------------------------------------------------------------------------------------


def _verdict(report: RunReport) -> tuple[str, str, str]:
    total, failed = len(report.results), len(report.failures)
    if report.interrupted:
        return "bad", "!", "Stopped before the end"
    if report.exit_code is ExitCode.INTERNAL_ERROR:
        return "bad", "!", f"No verdict: {_tests(report.counts[Outcome.INFRASTRUCTURE_ERROR])} could not be run"
    if failed:
        return "bad", "✗", f"{failed} of {_tests(total)} did not succeed"
    if not total:
        return "warn", "!", "There were no tests"
    if report.not_run:
        return "warn", "!", f"All of {_tests(total)} succeeded, {len(report.not_run)} were not run"
    return "good", "✓", f"{_tests(total)} succeeded"


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _counts(report: RunReport) -> str:
    items = [
        f'<li class="{_LOOKS[outcome][0]}"><b>{count}</b> <span aria-hidden="true">{_LOOKS[outcome][1]}</span> '
        f"{_words(outcome)}</li>"
        for outcome, count in report.counts.items()
    ]
    if report.flaky:
        items.append(f'<li class="warn"><b>{len(report.flaky)}</b> <span aria-hidden="true">↻</span> flaky</li>')
    if report.not_run:
        items.append(f'<li class="warn"><b>{len(report.not_run)}</b> <span aria-hidden="true">○</span> not run</li>')
    return f'<ul class="counts" aria-label="Counts">{"".join(items)}</ul>\n' if items else ""


def _facts(report: RunReport) -> str:
    cached = sum(result.cached for result in report.results)
    facts = {
        "Started": visible_line(report.started_at)[:19].replace("T", " ") + " UTC" if report.started_at else "",
        "Duration": shown(report.duration),
        "Framework": report.framework,
        "Python": report.python,
        "Isolation": f"one sandbox for each {report.isolation}, {report.workers} at a time at most",
        "From the cache": f"{cached}" if cached else "",
        "Deselected": f"{report.deselected}" if report.deselected else "",
        "Stopped": report.stopped,
        "Project": report.root,
    }
    items = "".join(f"<dt>{name}<dd>{_line(value, _ID)}\n" for name, value in facts.items() if value)
    return f'<dl class="facts">{items}</dl>\n'


def _navigation(report: RunReport, trend: Sequence[TrendPoint]) -> str:
    places = {
        "failures": f"Failures ({len(report.failures)})" if report.failures else "",
        "flaky": f"Flaky ({len(report.flaky)})" if report.flaky else "",
        "not-run": f"Not run ({len(report.not_run)})" if report.not_run else "",
        "slowest": "Slowest" if report.results else "",
        "trend": "The last runs" if trend else "",
        "results": f"All results ({len(report.results)})" if report.results else "",
    }
    items = "".join(f'<li><a href="#{place}">{text}</a></li>' for place, text in places.items() if text)
    return f'<nav aria-label="Sections"><ul>{items}</ul></nav>\n' if items else ""


def _notes(report: RunReport) -> Iterator[str]:
    if report.notes:
        yield '<section aria-labelledby="notes"><h2 id="notes">Notes</h2>\n'
        yield from (f'<p class="note">{_line(note, _MESSAGE)}</p>\n' for note in report.notes[:_NOTES])
        yield "</section>\n"


# ---- failures ---------------------------------------------------------------------------------------------------


def _failures(report: RunReport) -> Iterator[str]:
    if not report.failures:
        return
    yield '<section aria-labelledby="failures"><h2 id="failures">Failures</h2>\n'
    left = _ALL_TEXTS
    for number, result in enumerate(report.failures[:_DETAILED]):
        is_open = " open" if number < _OPEN else ""
        yield f'<details class="failure"{is_open}><summary>{_badge(result.outcome)} '
        yield f'<h3 class="id">{_line(result.id, _ID)}</h3><span class="line">{_circumstances(result)}</span></summary>'
        yield "<div>\n"
        if result.message:
            yield f'<p class="message id">{_line(result.message, _MESSAGE)}</p>\n'
        for name, title, size in _TEXTS:
            text = getattr(result, name)
            if text and left <= 0:
                yield f'<p class="quiet">{title}: left out, as this report is large</p>\n'
            elif text:
                kept = visible(shortened(text, min(size, max(left, 100))))
                left -= len(kept)
                # A parser drops a line end at the very beginning, so that is ours.
                yield f'<h4>{title}</h4><pre tabindex="0">\n{escape(kept)}</pre>\n'
        yield "</div></details>\n"
    if len(report.failures) > _DETAILED:
        yield f"<p>... and {len(report.failures) - _DETAILED} more, which the table of all results has.</p>\n"
    yield "</section>\n"


def _circumstances(result: CaseResult) -> str:
    facts = [shown(result.duration)]
    if result.phase and result.phase != "call":
        facts.append(f"in {result.phase}")
    if result.signal is not None:
        facts.append(f"signal {result.signal}")
    if result.exit_code is not None:
        facts.append(f"exit code {result.exit_code}")
    if result.attempts > 1:
        facts.append(f"{result.attempts} attempts")
    if result.file:
        facts.append(result.file if result.line is None else f"{result.file}:{result.line}")
    return _line(" · ".join(facts), _ID)


def _badge(outcome: Outcome) -> str:
    look, sign = _LOOKS[outcome]
    return f'<b class="{look}"><span aria-hidden="true">{sign}</span> {_words(outcome)}</b>'


# ---- lists and tables -------------------------------------------------------------------------------------------


def _flaky(report: RunReport) -> Iterator[str]:
    if report.flaky:
        yield '<section aria-labelledby="flaky"><h2 id="flaky">Flaky</h2>\n'
        yield "<p>These succeeded only on a later attempt.</p>\n"
        rows = ((_named(each, 0), str(each.attempts)) for each in report.flaky[:_DETAILED])
        yield from _table("Tests and how often each was run", ("Test", "Attempts"), rows)
        yield "</section>\n"


def _not_run(report: RunReport) -> Iterator[str]:
    if report.not_run:
        yield '<section aria-labelledby="not-run"><h2 id="not-run">Not run</h2>\n'
        yield f"<p>{_line(report.stopped, _MESSAGE) or 'The run was stopped.'}</p>\n"
        yield f'<details class="more"><summary>{_tests(len(report.not_run))}</summary><ul>\n'
        yield from (f'<li class="id">{_line(each, _ID)}\n' for each in report.not_run[:_NOT_RUN])
        if len(report.not_run) > _NOT_RUN:
            yield f"<li>... and {len(report.not_run) - _NOT_RUN} more\n"
        yield "</ul></details></section>\n"


def _slowest(report: RunReport) -> Iterator[str]:
    ran = [result for result in report.results if not result.cached]
    slowest = sorted(ran, key=lambda result: -finite(result.duration))[:_SLOWEST]
    if slowest:
        yield '<section aria-labelledby="slowest"><h2 id="slowest">Slowest</h2>\n'
        rows = ((_named(each, 0), f"{finite(each.duration):.3f}") for each in slowest)
        yield from _table("Tests that took the longest", ("Test", "Seconds"), rows)
        yield "</section>\n"


def _table(caption: str, header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f'<table><caption>{caption}</caption><thead><tr><th scope="col">{header[0]}</th>'
    yield f'<th scope="col" class="n">{header[1]}</th></tr></thead><tbody>\n'
    yield from (f'<tr><td>{name}<td class="n">{value}\n' for name, value in rows)
    yield "</tbody></table>\n"


def _all_results(report: RunReport) -> Iterator[str]:
    if not report.results:
        return
    yield '<section id="results" aria-labelledby="results-title"><h2 id="results-title">All results</h2>\n'
    yield _filter(report)
    yield '<table><caption>In the order in which the tests were collected</caption><thead><tr><th scope="col">Outcome'
    yield '</th><th scope="col">Test</th><th scope="col" class="n">Seconds</th></tr></thead><tbody>\n'
    for result in report.results:
        look, sign = _LOOKS[result.outcome]
        kind = f"{result.outcome} flaky" if result.flaky else str(result.outcome)
        yield f'<tr class="{kind}"><td class="o {look}">{sign} {_words(result.outcome)}<td>{_named(result, _IN_TABLE)}'
        yield f'<td class="n">{finite(result.duration):.3f}\n'
    yield "</tbody></table></section>\n"


def _named(result: CaseResult, message: int) -> str:
    """A test's name, with up to so many characters of its message and what else is special."""
    remarks = []
    if message:
        if result.flaky:
            remarks.append(f"flaky, {result.attempts} attempts")
        if result.cached:
            remarks.append("from the cache")
        if result.message:
            remarks.append(shortened(result.message, message))
    small = f"<small>{_line(' · '.join(remarks), _MESSAGE)}</small>" if remarks else ""
    return f'<span class="id">{_line(result.id, _ID)}</span>{small}'


def _choices(report: RunReport) -> Iterator[tuple[str, str, int]]:
    """What the table can be narrowed to: a class of rows, its name, and how many there are."""
    if len(report.counts) > 1:
        for outcome, count in report.counts.items():
            yield str(outcome), _words(outcome), count
    if report.flaky:
        yield "flaky", "flaky", len(report.flaky)


def _filter(report: RunReport) -> str:
    labels = [f'<label><input type="radio" name="show" checked> all ({len(report.results)})</label>']
    labels += [
        f'<label><input type="radio" name="show" id="only-{kind}"> {words} ({count})</label>'
        for kind, words, count in _choices(report)
    ]
    if len(labels) == 1:
        return ""
    return f'<fieldset><legend>Show</legend><div class="filter">{"".join(labels)}</div></fieldset>\n'


def _filter_style(report: RunReport) -> str:
    return "".join(
        f"#results:has(#only-{kind}:checked) tbody tr:not(.{kind}) {{ display: none; }}\n"
        for kind, _, _ in _choices(report)
    )


def _words(outcome: Outcome) -> str:
    return _WORDS.get(outcome, str(outcome).replace("_", " "))


def _line(text: str, size: int) -> str:
    return escape(visible_line(shortened(text, size)))
