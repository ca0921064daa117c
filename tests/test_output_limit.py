"""Long text keeps its head and its tail, says what is missing, and is all in a file."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.output_limit import OutputLimit, TextCollector
from ipybox.paths import PinnedDirectory

# Lone surrogates included: Python programs print file names that hold them.
CHARACTERS = st.characters(exclude_categories=()) | st.sampled_from("\n\udc80\ud800ü€😀")
PIECES = st.lists(st.text(CHARACTERS, max_size=30), max_size=25)
LIMITS = st.builds(OutputLimit, head=st.integers(0, 40), tail=st.integers(0, 40))
MARK = re.compile(r"\n\[\.\.\. (\d+) characters dropped(?:; all of it: (.+))? \.\.\.\]\n")


def collected(pieces: list[str], limit: OutputLimit | None, directory: PinnedDirectory | None = None) -> TextCollector:
    collector = TextCollector(limit, directory)
    for piece in pieces:
        collector.append(piece)
    return collector


@settings(deadline=None, max_examples=30)
@given(PIECES)
def test_without_a_limit_all_text_is_kept(pieces: list[str]) -> None:
    collector = collected(pieces, None)
    assert collector.text() == "".join(pieces)
    assert collector.total == len("".join(pieces))
    assert collector.dropped == 0
    assert collector.path is None


@settings(deadline=None)
@given(PIECES, LIMITS)
def test_head_tail_and_the_number_of_dropped_characters_are_exact(pieces: list[str], limit: OutputLimit) -> None:
    collector = collected(pieces, limit)
    whole = "".join(pieces)
    dropped = max(0, len(whole) - limit.head - limit.tail)
    assert collector.total == len(whole)
    assert collector.dropped == dropped
    if dropped:
        head, tail = whole[: limit.head], whole[len(whole) - limit.tail :]
        assert collector.text() == f"{head}\n[... {dropped} characters dropped ...]\n{tail}"
    else:
        assert collector.text() == whole


@settings(deadline=None, max_examples=30)
@given(PIECES, LIMITS)
def test_text_can_be_read_at_any_time(pieces: list[str], limit: OutputLimit) -> None:
    collector = TextCollector(limit)
    for count, piece in enumerate(pieces, 1):
        collector.append(piece)
        assert collector.text() == collected(pieces[:count], limit).text()


@settings(deadline=None, max_examples=60)
@given(PIECES, LIMITS)
def test_the_file_holds_every_byte_of_the_text_exactly_when_something_is_cut(
    pieces: list[str], limit: OutputLimit
) -> None:
    whole = "".join(pieces)
    with tempfile.TemporaryDirectory() as name, PinnedDirectory(Path(name)) as directory:
        collector = collected(pieces, limit, directory)
        collector.close()
        if collector.dropped:
            assert collector.path is not None
            assert collector.path.parent == Path(name)
            assert collector.path.read_bytes() == whole.encode("utf-8", "surrogatepass")
            assert f"; all of it: {collector.path} ...]" in collector.text()
        else:
            assert collector.path is None
            assert list(Path(name).iterdir()) == []


def test_one_huge_piece_after_the_other_is_cut_as_well(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        pieces = ["a" * 100_000, "b" * 100_000, "c" * 100_000]
        collector = collected(pieces, OutputLimit(head=10, tail=20), directory)
        collector.close()
    assert MARK.split(collector.text()) == ["a" * 10, "299970", str(collector.path), "c" * 20]
    assert collector.path is not None
    assert collector.path.read_text() == "".join(pieces)


def test_the_file_can_be_followed_while_text_still_comes(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        collector = collected(["abc", "def"], OutputLimit(head=1, tail=1), directory)
        assert collector.path is not None
        assert collector.path.read_text() == "abcdef"
        collector.append("ghi")
        assert collector.path.read_text() == "abcdefghi"
        collector.close()


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        collector = collected(["abcdef"], OutputLimit(head=1, tail=1), directory)
        collector.close()
        collector.close()


def test_a_file_that_can_not_be_written_costs_no_text_and_is_not_promised(tmp_path: Path) -> None:
    # Kernel code may write to the directory, so it can take it away as well.
    place = tmp_path / "place"
    with PinnedDirectory(place) as directory:
        place.rmdir()
        collector = collected(["abc", "def"], OutputLimit(head=1, tail=1), directory)
        assert collector.path is None
        head, note, tail = collector.text().split("\n")
        assert (head, tail) == ("a", "f")
        assert note.startswith("[... 4 characters dropped")
        assert str(place) not in note
        collector.close()


def test_a_file_that_lacks_the_beginning_is_not_promised_as_all_of_the_text(tmp_path: Path) -> None:
    place = tmp_path / "place"
    limit = OutputLimit(head=1, tail=1)
    with PinnedDirectory(place) as directory:
        place.rmdir()
        collector = TextCollector(limit, directory)
        try:
            collector.append("abcdef")
        except OSError:
            pass
        directory.close()
        place.mkdir()
        collector.append("ghi")
        assert collector.path is None or collector.path.read_text() == "abcdefghi"
        collector.close()


@pytest.mark.parametrize("arguments", [{"head": -1}, {"tail": -1}])
def test_a_negative_limit_is_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} must not be negative"):
        OutputLimit(**arguments)


@pytest.mark.parametrize("arguments", [{"head": 1.5}, {"tail": "9"}, {"head": True}, {"tail": None}])
def test_a_limit_that_is_no_number_of_characters_is_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(arguments))} must be an int"):
        OutputLimit(**arguments)


def test_a_limit_of_nothing_keeps_only_the_note() -> None:
    assert collected(["abc"], OutputLimit(head=0, tail=0)).text() == "\n[... 3 characters dropped ...]\n"
