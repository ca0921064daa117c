"""New files in a directory to which somebody hostile can write as well."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ipybox.paths import PinnedDirectory, UnsafePathError, random_name


def test_a_directory_and_its_parents_are_made_when_they_are_missing(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    with PinnedDirectory(place) as directory:
        assert place.is_dir()
        assert directory.write("x", b"data") == place / "x"
    assert (place / "x").read_bytes() == b"data"


def test_it_is_pinned_by_the_first_write_at_the_latest(tmp_path: Path) -> None:
    directory = PinnedDirectory(tmp_path / "a")
    assert directory.write("x", b"data").read_bytes() == b"data"
    directory.close()


def test_opening_twice_is_fine(tmp_path: Path) -> None:
    directory = PinnedDirectory(tmp_path / "a")
    assert directory.open() is directory.open()
    directory.close()
    assert not (tmp_path / "a").exists()


def test_a_directory_that_it_made_and_that_stayed_empty_is_removed(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()


def test_a_directory_that_was_there_before_stays(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_directory_with_something_in_it_stays(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path / "a"):
        (tmp_path / "a" / "of somebody else").touch()
    assert (tmp_path / "a" / "of somebody else").exists()


def test_what_took_its_place_is_not_removed(tmp_path: Path) -> None:
    place = tmp_path / "a"
    with PinnedDirectory(place):
        place.rename(tmp_path / "moved")
        place.mkdir()
    assert place.is_dir()
    assert (tmp_path / "moved").is_dir()


def test_closing_twice_is_fine_and_it_can_be_opened_again(tmp_path: Path) -> None:
    directory = PinnedDirectory(tmp_path / "a")
    for _ in range(2):
        directory.open()
        assert (tmp_path / "a").is_dir()
        directory.close()
        directory.close()
        assert not (tmp_path / "a").exists()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    directory = PinnedDirectory(tmp_path / "a").open()
    assert open_in(tmp_path)
    directory.write("x", b"data")
    with pytest.raises(FileExistsError):
        directory.write("x", b"data")
    directory.close()
    assert not open_in(tmp_path)


@pytest.mark.parametrize("leads_somewhere", [True, False])
def test_a_link_in_its_place_is_refused(tmp_path: Path, leads_somewhere: bool) -> None:
    target = tmp_path / "target"
    if leads_somewhere:
        target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UnsafePathError, match="is a symbolic link"):
        PinnedDirectory(tmp_path / "link").open()
    assert target.exists() == leads_somewhere


@pytest.mark.parametrize("below", [".", "a"])
def test_a_file_in_its_place_is_an_os_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        PinnedDirectory(tmp_path / "file" / below).open()
    assert not open_in(tmp_path)


def test_a_link_with_the_files_name_is_not_followed(tmp_path: Path) -> None:
    place = tmp_path / "a"
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    with PinnedDirectory(place) as directory:
        (place / "x").symlink_to(victim)
        with pytest.raises(FileExistsError):
            directory.write("x", b"evil")
        (place / "y").symlink_to(tmp_path / "nowhere")
        with pytest.raises(FileExistsError):
            directory.write("y", b"evil")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_nothing_that_is_there_already_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as plug, PinnedDirectory(tmp_path) as directory:
        plug.bind(str(tmp_path / "socket"))
        for name in ("fifo", "file", "directory", "socket"):
            with pytest.raises(FileExistsError):
                directory.write(name, b"evil")
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "fifo", "file", "socket"]


def test_a_directory_that_was_swapped_for_a_link_gets_nothing(tmp_path: Path) -> None:
    place, target = tmp_path / "a", tmp_path / "target"
    target.mkdir()
    with PinnedDirectory(place) as directory:
        place.rename(tmp_path / "moved")
        place.symlink_to(target)
        with pytest.raises(UnsafePathError, match="was replaced"):
            directory.write("x", b"data")
    assert list(target.iterdir()) == []
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_directory_that_was_renamed_gets_nothing_and_the_error_says_so(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path / "a") as directory:
        (tmp_path / "a").rename(tmp_path / "moved")
        with pytest.raises(UnsafePathError, match="was removed or renamed"):
            directory.write("x", b"data")
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_directory_that_was_removed_is_an_os_error(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path / "a") as directory:
        (tmp_path / "a").rmdir()
        with pytest.raises(OSError):
            directory.write("x", b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x"])
def test_only_plain_names_make_files(tmp_path: Path, name: str) -> None:
    with PinnedDirectory(tmp_path / "a") as directory, pytest.raises(ValueError, match=r"^name must be a plain file"):
        directory.create(name)
    assert list(tmp_path.iterdir()) == []


def test_a_created_file_can_be_written_piece_by_piece_and_is_not_inherited(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        fd = directory.create("x")
        assert not os.get_inheritable(fd)
        os.write(fd, b"one ")
        os.write(fd, b"two")
        os.close(fd)
    assert (tmp_path / "x").read_bytes() == b"one two"


def test_a_new_file_can_not_be_run(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        path = directory.write("x", b"#!/bin/sh\n")
    assert not stat.S_IMODE(path.stat().st_mode) & 0o133


def test_removing_a_file_that_is_gone_is_fine(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        directory.write("x", b"")
        directory.remove("x")
        directory.remove("x")
    assert list(tmp_path.iterdir()) == []


def test_removing_takes_away_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with PinnedDirectory(tmp_path) as directory:
        directory.remove("link")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_random_names_are_plain_and_all_different() -> None:
    names = {random_name(".png") for _ in range(1000)}
    assert len(names) == 1000
    assert all(name.endswith(".png") and "/" not in name and len(name) >= 20 for name in names)


def open_in(directory: Path) -> list[str]:
    """What this process has open at or below a directory."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open descriptors can only be listed where there is /proc")
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the listing's own descriptor
        if target.startswith(str(directory)):
            found.append(target)
    return found
