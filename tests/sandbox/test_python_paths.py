"""All that this Python needs is named, and nothing that a caller's environment adds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import ipybox
from ipybox.sandbox.python_paths import python_paths, site_packages


def test_the_interpreter_its_library_and_its_packages_are_named() -> None:
    found = python_paths()
    needed = [sys.executable, os.path.realpath(sys.executable), os.__file__, pytest.__file__, ipybox.__file__]
    for path in needed:
        assert any(path == each or path.startswith(each + "/") for each in found), path
    assert all(os.path.isabs(path) and os.path.exists(path) for path in found)
    assert len(set(found)) == len(found)


def test_a_directory_that_was_only_put_on_the_path_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in python_paths()


def test_what_path_files_add_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "site-packages"
    for directory in (packages, packages / "inner", tmp_path / "project", tmp_path / "evil"):
        directory.mkdir()
    (packages / "editable.pth").write_text(f"# a comment\n\n{tmp_path}/project\ninner\n{tmp_path}/gone\n")
    (packages / "code.pth").write_text(f"import sys; sys.path.append('{tmp_path}/evil')\n")
    (packages / "binary.pth").write_bytes(b"\xff\xfe\n")
    monkeypatch.syspath_prepend(str(packages))
    found = python_paths()
    assert {str(packages), str(packages / "inner"), str(tmp_path / "project")} <= set(found)
    assert not {str(tmp_path / "evil"), str(tmp_path / "gone")} & set(found)


def test_site_packages_are_those_on_the_path_and_nothing_that_they_add(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (tmp_path / "project").mkdir()
    (packages / "editable.pth").write_text(f"{tmp_path / 'project'}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(packages), str(packages)])
    assert site_packages() == [str(packages)]
