"""Reports for the tests of what is done with them, ordinary ones and nasty ones."""

from __future__ import annotations

from hypothesis import strategies as st

from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import Outcome

NASTY = "</script><script>alert(1)</script> & \"'`|]]> \x1b[31m\x00\udcff\ufffe\u202e ::error::x %0A ##[error] @all"
"""Ends, begins or breaks something in each of the formats that results are written in."""

TEXT = st.text(st.characters() | st.sampled_from("<>&\"'`|[]:,%\\\r\n\t\x00\x1b\udcff\ufffe\u202e\u2028"), max_size=30)

CASES = st.builds(
    CaseResult,
    id=TEXT,
    outcome=st.sampled_from(Outcome),
    phase=st.sampled_from(["", "collect", "setup", "call", "teardown"]),
    message=TEXT,
    details=TEXT,
    stdout=TEXT,
    stderr=TEXT,
    duration=st.floats(),
    file=TEXT,
    line=st.none() | st.integers(1, 10_000),
    signal=st.none() | st.integers(1, 64),
    exit_code=st.none() | st.integers(0, 255),
    attempts=st.integers(0, 4),
    flaky=st.booleans(),
    cached=st.booleans(),
)
REPORTS = st.builds(
    RunReport,
    results=st.lists(CASES, max_size=4).map(tuple),
    not_run=st.lists(TEXT, max_size=2).map(tuple),
    started_at=TEXT,
    duration=st.floats(),
    interrupted=st.booleans(),
    stopped=TEXT,
    framework=TEXT,
    python=TEXT,
    root=TEXT,
    notes=st.lists(TEXT, max_size=2).map(tuple),
)


def case(name: str, outcome: Outcome = Outcome.PASSED, **facts: object) -> CaseResult:
    """The result of ``tests/test_a.py::NAME``."""
    defaults: dict[str, object] = {"id": f"tests/test_a.py::{name}", "file": "tests/test_a.py", "line": 7}
    if not outcome.is_success:
        defaults |= {"message": f"it is {outcome}", "details": f"Traceback of {name}\nE   assert 1 == 2"}
    return CaseResult(**{**defaults, "outcome": outcome, "duration": 0.25, **facts})  # type: ignore[arg-type]


def report(*results: CaseResult, **facts: object) -> RunReport:
    defaults: dict[str, object] = {
        "started_at": "2026-03-01T12:00:00+00:00",
        "duration": 12.5,
        "framework": "pytest 9.0.1",
        "python": "3.11.7",
        "workers": 4,
    }
    return RunReport(**{**defaults, "results": results, **facts})  # type: ignore[arg-type]


def one_of_each() -> RunReport:
    """A run with a test of each outcome, and one that is flaky."""
    results = [case(f"test_{outcome}", outcome) for outcome in Outcome]
    return report(*results, case("test_flaky", attempts=2, flaky=True))
