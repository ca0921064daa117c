"""Trees as nobody would make them, but code that is not trusted does."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipybox.control.storage import trees
from ipybox.control.storage.beneath import DIRECTORY
from ipybox.control.storage.threads import Stop, StoppedError

DEEP = 10_000  # more than a path can have, and more than Python recurses
FEW_OPEN = 40


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top").mkdir()
    fd = os.open(tmp_path / "top", DIRECTORY)
    yield fd
    os.close(fd)


def _dig(top: int, levels: int, name: str = "d") -> None:
    here = os.dup(top)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.close(here)


@pytest.fixture
def few_files() -> Iterator[None]:
    """Little more than is open now may be open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + FEW_OPEN, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[int]:
    """A directory in memory, if there is one: some disks are slow with so many directories."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)
    directory = tempfile.mkdtemp(dir=parent)
    fd = os.open(directory, DIRECTORY)
    try:
        yield fd
    finally:
        trees.empty(fd)  # no other way to get rid of it
        os.close(fd)
        os.rmdir(directory)


@pytest.mark.usefixtures("few_files")
def test_no_tree_is_too_deep(in_memory: int) -> None:
    top = in_memory
    _dig(top, DEEP)

    walk = trees.Walk(top)
    found = [(path, facts) for path, facts in walk]

    assert walk.is_complete
    assert len(found) == DEEP + 1
    assert {path for path, _ in found[:3]} == {"d", "d/d", "d/d/d"}
    assert all(path is None or len(path) <= 4200 for path, _ in found)
    assert found[-1][0] is None  # nobody could ask for it
    assert trees.usage(top).is_complete
    trees.empty(top)
    assert os.listdir(top) == []


@pytest.mark.usefixtures("few_files")
def test_a_walk_finds_its_way_back_from_every_depth(top: int) -> None:
    for levels in (1, 24, 25, 60, 200):
        os.mkdir(f"t{levels}", dir_fd=top)
        inner = os.open(f"t{levels}", DIRECTORY, dir_fd=top)
        _dig(inner, levels, "a")
        os.close(os.open("a/beside", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=inner))
        os.close(inner)

    found = [path for path, _ in trees.Walk(top)]

    assert len(found) == len(set(found)) == sum(levels + 3 for levels in (1, 24, 25, 60, 200))
    for path in found:
        assert path is not None
        os.stat(path, dir_fd=top)


def test_a_tree_is_removed_whatever_its_permissions_are(top: int, tmp_path: Path) -> None:
    for path in ("a/b/c", "d/e", "f"):
        os.makedirs(tmp_path / "top" / path)
        (tmp_path / "top" / path / "file").touch()
    for path in ("a/b/c", "a/b", "a", "d/e", "f"):
        (tmp_path / "top" / path).chmod(0)
    (tmp_path / "top" / "d").chmod(0o555)

    trees.empty(top)

    assert os.listdir(top) == []


def test_a_link_is_removed_and_not_what_it_leads_to(top: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o500)
    (tmp_path / "file").write_text("untouched")
    (tmp_path / "file").chmod(0o400)
    for name, target in (("to-dir", outside), ("to-file", tmp_path / "file"), ("up", tmp_path), ("loop", Path("loop"))):
        os.symlink(target, name, dir_fd=top)
        os.mkdir(f"d-{name}", dir_fd=top)
        os.symlink(target, f"d-{name}/link", dir_fd=top)
    os.link(tmp_path / "file", "hard", dst_dir_fd=top)
    os.mkfifo("pipe", dir_fd=top)

    assert len(list(trees.Walk(top))) == 14
    trees.empty(top)

    assert os.listdir(top) == []
    assert (tmp_path / "file").read_text() == "untouched"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o400


def test_many_files_need_little_memory(top: int) -> None:
    for directory in ("a", "b"):
        os.mkdir(directory, dir_fd=top)
        inner = os.open(directory, DIRECTORY, dir_fd=top)
        for number in range(1_500):
            os.mknod(f"a-rather-long-name-{number}", dir_fd=inner)
        for number in range(300):
            os.mkdir(f"directory-{number}", dir_fd=inner)
        os.close(inner)

    tracemalloc.start()
    try:
        assert trees.usage(top).is_complete
        trees.empty(top)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert os.listdir(top) == []
    assert peak < 1_000_000


def test_a_walk_ends_after_as_many_entries_as_one_says(top: int) -> None:
    for directory in ("a", "b"):
        os.mkdir(directory, dir_fd=top)
        for number in range(10):
            os.mknod(f"{directory}/{number}", dir_fd=top)

    for most, is_complete in ((5, False), (12, False), (21, False), (23, True)):
        walk = trees.Walk(top, most=most)
        assert len(list(walk)) == min(most, 22)
        assert walk.is_complete == is_complete
        assert trees.usage(top, most=most).is_complete == is_complete


def test_a_walk_leaves_out_what_one_says(top: int) -> None:
    os.makedirs(f"/proc/self/fd/{top}/a/skipped/b")
    os.mknod("a/skipped/f", dir_fd=top)

    assert [path for path, _ in trees.Walk(top, skip={"skipped"})] == ["a", "a/skipped"]


def test_what_nobody_waits_for_is_given_up(top: int) -> None:
    os.mknod("f", dir_fd=top)
    stop = Stop()
    stop.set()
    with pytest.raises(StoppedError):
        trees.empty(top, stop)
    with pytest.raises(StoppedError):
        trees.usage(top, stop)
    assert os.listdir(top) == ["f"]


def test_whatever_it_is_it_is_removed_by_its_name(top: int) -> None:
    _dig(top, 30)
    os.mknod("file", dir_fd=top)
    os.symlink("/", "link", dir_fd=top)

    for name in ("d", "file", "link", "never-was"):
        trees.remove(top, name)

    assert os.listdir(top) == []
