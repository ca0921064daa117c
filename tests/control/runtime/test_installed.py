"""Packages of a directory are read without trusting them, and are exchanged all or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipybox.control.runtime import installed
from ipybox.sandbox.packages import site_directories


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def made(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root.mkdir(exist_ok=True)
    return root


def test_names_change_places_and_the_directory_stays_the_one_it_is(tmp_path: Path) -> None:
    into = made(tmp_path / "into", lib__a="old", bin__b="old", only="old")
    fresh = made(tmp_path / "fresh", lib__a="new", lib__c="new", share__d="new")
    number, before = into.stat().st_ino, tree(into)
    installed.exchange(fresh, into)
    assert into.stat().st_ino == number
    assert tree(into) == {"lib/a": "new", "lib/c": "new", "share/d": "new"}
    assert tree(fresh) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do all of it")
def test_what_can_not_be_done_is_undone(tmp_path: Path) -> None:
    into = made(tmp_path / "into", a="old", c="old", z__file="old")
    fresh = made(tmp_path / "fresh", a="new", b="new", z__file="new")
    before = tree(into), tree(fresh)
    (fresh / "z").chmod(0o500)  # a directory that moves is written itself
    with pytest.raises(OSError, match="Permission denied"):
        installed.exchange(fresh, into)
    (fresh / "z").chmod(0o700)
    assert (tree(into), tree(fresh)) == before


def test_packages_are_found_by_their_metadata_and_nothing_else_is(tmp_path: Path) -> None:
    site = Path(str(tmp_path) + site_directories("")[0])
    good = site / "Some_Thing-1.0.dist-info"
    good.mkdir(parents=True)
    (good / "METADATA").write_text("Metadata-Version: 2.1\nName: Some.Thing\nVersion: 1.0\n\nName: other\nVersion: 2\n")
    for name in ("empty", "pipe", "link", "folder", "large"):
        (site / f"{name}-1.dist-info").mkdir()
    os.mkfifo(site / "pipe-1.dist-info" / "METADATA")
    (site / "link-1.dist-info" / "METADATA").symlink_to(good / "METADATA")
    (site / "folder-1.dist-info" / "METADATA").mkdir()
    (site / "large-1.dist-info" / "METADATA").write_bytes(b"x" * 1_000_000)
    (site / "linked-1.dist-info").symlink_to(good)
    (site / "file-1.dist-info").write_text("")
    found = installed.packages(tmp_path)
    assert list(found) == ["some-thing"]
    assert (found["some-thing"].name, found["some-thing"].version) == ("Some.Thing", "1.0")
    assert found["some-thing"].place == site_directories("")[0].lstrip("/")


def test_there_may_be_none(tmp_path: Path) -> None:
    assert installed.packages(tmp_path) == {}
    assert installed.packages(tmp_path / "nowhere") == {}
    (tmp_path / "lib").symlink_to("/usr/lib")
    assert installed.packages(tmp_path) == {}
