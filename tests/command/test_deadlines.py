"""When a command has had its time, on a clock that a test sets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.deadlines import Deadlines

START = 1000.0
TIMES = st.floats(0, 100).map(lambda seconds: START + seconds)
LIMITS = st.floats(0.1, 50)


def test_without_a_limit_on_silence_only_the_whole_time_counts() -> None:
    deadlines = Deadlines(START, 5.0)
    assert deadlines.expired(START + 4.999) is None
    assert deadlines.expired(START + 5.0) == "wall"


def test_silence_counts_from_the_start_and_from_each_output() -> None:
    deadlines = Deadlines(START, 60.0, 2.0)
    assert deadlines.expired(START + 1.9) is None
    assert deadlines.expired(START + 2.0) == "idle"
    deadlines.heard(START + 1.9)
    assert deadlines.expired(START + 3.8) is None
    assert deadlines.expired(START + 3.9) == "idle"


def test_output_does_not_lengthen_the_whole_time() -> None:
    deadlines = Deadlines(START, 5.0, 2.0)
    for second in range(1, 6):
        deadlines.heard(START + second)
    assert deadlines.expired(START + 5.0) == "wall"


def test_when_both_are_over_it_is_the_whole_time() -> None:
    assert Deadlines(START, 2.0, 2.0).expired(START + 2.0) == "wall"
    assert Deadlines(START, 2.0, 1.0).expired(START + 9.0) == "wall"


def test_who_is_held_may_be_silent_but_not_for_longer_than_the_whole_time() -> None:
    deadlines = Deadlines(START, 5.0, 1.0)
    deadlines.hold()
    assert deadlines.expired(START + 4.0) is None
    assert deadlines.expired(START + 5.0) == "wall"


def test_silence_begins_anew_when_somebody_listens_again() -> None:
    deadlines = Deadlines(START, 60.0, 1.0)
    deadlines.hold()
    deadlines.release(START + 10.0)
    assert deadlines.expired(START + 10.9) is None
    assert deadlines.expired(START + 11.0) == "idle"


def test_both_streams_can_be_held_at_once() -> None:
    deadlines = Deadlines(START, 60.0, 1.0)
    deadlines.hold()
    deadlines.hold()
    deadlines.release(START + 1.0)
    assert deadlines.expired(START + 9.0) is None
    deadlines.release(START + 9.0)
    assert deadlines.expired(START + 10.0) == "idle"


@pytest.mark.parametrize(
    ("idle", "now", "left"),
    [(None, 0.0, 5.0), (None, 4.0, 1.0), (None, 9.0, 0.0), (2.0, 0.0, 2.0), (2.0, 1.5, 0.5), (2.0, 4.0, 0.0)],
)
def test_what_is_left_is_until_the_first_of_them_and_never_negative(
    idle: float | None, now: float, left: float
) -> None:
    assert Deadlines(START, 5.0, idle).left(START + now) == left


@settings(deadline=None)
@given(LIMITS, st.none() | LIMITS, st.lists(TIMES, max_size=4), TIMES)
def test_whoever_waits_for_what_is_left_finds_one_of_them_over(
    wall: float, idle: float | None, heard: list[float], now: float
) -> None:
    deadlines = Deadlines(START, wall, idle)
    for moment in sorted(heard):
        deadlines.heard(moment)
    now = max([now, *heard])
    left = deadlines.left(now)
    assert (left == 0.0) == (deadlines.expired(now) is not None)
    assert deadlines.expired(now + left + 1e-6) is not None


@settings(deadline=None)
@given(LIMITS, LIMITS, TIMES)
def test_while_it_is_held_it_is_asked_again_before_the_whole_time_is_over(wall: float, idle: float, now: float) -> None:
    deadlines = Deadlines(START, wall, idle)
    deadlines.hold()
    assert 0.0 <= deadlines.left(now) <= max(0.0, START + wall - now)
    assert deadlines.expired(now) in (None, "wall")
