"""Text that comes after the end is kept by execution, the newest of it."""

from __future__ import annotations

from ipybox.kernel_mgr.late_output import LateOutput

LIMIT = 4 * 1024 * 1024


def test_text_is_kept_by_execution_and_in_order() -> None:
    late = LateOutput()
    for owner, text in [("a", "1"), ("b", "2"), ("a", "3")]:
        late.add(owner, text)
    assert late.text("a") == "13"
    assert late.text("b") == "2"
    assert late.text("c") == ""
    assert late.text() == "123"


def test_nothing_that_came_is_nothing() -> None:
    assert LateOutput().text() == ""


def test_the_newest_4_mib_are_kept() -> None:
    late = LateOutput()
    piece = LIMIT // 4
    for letter in "abcdef":
        late.add(letter, letter * piece)
    assert late.text() == "".join(letter * piece for letter in "cdef")
    assert late.text("a") == ""


def test_a_single_text_is_kept_whole_whatever_its_size() -> None:
    late = LateOutput()
    late.add("a", "x")
    late.add("b", "y" * (LIMIT + 1))
    assert late.text() == "y" * (LIMIT + 1)


def test_executions_are_known_when_they_are_expected() -> None:
    late = LateOutput()
    late.expect("a")
    assert "a" in late
    assert "b" not in late


def test_it_does_not_expect_more_than_it_can_remember() -> None:
    late = LateOutput()
    for number in range(20_000):
        late.expect(str(number))
    assert "0" not in late
    assert "19999" in late


def test_text_without_an_execution_is_part_of_all_text_only() -> None:
    late = LateOutput()
    late.add("", "x")
    late.add("a", "y")
    assert late.text("") == "x"
    assert late.text() == "xy"
