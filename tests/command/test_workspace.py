"""The directory in which a command works: private, and gone in any case."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ipybox.command.workspace import make_workspace, new_workspace, remove_workspace
from ipybox.errors import ProgramStartError


def made_in(base: Path) -> Path:
    path = new_workspace(str(base))
    make_workspace(path)
    return Path(path)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    return made_in(base)


def test_it_is_new_and_empty_and_nobody_elses(tmp_path: Path) -> None:
    umask = os.umask(0o777)
    try:
        paths = [made_in(tmp_path) for _ in range(2)]
    finally:
        os.umask(umask)
    assert paths[0] != paths[1]
    for path in paths:
        assert path.parent == tmp_path
        assert re.fullmatch(r"sandbox-[0-9a-f]{24}", path.name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert list(path.iterdir()) == []


def test_a_base_that_is_not_there_or_no_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for base, reason in ((tmp_path / "gone", "No such file or directory"), (file, "Not a directory")):
        with pytest.raises(ProgramStartError, match=f"base_dir {re.escape(str(base))}: {reason}"):
            made_in(base)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; run as a plain user")
def test_a_base_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ProgramStartError, match=r"base_dir .*: Permission denied; it must be"):
            made_in(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_everything_in_it_is_removed(workspace: Path) -> None:
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "b" / "file").write_text("text")
    (workspace / "a" / "twice").touch()
    (workspace / "twice").touch()
    os.mkfifo(workspace / "fifo")
    remove_workspace(str(workspace))
    assert list(workspace.parent.iterdir()) == []


def test_no_link_is_followed(workspace: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    kept.chmod(0o750)
    (workspace / "directory").mkdir()
    for link in (workspace / "link", workspace / "directory" / "link"):
        link.symlink_to(kept)
    (workspace / "to a file").symlink_to(kept / "file")
    remove_workspace(str(workspace))
    assert not workspace.exists()
    assert (kept / "file").read_text() == "kept"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o750


def test_a_link_in_its_place_is_not_followed(workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o750)
    (kept / "file").touch()
    workspace.rmdir()
    workspace.symlink_to(kept)
    with caplog.at_level(logging.WARNING, "ipybox.command"):
        remove_workspace(str(workspace))
    assert (kept / "file").exists()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o750
    assert str(workspace) in caplog.text


def test_permissions_hold_nothing_up(workspace: Path) -> None:
    for name in ("closed", "closed/inner", "unwritable", "unwritable/inner", "unwritable/inner/innermost"):
        (workspace / name).mkdir()
        (workspace / name / "file").touch(0o000)
    for name in ("closed/inner", "closed", "unwritable/inner/innermost", "unwritable/inner"):
        (workspace / name).chmod(0o000)
    (workspace / "unwritable").chmod(0o500)
    workspace.chmod(0o000)
    remove_workspace(str(workspace))
    assert not os.path.lexists(workspace)


def test_no_nesting_is_too_deep(workspace: Path) -> None:
    # Deeper than Python calls itself, than files can be open, and than a path can be long.
    code = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "for _ in range(5000):\n"
        "    os.mkdir('directory'); os.chdir('directory')\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(workspace)], check=True)
    remove_workspace(str(workspace))
    assert not workspace.exists()


def test_one_that_is_gone_is_no_surprise(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    remove_workspace(str(workspace))
    remove_workspace(str(workspace))
    assert caplog.text == ""
