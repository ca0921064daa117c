"""Results are values that survive being written down."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given

from ipybox.testrun.model import FORMAT, CaseResult, RunReport
from ipybox.testrun.outcome import Outcome
from tests.testrun.reports import CASES, REPORTS, case, report


def _comparable(value: Any) -> Any:
    """The same with every NaN replaced by what equals itself."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dict):
        return {name: _comparable(each) for name, each in value.items()}
    return [_comparable(each) for each in value] if isinstance(value, (list, tuple)) else value


@given(CASES)
def test_a_result_comes_back_from_json_as_it_was(result: CaseResult) -> None:
    again = CaseResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert _comparable(again.to_dict()) == _comparable(result.to_dict())
    assert type(again.outcome) is Outcome


@given(REPORTS)
def test_a_report_comes_back_from_json_as_it_was(found: RunReport) -> None:
    again = RunReport.from_dict(json.loads(json.dumps(found.to_dict())))
    assert _comparable(again.to_dict()) == _comparable(found.to_dict())
    assert (again.counts, again.exit_code) == (found.counts, found.exit_code)
    assert (type(again.results), type(again.not_run), type(again.notes)) == (tuple, tuple, tuple)


def test_what_a_later_version_adds_is_left_out() -> None:
    data = report(case("a", Outcome.FAILED)).to_dict()
    data["later"] = data["results"][0]["later"] = 1
    assert RunReport.from_dict(data) == report(case("a", Outcome.FAILED))


@pytest.mark.parametrize("name", ["id", "outcome"])
def test_a_result_without_a_name_or_an_outcome_is_none(name: str) -> None:
    data = case("a").to_dict()
    del data[name]
    with pytest.raises((KeyError, TypeError)):
        CaseResult.from_dict(data)


def test_an_outcome_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="splendid"):
        CaseResult.from_dict({**case("a").to_dict(), "outcome": "splendid"})


def test_a_report_says_in_json_what_else_is_to_be_known() -> None:
    data = report(case("a"), case("b", Outcome.FAILED), case("c"), not_run=("d",)).to_dict()
    assert data["format"] == FORMAT
    assert data["summary"] == {"total": 3, "passed": 2, "failed": 1}
    assert data["exit_code"] == 1
    assert data["not_run"] == ["d"]


def test_a_report_counts_and_sorts() -> None:
    results = [case("a"), case("b", Outcome.TIMEOUT), case("c", flaky=True), case("d", Outcome.CRASHED)]
    found = report(*results)
    assert found.counts == {Outcome.PASSED: 2, Outcome.TIMEOUT: 1, Outcome.CRASHED: 1}
    assert list(found.counts) == [Outcome.PASSED, Outcome.TIMEOUT, Outcome.CRASHED]
    assert found.failures == (results[1], results[3])
    assert found.flaky == (results[2],)
