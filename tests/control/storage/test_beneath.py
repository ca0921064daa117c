"""Paths below a directory of code's, on systems with and without ``openat2``."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipybox.control.errors import StorageFullError, WorkspaceFileError
from ipybox.control.storage import beneath
from ipybox.control.storage.beneath import DIRECTORY, PLACE, open_beneath


@pytest.fixture(params=["openat2", "by parts"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by parts":
        monkeypatch.setattr(beneath, "has_openat2", lambda: False)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    (tmp_path / "top" / "a" / "f").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_text("outside")
    fd = os.open(tmp_path / "top", DIRECTORY)
    yield fd
    os.close(fd)


def test_what_is_below_is_opened(top: int) -> None:
    for path, flags in (("", DIRECTORY), ("a", DIRECTORY), ("a/b", PLACE), ("a/f", PLACE), ("a/f", os.O_RDONLY)):
        fd = open_beneath(top, path, flags)
        assert not os.get_inheritable(fd)
        os.close(fd)
    fd = beneath.open_file(top, "a/f")
    assert os.read(fd, 100) == b"inside"
    os.close(fd)


@pytest.mark.parametrize("target", ["../outside", "{}/outside", "a", ".", "/", "/proc/self/root", "/proc/self/cwd"])
def test_no_part_of_a_path_is_a_link(top: int, tmp_path: Path, target: str) -> None:
    os.symlink(target.format(tmp_path), "link", dir_fd=top)
    os.symlink(target.format(tmp_path), "a/link", dir_fd=top)
    before = len(os.listdir("/proc/self/fd"))

    for path in ("link/f", "a/link/f", "link/a", "a/link/b/c"):
        with pytest.raises(OSError) as raised:
            open_beneath(top, path, PLACE)
        assert raised.value.errno in (errno.ELOOP, errno.ENOTDIR)
    for flags in (DIRECTORY, os.O_RDONLY):
        with pytest.raises(OSError):
            open_beneath(top, "link", flags)
    with pytest.raises(WorkspaceFileError, match="a link"):
        beneath.open_file(top, "link")
    with pytest.raises(OSError):
        beneath.make_parent(top, "link/new/f", None)

    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path / "outside") == ["f"]


def test_parents_are_made_once_and_taken_back(top: int, tmp_path: Path) -> None:
    parent, name, made = beneath.make_parent(top, "a/x/y/f", None)
    os.close(parent)
    assert (name, made) == ("f", ["a/x", "a/x/y"])
    parent, name, again = beneath.make_parent(top, "a/x/y/f", None)
    os.close(parent)
    assert again == []

    (tmp_path / "top/a/x/code-was-here").touch()
    beneath.remove_made(top, made)

    assert os.listdir(tmp_path / "top/a/x") == ["code-was-here"]


@pytest.mark.parametrize(
    ("number", "is_missing"), [(errno.ENOENT, True), (errno.ELOOP, False), (errno.EACCES, False), (errno.EIO, False)]
)
def test_what_the_system_says_is_explained(number: int, is_missing: bool) -> None:
    with pytest.raises(WorkspaceFileError) as raised, beneath.explained("a/\udcff"):
        raise OSError(number, "x", "/some/path/of/the/host")
    assert raised.value.is_missing == is_missing
    assert raised.value.path == "a/%FF"
    assert "/some/path" not in str(raised.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_the_fault_of_a_path(number: int) -> None:
    with pytest.raises(StorageFullError), beneath.explained("f"):
        raise OSError(number, "x")


def test_too_many_open_files_are_not_the_fault_of_a_path() -> None:
    with pytest.raises(OSError, match="x"), beneath.explained("f"):
        raise OSError(errno.EMFILE, "x")
