"""JUnit XML of several dialects is read, and nothing that is no JUnit XML does more than raise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.errors import ReportFormatError
from ipybox.testrun import foreign_cases, junit_reader
from ipybox.testrun.junit import to_junit
from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import Outcome
from tests.testrun.reports import REPORTS

DATA = Path(__file__).parent / "data"
SUREFIRE = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="3.0" name="com.example.SumTest" time="1,021.5"
  tests="5" errors="1" skipped="1" failures="1">
  <properties><property name="java.version" value="21"/></properties>
  <testcase name="adds" classname="com.example.SumTest" time="1,020.25"/>
  <testcase name="fails" classname="com.example.SumTest" time="0.01">
    <failure message="expected: &lt;1&gt; but was: &lt;2&gt;" type="org.opentest4j.AssertionFailedError"><![CDATA[stack
  at com.example]]></failure>
    <rerunFailure message="again" type="x"><system-out>not this</system-out></rerunFailure>
    <system-out><![CDATA[said]]></system-out>
  </testcase>
  <testcase name="breaks" classname="com.example.SumTest" time="0.01">
    <error type="java.lang.IllegalStateException">java.lang.IllegalStateException: no</error>
  </testcase>
  <testcase name="waits" classname="com.example.SumTest"><skipped message="later"/></testcase>
  <testcase name="wavers" classname="com.example.SumTest">
    <flakyFailure message="timing" type="x"><stackTrace>t</stackTrace></flakyFailure>
  </testcase>
</testsuite>"""
GOTESTSUM = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="2" errors="0" time="0.5">
  <testsuite tests="3" failures="2" time="0.001" name="example.com/sum" timestamp="2026-01-01T00:00:00Z">
    <properties><property name="go.version" value="go1.22"></property></properties>
    <testcase classname="example.com/sum" name="TestAdd" time="0.000000"></testcase>
    <testcase classname="example.com/sum" name="TestAdd/negative" time="0.000000">
      <failure message="Failed" type="">=== RUN   TestAdd/negative&#xA;    sum_test.go:9: -1&#xA;</failure>
    </testcase>
    <testcase classname="" name="TestMain" time="0.000000"><failure message="Failed" type="">build</failure></testcase>
  </testsuite>
