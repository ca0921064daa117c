"""The trend as text lines up, and shares are never rounded to what they are not."""

from __future__ import annotations

import pytest

from ipybox.testrun.outcome import Outcome
from ipybox.testrun.seconds import finite, shown
from ipybox.testrun.trend import TrendPoint, percent, trend_table
from ipybox.testrun.visible_text import shortened, visible, visible_line
from tests.testrun.reports import NASTY

POINT = TrendPoint(
    run_id=1,
    started_at="2026-03-01T12:00:00+00:00",
    duration=12.34,
    counts={Outcome.PASSED: 8, Outcome.SKIPPED: 1, Outcome.TIMEOUT: 1},
    flaky=2,
    newly_failing=("a", "b"),
    newly_fixed=("c",),
)


def test_a_table_has_a_line_for_each_run_and_its_columns_line_up() -> None:
    table = trend_table([POINT, TrendPoint(run_id=2, started_at="", duration=100000.0)])
    header, first, second = table.splitlines()
    assert first.split() == ["2026-03-01", "12:00:00", "12.3", "10", "90%", "1", "2", "2", "1"]
    assert second.split() == ["-", "100000.0", "0", "-", "0", "0", "0", "0"]
    assert len(header) == len(first) == len(second)


def test_a_table_of_no_runs_is_empty() -> None:
    assert trend_table([]) == ""


def test_a_table_shows_control_characters_instead_of_sending_them_to_the_terminal() -> None:
    assert "\x1b" not in trend_table([TrendPoint(run_id=1, started_at=NASTY[-40:] + "\x1b[2J", duration=1)])


@pytest.mark.parametrize(
    ("rate", "text"),
    [(1.0, "100%"), (0.99999, "99.9%"), (0.5, "50%"), (2 / 3, "66.7%"), (0.0, "0%"), (None, "-")],
)
def test_only_all_of_it_is_a_hundred_percent(rate: float | None, text: str) -> None:
    assert percent(rate) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0351, "35 ms"),
        (0.9999, "1.00 s"),
        (1.2, "1.20 s"),
        (9.999, "10.0 s"),
        (59.999, "1 min 0 s"),
        (125, "2 min 5 s"),
        (7260, "2 h 1 min"),
        (float("nan"), "0 ms"),
        (float("inf"), "0 ms"),
        (-1, "0 ms"),
    ],
)
def test_seconds_are_shown_in_the_unit_that_people_use(value: float, text: str) -> None:
    assert shown(value) == text


def test_what_is_no_time_counts_as_none() -> None:
    assert [finite(value) for value in (float("nan"), float("-inf"), -0.5, 2)] == [0, 0, 0, 2]


def test_what_can_not_be_shown_is_shown_as_its_escape() -> None:
    assert visible("a\x1b[0m\t\r\n\udcff\ufffe\u202e\x85b") == "a\\x1b[0m\t\r\n\\udcff\\ufffe\\u202e\\x85b"
    assert visible_line("a\r\nb\u2028c\td") == "a b c d"


def test_a_shortened_text_keeps_its_beginning_and_more_of_its_end() -> None:
    text = "beginning" + "x" * 1000 + "AssertionError: at the end"
    short = shortened(text, 100)
    assert len(short) == 100
    assert short.startswith("beginning")
    assert short.endswith("AssertionError: at the end")
    assert shortened("as it is", 32) == "as it is"
