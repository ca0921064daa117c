"""The journal keeps the newest records, byte for byte, and tells which are gone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.kernel_mgr.journal import Journal

SIZES = st.lists(st.integers(0, 40) | st.sampled_from([0, 1, 500]), max_size=60)


def record(number: int, size: int) -> bytes:
    return (b"%d," % number * size)[:size]


def check(journal: Journal, written: list[bytes]) -> None:
    """Everything that a journal promises, against all that was ever written to it."""
    assert journal.next == len(written)
    assert 0 <= journal.first <= journal.next
    kept = range(journal.first, journal.next)
    for number in kept:
        assert journal.read(number) == written[number]
    for number in [*range(journal.first), journal.next, journal.next + 7, -1]:
        with pytest.raises(KeyError):
            journal.read(number)
    for number in range(journal.next + 2):
        assert journal.size_from(number) == sum(len(written[n]) for n in kept if n >= number)
    size = sum(len(written[n]) for n in kept)
    assert size <= journal.capacity or len(kept) == 1 or not any(len(written[n]) for n in kept[1:])


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(0, 300))
def test_every_record_from_the_first_on_is_there_byte_for_byte(sizes: list[int], capacity: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name), capacity)
        written: list[bytes] = []
        for size in sizes:
            written.append(record(len(written), size))
            assert journal.append(written[-1]) == len(written) - 1
        check(journal, written)
        if written:
            assert journal.read(journal.next - 1) == written[-1]
        journal.close()


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 300))
def test_the_first_number_never_goes_back_and_tells_what_is_gone(sizes: list[int], capacity: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name), capacity)
        first = 0
        for number, size in enumerate(sizes):
            journal.append(record(number, size))
            assert first <= journal.first <= number
            first = journal.first
            if first:
                with pytest.raises(KeyError):
                    journal.read(first - 1)
        journal.close()


def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1000)
    written = [record(number, 10) for number in range(100)]
    for data in written:
        journal.append(data)
    assert journal.first == 0
    check(journal, written)
    journal.close()


def test_a_full_journal_keeps_most_of_its_capacity(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 8_000)
    written = [record(number, 10) for number in range(5_000)]
    for data in written:
        journal.append(data)
    assert 6_900 <= journal.size_from(0) <= 8_000
    check(journal, written)
    journal.close()


def test_a_record_larger_than_the_journal_is_kept_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    written = [record(0, 50), record(1, 5_000)]
    for data in written:
        journal.append(data)
    assert journal.first == 1
    check(journal, written)
    written.append(record(2, 10))
    journal.append(written[-1])
    check(journal, written)
    journal.close()


def test_an_empty_journal_has_nothing_to_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    assert (journal.first, journal.next, journal.size_from(0)) == (0, 0, 0)
    check(journal, [])
    journal.close()


def test_its_files_have_no_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    for number in range(50):
        journal.append(record(number, 30))
    assert list(tmp_path.iterdir()) == []
    journal.close()


def test_the_number_of_open_files_does_not_grow_with_the_records(tmp_path: Path) -> None:
    before = open_files()
    journal = Journal(tmp_path, 8_000)
    most = 0
    for number in range(400):
        journal.append(record(number, 1_001 if number % 2 else 1))  # as awkward as it gets: no two share a segment
        most = max(most, open_files() - before)
    assert most <= 20
    journal.close()
    assert open_files() == before


def test_closing_forgets_all_records_and_goes_on_counting(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1_000)
    for number in range(5):
        journal.append(record(number, 10))
    journal.close()
    assert (journal.first, journal.next) == (5, 5)
    assert journal.append(b"new") == 5
    assert journal.read(5) == b"new"
    journal.close()


def test_a_disk_that_takes_no_more_costs_old_records_and_no_numbers(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    journal = Journal(place, 80)
    assert [journal.append(record(number, 10)) for number in range(3)] == [0, 1, 2]
    place.rmdir()  # the next segment has no place to go
    assert journal.append(record(3, 10)) == 3
    assert journal.first == journal.next == 4
    for number in range(5):
        with pytest.raises(KeyError):
            journal.read(number)
    place.mkdir()
    assert journal.append(record(4, 10)) == 4
    assert journal.read(4) == record(4, 10)
    journal.close()


def open_files() -> int:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open descriptors can only be counted where there is /proc")
    return len(os.listdir("/proc/self/fd"))
