"""What is kept of a stream, and the text that it becomes bit by bit, for every way in which it may come."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipybox.command.output import Tail, TextChunks

CHARACTERS = "aé€😀\0\n"
"""Of every length that a character of UTF-8 has."""
TEXTS = st.text(CHARACTERS, max_size=40)
CAPS = st.integers(4, 24)
CUTS = st.lists(st.integers(0, 120), max_size=8)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes, as pieces of any size, of which some are empty."""
    ends = sorted(min(cut, len(data)) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def tail_of(data: bytes, cap: int, cuts: list[int]) -> Tail:
    tail = Tail(cap)
    for piece in pieces(data, cuts):
        tail.feed(piece)
    return tail


# ---- the end of a stream ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=100), CAPS, CUTS)
def test_what_is_kept_is_the_end_and_at_most_the_rest_of_one_character_is_missing(
    data: bytes, cap: int, cuts: list[int]
) -> None:
    kept = tail_of(data, cap, cuts).value()
    assert data[-cap:].endswith(kept)
    assert len(data[-cap:]) - len(kept) <= 3


@settings(deadline=None)
@given(st.binary(max_size=100), CAPS, CUTS)
def test_it_is_truncated_exactly_when_something_is_missing(data: bytes, cap: int, cuts: list[int]) -> None:
    tail = tail_of(data, cap, cuts)
    assert tail.truncated == (len(data) > cap)
    assert tail.truncated == (tail.value() != data)


@settings(deadline=None)
@given(TEXTS, CAPS, CUTS)
@example("€" * 10, 10, [])
@example("😀" * 3, 5, [1, 2, 3])
def test_no_character_is_cut_and_as_many_are_kept_as_fit(text: str, cap: int, cuts: list[int]) -> None:
    kept = tail_of(text.encode(), cap, cuts).value().decode("utf-8", "strict")
    assert text.endswith(kept)
    whole = [text[start:] for start in range(len(text) + 1)]
    assert kept == next(each for each in whole if len(each.encode()) <= cap)


@settings(deadline=None)
@given(st.binary(max_size=100), CAPS, CUTS, CUTS)
def test_how_it_comes_makes_no_difference(data: bytes, cap: int, some: list[int], others: list[int]) -> None:
    assert tail_of(data, cap, some).value() == tail_of(data, cap, others).value()


@pytest.mark.parametrize(("cap", "kept"), [(10, b"0123456789"), (5, b"56789")])
def test_ascii_is_kept_to_the_byte(cap: int, kept: bytes) -> None:
    tail = tail_of(b"abcdefghij0123456789", cap, [3, 11, 19])
    assert (tail.value(), tail.truncated) == (kept, True)


def test_exactly_as_much_as_fits_is_all_of_it() -> None:
    tail = tail_of(b"x" * 1024, 1024, [1000])
    assert (tail.value(), tail.truncated) == (b"x" * 1024, False)
    tail.feed(b"")
    assert not tail.truncated
    tail.feed(b"y")
    assert (tail.value(), tail.truncated) == (b"x" * 1023 + b"y", True)


def test_what_is_no_utf_8_at_all_is_kept_to_the_byte() -> None:
    tail = tail_of(b"\x80" * 100, 10, [])
    assert tail.value() == b"\x80" * 10


def test_looking_at_it_changes_nothing() -> None:
    tail = tail_of(b"0123456789", 4, [])
    assert tail.value() == tail.value() == b"6789"
    tail.feed(b"a")
    assert tail.value() == b"789a"


# ---- text -------------------------------------------------------------------------------------------------------


def texts_of(data: bytes, cuts: list[int]) -> list[str]:
    chunks = TextChunks()
    return [*(chunks.feed(piece) for piece in pieces(data, cuts)), chunks.feed(b"", final=True)]


@settings(deadline=None)
@given(st.binary(max_size=60) | TEXTS.map(str.encode), CUTS)
def test_the_pieces_are_together_what_the_whole_is(data: bytes, cuts: list[int]) -> None:
    assert "".join(texts_of(data, cuts)) == data.decode("utf-8", "replace")


@settings(deadline=None)
@given(TEXTS, CUTS)
def test_every_piece_of_what_is_text_is_text(text: str, cuts: list[int]) -> None:
    found = texts_of(text.encode(), cuts)
    assert "".join(found) == text
    assert found[-1] == ""  # nothing was held back that was complete


@settings(deadline=None)
@given(TEXTS, CUTS)
def test_what_is_complete_is_told_at_once(text: str, cuts: list[int]) -> None:
    chunks, fed, told = TextChunks(), b"", ""
    for piece in pieces(text.encode(), cuts):
        fed += piece
        told += chunks.feed(piece)
        assert told == fed.decode("utf-8", "ignore")  # which leaves out an unfinished character, and nothing else here


def test_the_beginning_of_a_character_at_the_end_is_told_as_what_it_is() -> None:
    assert texts_of(b"a\xe2\x82", []) == ["a", "\N{REPLACEMENT CHARACTER}"]