</testsuites>"""


def _outcomes(data: bytes) -> dict[str, str]:
    return {each.id: str(each.outcome) for each in junit_reader.read(data)}


def test_pytest() -> None:
    assert _outcomes((DATA / "pytest-9-junit.xml").read_bytes()) == {
        "test_a.TestB::test_ok": "passed",
        "test_a.TestB::test_fail": "failed",
        "test_a.TestB::test_skip": "skipped",
        "test_a.TestB::test_xfail": "xfailed",
        "test_a::test_error": "failed",
        "test_a::test_error (2)": "error",
        'test_a::test_param[a<b&"c]': "passed",
    }


def test_jest_junit() -> None:
    found = {each.id: each for each in junit_reader.read((DATA / "jest-junit-16.xml").read_bytes())}
    assert [name for name, each in found.items() if each.outcome is Outcome.FAILED] == [
        "sum is wrong",
        "sum throws",
        "needs it",
        "needs it too",
    ]
    assert found["sum is skipped"].outcome is Outcome.SKIPPED
    assert found["sum throws"].message == 'TypeError: no <b>&"'
    assert "sum.test.js:6" in found["sum throws"].details


def test_surefire() -> None:
    adds, fails, breaks, waits, wavers = junit_reader.read(SUREFIRE)
    assert (adds.id, adds.outcome, adds.duration) == ("com.example.SumTest::adds", Outcome.PASSED, 1020.25)
    assert (fails.outcome, fails.phase) == (Outcome.FAILED, "call")
    assert (fails.message, fails.stdout) == ("expected: <1> but was: <2>", "said")
    assert fails.details == "stack\n  at com.example"
    assert (breaks.outcome, breaks.message) == (Outcome.ERROR, "java.lang.IllegalStateException")
    assert (waits.outcome, waits.message) == (Outcome.SKIPPED, "later")
    assert (wavers.outcome, wavers.flaky, wavers.message) == (Outcome.PASSED, True, "first it failed: timing")


def test_gotestsum() -> None:
    assert _outcomes(GOTESTSUM) == {
        "example.com/sum::TestAdd": "passed",
        "example.com/sum::TestAdd/negative": "failed",
        "example.com/sum::TestMain": "failed",
    }


def test_what_others_say_in_an_attribute() -> None:
    cases = "".join(
        f'<testcase name="{status}" {name}="{status}"/>'
        for name, status in (("status", "notrun"), ("result", "skipped"), ("status", "failed"), ("status", "run"))
    )
    assert _outcomes(f"<testsuite>{cases}</testsuite>".encode()) == {
        "notrun": "skipped",
        "skipped": "skipped",
        "failed": "failed",
        "run": "passed",
    }


def test_nested_suites_and_the_file_of_a_suite() -> None:
    data = b'<testsuites><testsuite name="a" file="a.c"><testsuite name="b"><testcase name="c" line="3"/></testsuite>'
    (found,) = junit_reader.read(data + b"<testcase name='d' file='x.c'/></testsuite></testsuites>")[1:]
    assert (found.id, found.file) == ("a::d", "x.c")


def test_failures_that_are_counted_and_not_shown_are_an_error() -> None:
    data = b'<testsuites failures="2"><testsuite name="s" tests="1" failures="1" errors="1"><testcase name="a"/>'
    found = junit_reader.read(data + b"</testsuite></testsuites>")
    assert [(each.id, each.outcome) for each in found] == [("s::a", Outcome.PASSED), ("s", Outcome.ERROR)]
    assert found[1].message == "it counts 2 failures and errors, and shows 0"


def test_what_ipybox_writes_is_read_again() -> None:
    report = RunReport.from_dict(
        {"results": [{"id": "t.py::a", "outcome": "passed"}, {"id": "t.py::b", "outcome": "crashed"}]}
        | {"not_run": [], "notes": []}
    )
    assert _outcomes(to_junit(report).encode()) == {"t::a": "passed", "t::b": "error"}


@given(REPORTS)
def test_whatever_ipybox_writes_can_be_read(report: RunReport) -> None:
    found = junit_reader.read(to_junit(report).encode())
    assert len(found) == len(report.results)
    assert sum(not each.outcome.is_success for each in found) == len(report.failures)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no XML",
        b"<testsuite>",
        b"<testsuite></testsuites>",
        b"<html/>",
        b"<testsuite/><testsuite/>",
        b"<!DOCTYPE testsuite><testsuite/>",
        b'<!DOCTYPE t [<!ENTITY a "b">]><testsuite><testcase name="&a;"/></testsuite>',
        b'<!DOCTYPE t SYSTEM "file:///etc/passwd"><testsuite/>',
        b"<testsuite><testcase name='&undefined;'/></testsuite>",
        b"<?xml version='1.0' encoding='nonsense'?><testsuite/>",
        b"<testsuite>" * 1000,
        b"<testsuite><testcase>" + b"<a>" * 1000,
        b"<testsuite>\xff\xfe</testsuite>",
        b"<testsuite>\x00</testsuite>",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_nonsense_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(ReportFormatError, match="JUnit XML"):
        junit_reader.read(data)


def test_a_report_of_any_length_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit_reader, "MOST_BYTES", 100)
    with pytest.raises(ReportFormatError, match="longer than 100 bytes"):
        junit_reader.read(b"<testsuite/>" + b" " * 100)
    monkeypatch.setattr(junit_reader, "MOST_CASES", 1)
    with pytest.raises(ReportFormatError, match="more than 1"):
        junit_reader.read(b"<testsuite><testcase/><testcase/></testsuite>")


def test_long_texts_are_cut() -> None:
    text = b"x" * 1_000_000
    (found,) = junit_reader.read(
        b'<testsuite><testcase name="' + text + b'"><failure>' + text + b"</failure></testcase></testsuite>"
    )
    assert len(found.id) == 2000
    assert len(found.details) < 70_000


_PARTS = st.sampled_from(
    [
        *(f"<{end}{name}{more}>" for name in ("testsuites", "testsuite", "testcase", "failure", "skipped", "system-out")
          for end in ("", "/") for more in ("", ' name="x"', ' time="nan" failures="99999999999" line="-1"')),
        "<testcase/>",
        "<!DOCTYPE a>",
        "&lt;",
        "&a;",
        "<![CDATA[",
        "]]>",
        "text",
    ]
)  # fmt: skip


@given(st.binary() | st.lists(_PARTS).map(lambda parts: f"<testsuite>{''.join(parts)}</testsuite>".encode()))
def test_whatever_is_read_there_is_nothing_but_a_typed_error(data: bytes) -> None:
    try:
        found = junit_reader.read(data)
    except ReportFormatError:
        return
    assert len({each.id for each in found}) == len(found)
    assert all(0 <= each.duration < 1e10 for each in found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.5", 1.5),
        ("1,000.5", 1000.5),
        ("-1", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("x", 0.0),
        (None, 0.0),
        (2, 2.0),
        ("1e300", 1e9),
        ([], 0.0),
        ("9" * 5000, 0.0),
    ],
)
def test_a_duration_is_a_number_that_can_be_counted_with(value: object, expected: float) -> None:
    assert foreign_cases.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7),
        (7, 7),
        ("0", None),
        (0, None),
        (-1, None),
        (True, None),
        ("x", None),
        ("9" * 5000, None),
        (10**18, None),
        (1.5, None),
        ("\u0663", None),
    ],
)
def test_a_line_number_is_one_or_there_is_none(value: object, expected: int | None) -> None:
    assert foreign_cases.line_number(value) == expected
