"""A report as the XML that CI systems read, in the shape of pytest's family ``xunit2``. Floor: testrun.

Beyond that family a test case has ``file`` and ``line``, which several systems use to show where a test is, and
properties for what the family has no word for. There is no DTD and no external entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape, quoteattr

from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.seconds import finite
from ipybox.testrun.visible_text import visible, visible_line

_SKIPS = {Outcome.SKIPPED: "pytest.skip", Outcome.XFAILED: "pytest.xfail"}
_SUCCESSES = (Outcome.PASSED, Outcome.XPASSED)


def to_junit(report: RunReport) -> str:
    """The XML document, with its declaration; to be written as UTF-8.

    What XML can't hold, such as control characters, is shown as ``\\x1b``. A test that was never run has no test case;
    how many these are is a property of the suite.
    """
    return "\n".join(_document(report)) + "\n"


def case_name(result: CaseResult) -> tuple[str, str]:
    """The ``classname`` and ``name`` of a test, as pytest makes them.

    ``tests/test_a.py::TestB::test_c[x::y]`` becomes ``tests.test_a.TestB`` and ``test_c[x::y]``.
    """
    path, bracket, parameters = result.id.partition("[")
    first, *rest = path.split("::")
    names = [first.removesuffix(".py").replace("/", "."), *rest]
    names[-1] += bracket + parameters
    return ".".join(names[:-1]), names[-1]


def _document(report: RunReport) -> Iterator[str]:
    counts = {
        "errors": sum(_element(each.outcome) == "error" for each in report.results),
        "failures": sum(_element(each.outcome) == "failure" for each in report.results),
        "skipped": sum(_element(each.outcome) == "skipped" for each in report.results),
        "tests": len(report.results),
    }
    suite = {"name": "ipybox", **counts, "time": _seconds(report.duration), "hostname": "ipybox"}
    if report.started_at:
        suite["timestamp"] = report.started_at
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield '<testsuites name="ipybox tests">'
    yield f"<testsuite{_attributes(suite)}>"
    yield _properties(_suite_properties(report))
    for result in report.results:
        yield _case(result)
    yield "</testsuite>"
    yield "</testsuites>"


def _case(result: CaseResult) -> str:
    classname, name = case_name(result)
    attributes: dict[str, object] = {"classname": classname, "name": name}
    if result.file:
        attributes["file"] = result.file
    if result.line is not None:
        attributes["line"] = result.line
    attributes["time"] = _seconds(result.duration)
    parts = [_properties(_case_properties(result)), _verdict(result)]
    for element, text in (("system-out", result.stdout), ("system-err", result.stderr)):
        if text:
            parts.append(f"<{element}>{_content(text)}</{element}>")
    body = "".join(parts)
    return f"<testcase{_attributes(attributes)}>{body}</testcase>" if body else f"<testcase{_attributes(attributes)} />"


def _element(outcome: Outcome) -> str:
    """What a test case says how it went with; empty for a success, which is said with nothing."""
    if outcome in _SKIPS:
        return "skipped"
    if outcome is Outcome.FAILED:
        return "failure"
    return "" if outcome in _SUCCESSES else "error"


def _verdict(result: CaseResult) -> str:
    element = _element(result.outcome)
    if not element:
        return ""
    attributes: dict[str, object] = {
        "type": _SKIPS.get(result.outcome, str(result.outcome)),
        "message": result.message or str(result.outcome).replace("_", " "),
    }
    return f"<{element}{_attributes(attributes)}>{_content(result.details)}</{element}>"


def _case_properties(result: CaseResult) -> Iterator[tuple[str, object]]:
    if result.outcome is Outcome.XPASSED:
        yield "outcome", "xpassed"
    if result.flaky:
        yield "flaky", "true"
    if result.attempts > 1:
        yield "attempts", result.attempts
    if result.cached:
        yield "cached", "true"
    if result.phase:
        yield "phase", result.phase
    if result.signal is not None:
        yield "signal", result.signal
    if result.exit_code is not None:
        yield "exit_code", result.exit_code


def _suite_properties(report: RunReport) -> Iterator[tuple[str, object]]:
    for name in ("framework", "python", "isolation", "workers"):
        if value := getattr(report, name):
            yield name, value
    if report.not_run:
        yield "not_run", len(report.not_run)
    if report.stopped:
        yield "stopped", report.stopped
    if report.interrupted:
        yield "interrupted", "true"
    for note in report.notes:
        yield "note", note


def _properties(pairs: Iterable[tuple[str, object]]) -> str:
    inner = "".join(f"<property{_attributes({'name': name, 'value': value})} />" for name, value in pairs)
    return f"<properties>{inner}</properties>" if inner else ""


def _attributes(attributes: dict[str, object]) -> str:
    return "".join(f" {name}={quoteattr(visible_line(str(value)))}" for name, value in attributes.items())


def _content(text: str) -> str:
    # A reader of XML makes a line end of a bare carriage return, which would lose it.
    return escape(visible(text), {"\r": "&#13;"})


def _seconds(value: float) -> str:
    return f"{finite(value):.3f}"
