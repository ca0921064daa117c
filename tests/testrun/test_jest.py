"""The JSON of jest is read; the file in ``data`` was written by jest 29.7.0, with its paths changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.errors import ReportFormatError
from ipybox.testrun import jest
from ipybox.testrun.outcome import Outcome

REAL = (Path(__file__).parent / "data" / "jest-29.7.0.json").read_bytes()


def _report(*tests: dict[str, Any], suite: dict[str, Any] | None = None, **facts: Any) -> bytes:
    one = {"name": "/p/a.test.js", "status": "passed", "assertionResults": list(tests), **(suite or {})}
    return json.dumps({"testResults": [one], **facts}).encode()


def test_a_real_report() -> None:
    found = {each.id: each for each in jest.read(REAL, "/project")}
    assert {name: str(each.outcome) for name, each in found.items()} == {
        "src/sum.test.js::sum::adds": "passed",
        "src/sum.test.js::sum::is wrong": "failed",
        "src/sum.test.js::sum::is skipped": "skipped",
        "src/sum.test.js::sum::subtracts": "skipped",
        "src/sum.test.js::sum::throws": "failed",
        "src/sum.test.js::sum::inner::is known to fail": "passed",
        "src/hook.test.js::needs it": "failed",
        "src/hook.test.js::needs it too": "failed",
        "src/retried.test.js::works at last": "passed",
        "src/broken.test.js": "error",
    }
    assert found["src/sum.test.js::sum::throws"].message == 'TypeError: no <b>&"'
    assert "Received: 3" in found["src/sum.test.js::sum::is wrong"].details
    assert found["src/sum.test.js::sum::subtracts"].message == "todo"
    assert found["src/retried.test.js::works at last"].flaky
    assert found["src/broken.test.js"].message.startswith("Cannot find module './nowhere'")
    assert found["src/broken.test.js"].phase == "collect"
    assert found["src/sum.test.js::sum::throws"].duration == 0.003


def test_files_outside_of_the_root_keep_their_names() -> None:
    assert jest.read(REAL, "/elsewhere")[0].file == "/project/src/sum.test.js"


def test_a_test_with_a_place() -> None:
    (found,) = jest.read(_report({"title": "a", "status": "passed", "location": {"line": 7, "column": 1}}), "/p")
    assert (found.id, found.file, found.line) == ("a.test.js::a", "a.test.js", 7)


def test_an_unknown_status_is_an_error() -> None:
    (found,) = jest.read(_report({"title": "a", "status": "levitating"}))
    assert (found.outcome, found.message) == (Outcome.ERROR, "its status is 'levitating'")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"numFailedTests": 1}, "it counts 1 failures, and shows 0"),
        ({"success": False}, "it says that it is no success"),
        ({"wasInterrupted": True, "success": True}, "jest was interrupted"),
    ],
)
def test_a_report_that_does_not_agree_with_itself_is_an_error(facts: dict[str, Any], message: str) -> None:
    good, found = jest.read(_report({"title": "a", "status": "passed"}, **facts))
    assert (good.outcome, found.outcome, found.message) == (Outcome.PASSED, Outcome.ERROR, message)


def test_a_file_that_failed_without_a_test_that_did_is_an_error() -> None:
    _, found = jest.read(
        _report({"title": "a", "status": "passed"}, suite={"status": "failed", "message": "● x\n\nno"})
    )
    assert (found.id, found.outcome, found.message) == ("/p/a.test.js", Outcome.ERROR, "no")


def test_tests_of_the_same_name_are_told_apart() -> None:
    test = {"title": "a", "status": "passed"}
    assert [each.id for each in jest.read(_report(test, test, test))] == [
        "/p/a.test.js::a",
        "/p/a.test.js::a (2)",
        "/p/a.test.js::a (3)",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"testResults": {}}',
        b'{"testResults": [1]}',
        b"[" * 100_000,
        b"\xff",
        b"9" * 5000,
        b'{"testResults": [{"assertionResults": [1]}]}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_nonsense_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(ReportFormatError, match="the JSON of jest"):
        jest.read(data)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jest, "MOST_CASES", 1)
    with pytest.raises(ReportFormatError, match="more than 1 test"):
        jest.read(REAL)
    monkeypatch.setattr(jest, "MOST_BYTES", 1)
    with pytest.raises(ReportFormatError, match="longer than 1 bytes"):
        jest.read(REAL)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_TESTS = st.fixed_dictionaries(
    {},
    optional={
        name: _ANYTHING | st.sampled_from(["passed", "failed", "todo"])
        for name in ("title", "ancestorTitles", "status", "duration", "failureMessages", "invocations", "location")
    },
)
_SUITES = st.fixed_dictionaries(
    {},
    optional={
        "name": _ANYTHING,
        "status": _ANYTHING | st.just("failed"),
        "message": _ANYTHING,
        "assertionResults": _ANYTHING | st.lists(_TESTS),
    },
)
_REPORTS = st.fixed_dictionaries(
    {"testResults": _ANYTHING | st.lists(_SUITES)},
    optional=dict.fromkeys(("success", "wasInterrupted", "numFailedTests", "numRuntimeErrorTestSuites"), _ANYTHING),
)


@given(st.binary() | (_ANYTHING | _REPORTS).map(lambda report: json.dumps(report).encode()))
def test_whatever_is_read_there_is_nothing_but_a_typed_error(data: bytes) -> None:
    try:
        found = jest.read(data, "/p")
    except ReportFormatError:
        return
    assert len({each.id for each in found}) == len(found)
    assert all(0 <= each.duration < 1e10 for each in found)
