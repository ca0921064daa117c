"""Root lends its files to the sandbox's user, who is nobody and never root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipybox.errors import SandboxUnavailableError
from ipybox.process import bootstrap
from ipybox.process.descriptors import memory_file
from ipybox.sandbox.staging import PREFERRED_UID, Staging, locate, sandbox_uid, staged

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends its files")


@pytest.mark.parametrize(
    ("uid_map", "uid"),
    [
        ("0 0 4294967295\n", PREFERRED_UID),
        ("0 100000 65536\n", PREFERRED_UID),
        ("0 100000 1000\n", 998),
        ("0 1000 1\n1 100000 65536\n", PREFERRED_UID),
        ("0 1000 1\n1 100000 5000\n", 4999),
        ("0 1000 1\n", None),
        ("0 0 3\n", 1),
    ],
)
def test_the_user_is_one_that_exists_and_is_not_root(uid_map: str, uid: int | None) -> None:
    assert sandbox_uid(uid_map) == uid


@pytest.mark.parametrize("uid_map", ["0 0 1\n", "0 0 2\n"])
def test_where_there_is_only_root_there_is_no_sandbox(uid_map: str) -> None:
    with pytest.raises(SandboxUnavailableError, match="no user id besides root"):
        sandbox_uid(uid_map)


def test_paths_are_found_where_their_root_was_put() -> None:
    places = staged(["/a", "/a/b", "/c d"])
    assert len(set(places.values())) == 3
    assert locate("/a", places) == places["/a"]
    assert locate("/a/x/y", places) == f"{places['/a']}/x/y"
    assert locate("/a/b/x", places) == f"{places['/a/b']}/x"
    assert locate("/c d/x", places) == f"{places['/c d']}/x"
    assert locate("/ab", places) == "/ab"
    assert locate("/usr", places) == "/usr"


def test_settings_travel_whole() -> None:
    staging = Staging(read=["/a"], write=["/b"], uid=5, argv=["x", "ä"])
    assert Staging.from_json(staging.to_json()) == staging


def run(staging: Staging) -> subprocess.CompletedProcess[str]:
    fd = memory_file(staging.to_json())
    argv = bootstrap.command(sys.executable, "ipybox.sandbox.staging", str(fd))
    try:
        return subprocess.run(argv, pass_fds=[fd], capture_output=True, text=True, timeout=60)
    finally:
        os.close(fd)


@ROOT
@pytest.mark.sandbox
def test_what_is_lent_is_used_as_one_s_own_and_stays_the_owner_s(tmp_path: Path) -> None:
    private, work = tmp_path / "private", tmp_path / "work"
    for directory in (private, work):
        directory.mkdir(mode=0o700)
    (private / "data").write_text("mine")
    (private / "data").chmod(0o600)
    places = staged([str(private), str(work)])
    inside = f"cat {places[str(private)]}/data; id -u; id -G; echo x > {places[str(work)]}/made"
    mounts = Path("/proc/self/mountinfo").read_text()
    done = run(Staging(read=[str(private)], write=[str(work)], uid=PREFERRED_UID, argv=["/bin/sh", "-c", inside]))
    assert done.stderr == ""
    assert done.stdout.split() == [f"mine{PREFERRED_UID}", str(PREFERRED_UID)]
    assert (work / "made").stat().st_uid == os.getuid()
    assert Path("/proc/self/mountinfo").read_text() == mounts


@ROOT
@pytest.mark.sandbox
@pytest.mark.parametrize("program", ["/no/such/bwrap", "/etc/hostname"])
def test_a_program_that_can_not_be_executed_is_named(program: str) -> None:
    done = run(Staging(read=[], write=[], uid=PREFERRED_UID, argv=[program]))
    assert done.returncode != 0
    assert program in done.stderr


@ROOT
@pytest.mark.sandbox
def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(Staging(read=[str(tmp_path / "gone")], write=[], uid=PREFERRED_UID, argv=["/bin/true"]))
    assert done.returncode != 0
    assert f"{tmp_path}/gone" in done.stderr
