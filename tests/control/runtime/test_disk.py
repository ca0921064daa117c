"""What a directory takes of the disk, whatever is in it."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ipybox.control.runtime import disk, open_files
from ipybox.process import warden
from tests.control.runtime.boxes import MIB


def test_files_are_counted_once_by_the_room_that_they_take(tmp_path: Path) -> None:
    empty = disk.measure(tmp_path, MIB).bytes
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a" / "file", tmp_path / "again")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(100 * MIB)
    found = disk.measure(tmp_path, MIB)
    assert found.problem is None
    assert 100_000 <= found.bytes - empty < 200_000
    assert found.device == tmp_path.stat().st_dev


def test_links_are_not_followed(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    (outer / "large").write_bytes(b"x" * MIB)
    (inner / "file").symlink_to(outer / "large")
    (inner / "directory").symlink_to(outer)
    (inner / "loop").symlink_to(inner)
    os.mkfifo(inner / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(inner / "socket"))
    assert disk.measure(inner, MIB // 2).problem is None
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        disk.measure(inner / "directory", MIB)


def test_too_much_is_told_as_soon_as_it_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    assert "more than 500000 bytes" in (disk.measure(tmp_path, 500_000).problem or "")


def test_too_many_files_are_too_much_though_they_are_empty(tmp_path: Path) -> None:
    for number in range(8200):
        (tmp_path / str(number)).touch()
    assert "more than 8192 files" in (disk.measure(tmp_path, 1024 * MIB // 512).problem or "")


def test_what_is_nested_too_deep_is_too_much(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    os.makedirs(path / "/".join("d" * 150))
    assert "deeper than 128" in (disk.measure(tmp_path, MIB).problem or "")
    warden.remove_tree(str(path))


def test_files_without_a_name_are_found_open_or_mapped(tmp_path: Path) -> None:
    code = """
import mmap, os, sys
for way in ('open', 'mapped'):
    fd = os.open(way, os.O_RDWR | os.O_CREAT)
    os.write(fd, b'x' * 1000000)
    os.unlink(way)
    if way == 'mapped':
        kept = mmap.mmap(fd, 1000000, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(fd)
open('named', 'wb').write(b'x' * 1000000)
print(flush=True)
sys.stdin.read()
"""
    argv = [sys.executable, "-c", code]
    # What pytest keeps of outputs has no name either.
    before = open_files.unnamed(os.getpid(), tmp_path.stat().st_dev).bytes
    with subprocess.Popen(argv, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = open_files.unnamed(os.getpid(), tmp_path.stat().st_dev).bytes - before
        elsewhere = open_files.unnamed(os.getpid(), -7).bytes
        process.communicate(b"")
    assert 2_000_000 <= found < 2_000_000 + 8 * mmap.PAGESIZE + MIB
    assert elsewhere == 0
