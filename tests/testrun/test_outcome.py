"""What becomes of tests decides how a run exits."""

from __future__ import annotations

import pytest

from ipybox.testrun.outcome import ExitCode, Outcome, exit_code

SUCCESSES = {Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.XPASSED}


@pytest.mark.parametrize("outcome", Outcome)
def test_a_run_succeeds_with_these_outcomes_only(outcome: Outcome) -> None:
    assert outcome.is_success == (outcome in SUCCESSES)
    assert (exit_code([outcome], interrupted=False) == ExitCode.OK) == (outcome in SUCCESSES)


def test_one_failure_among_successes_fails_the_run() -> None:
    assert exit_code([*SUCCESSES, Outcome.TIMEOUT], interrupted=False) == 1


def test_a_run_without_a_verdict_is_no_run_with_failures() -> None:
    assert exit_code([Outcome.FAILED, Outcome.INFRASTRUCTURE_ERROR], interrupted=False) == 3


@pytest.mark.parametrize("outcomes", [[], [Outcome.PASSED], [Outcome.FAILED], [Outcome.INFRASTRUCTURE_ERROR]])
def test_an_interrupted_run_says_so_whatever_it_found(outcomes: list[Outcome]) -> None:
    assert exit_code(outcomes, interrupted=True) == 2


def test_no_tests_are_no_success() -> None:
    assert exit_code([], interrupted=False) == 5


def test_the_numbers_are_those_of_pytest() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": pytest.ExitCode.OK,
        "TESTS_FAILED": pytest.ExitCode.TESTS_FAILED,
        "INTERRUPTED": pytest.ExitCode.INTERRUPTED,
        "INTERNAL_ERROR": pytest.ExitCode.INTERNAL_ERROR,
        "USAGE_ERROR": pytest.ExitCode.USAGE_ERROR,
        "NO_TESTS": pytest.ExitCode.NO_TESTS_COLLECTED,
    }
