"""What code has done, told from the disk alone."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from ipybox.control.storage import changes
from ipybox.control.storage.workspaces import Workspaces
from tests.control.storage.conftest import chunked

pytestmark = pytest.mark.asyncio


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def test_nothing_changes_by_itself(workspaces: Workspaces) -> None:
    for number in range(10):
        await workspaces.write("s", f"d{number % 3}/f{number}", chunked(b"x"), limit=10, quota=10**9)
    before = await workspaces.snapshot("s")

    found = await workspaces.compare("s", before)

    assert found == changes.Changes()
    assert await workspaces.changes("s", before) == ()


async def test_what_was_made_changed_and_removed_is_told(workspaces: Workspaces) -> None:
    files = workspaces.files("s")
    for name in ("changed", "kept", "removed", "replaced", "became-link"):
        (files / name).write_bytes(b"before")
    before = await workspaces.snapshot("s")
    (files / "new" / "er").mkdir(parents=True)
    (files / "new" / "er" / "data.csv").write_bytes(b"1,2")
    (files / "changed").write_bytes(b"after!")
    (files / "removed").unlink()
    (files / "other").write_bytes(b"other!")
    (files / "other").rename(files / "replaced")
    (files / "became-link").unlink()
    (files / "became-link").symlink_to("kept")
    (files / "link").symlink_to("/etc/passwd")
    os.mkfifo(files / "pipe")

    found = await workspaces.compare("s", before)

    assert [(each.path, each.type, each.size, each.checksum) for each in found.artifacts] == [
        ("changed", "output", 6, _sha256(b"after!")),
        ("new/er/data.csv", "artifact", 3, _sha256(b"1,2")),
        ("replaced", "output", 6, _sha256(b"other!")),
    ]
    assert found.artifacts[1].mime_type == "text/csv"
    assert found.artifacts[1].created_at.timestamp() == pytest.approx((files / "new/er/data.csv").stat().st_mtime)
    assert found.changed == ("changed", "new/er/data.csv", "replaced")
    assert found.removed == ("became-link", "removed")
    assert found.is_complete
    assert await workspaces.changes("s", before) == found.artifacts


async def test_code_can_not_hide_a_change_behind_its_time(workspaces: Workspaces) -> None:
    path = workspaces.files("s") / "f"
    path.write_bytes(b"before")
    facts = path.stat()
    before = await workspaces.snapshot("s")
    path.write_bytes(b"after!")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    (artifact,) = await workspaces.changes("s", before)

    assert artifact.checksum == _sha256(b"after!")


async def test_caches_are_no_artifacts(workspaces: Workspaces) -> None:
    before = await workspaces.snapshot("s")
    for path in (".ipybox/x", "a/__pycache__/m.pyc", ".git/HEAD", "node_modules/a/i.js", ".hidden", "a/b"):
        (workspaces.files("s") / path).parent.mkdir(parents=True, exist_ok=True)
        (workspaces.files("s") / path).write_text("x")

    found = await workspaces.compare("s", before)

    assert [each.path for each in found.artifacts] == [".hidden", "a/b"]
    assert found.changed == (".git/HEAD", ".hidden", "a/b", "node_modules/a/i.js")


async def test_names_that_are_no_text_are_told_so_that_one_can_ask_for_them(workspaces: Workspaces) -> None:
    before = await workspaces.snapshot("s")
    Path(os.fsdecode(os.fsencode(workspaces.files("s")) + b"/\xff.csv")).write_bytes(b"x")

    (artifact,) = await workspaces.changes("s", before)

    assert artifact.path == "%FF.csv"
    assert artifact.mime_type == "text/csv"
    async with await workspaces.open("s", artifact.path) as file:
        assert file.size == 1


async def test_no_more_than_a_thousand_artifacts_are_told(workspaces: Workspaces) -> None:
    before = await workspaces.snapshot("s")
    for number in range(1_005):
        (workspaces.files("s") / f"{number:04}").touch()

    found = await workspaces.compare("s", before)

    assert [each.path for each in found.artifacts] == [f"{number:04}" for number in range(1_000)]
    assert len(found.changed) == 1_005


async def test_a_huge_file_costs_nothing(workspaces: Workspaces) -> None:
    before = await workspaces.snapshot("s")
    with (workspaces.files("s") / "sparse").open("wb") as sparse:
        sparse.truncate(10**13)
    (workspaces.files("s") / "tail").write_bytes(b"x")

    found = await workspaces.changes("s", before)

    assert [(each.path, each.size, each.checksum) for each in found] == [
        ("sparse", 10**13, ""),
        ("tail", 1, _sha256(b"x")),
    ]


async def test_checksums_end_when_there_was_enough_of_them(
    workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await workspaces.snapshot("s")
    for name in ("a", "b", "c"):
        (workspaces.files("s") / name).write_bytes(b"x" * 40)
    (workspaces.files("s") / "d").write_bytes(b"x" * 20)

    monkeypatch.setattr(changes, "CHECKSUM_BYTES", 100)
    found = await workspaces.changes("s", before)
    assert [bool(each.checksum) for each in found] == [True, True, False, True]

    monkeypatch.setattr(changes, "CHECKSUM_SECONDS", -1.0)
    found = await workspaces.changes("s", before)
    assert [(each.size, each.checksum) for each in found] == [(40, ""), (40, ""), (40, ""), (20, "")]


async def test_of_more_files_than_are_remembered_the_changed_ones_are_told(
    workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = workspaces.files("s")
    for number in range(50):
        (files / f"{number:02}").write_bytes(b"x")
    monkeypatch.setattr(changes, "_TICK", -1_000_000_000)  # as if they were old
    monkeypatch.setattr(changes, "MOST_REMEMBERED", 10)
    before = await workspaces.snapshot("s")
    assert not before.is_complete
    assert len(before.files) == 10
    assert (await workspaces.compare("s", before)).changed == ()

    later = changes.Snapshot(files=before.files, taken_ns=0, is_complete=False)
    assert len((await workspaces.compare("s", later)).changed) == 40


async def test_more_changes_than_can_be_told_are_marked(
    workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspaces.files("s") / "removed").touch()
    before = await workspaces.snapshot("s")
    (workspaces.files("s") / "removed").unlink()
    for number in range(5):
        (workspaces.files("s") / f"{number}").touch()
    monkeypatch.setattr(changes, "MOST_CHANGES", 3)

    found = await workspaces.compare("s", before)

    assert not found.is_complete
    assert len(found.changed) == 3
    assert found.removed == ()  # one can't know


async def test_names_that_are_long_need_little_memory(workspaces: Workspaces) -> None:
    """A path has up to 4,095 bytes, and costs code nothing."""
    before = await workspaces.snapshot("s")
    here = os.open(workspaces.files("s"), os.O_RDONLY)
    for _ in range(15):
        os.mkdir("d" * 250, dir_fd=here)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    for number in range(8_000):
        os.mknod(f"{number:0200}", dir_fd=here)
    os.close(here)

    tracemalloc.start()
    try:
        after = await workspaces.snapshot("s")
        _, peak_of_snapshot = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = await workspaces.compare("s", before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (after.is_complete, found.is_complete) == (False, False)
    assert len(found.artifacts) == 1000
    assert peak_of_snapshot < 8_000_000
    assert peak < 30_000_000


async def test_a_directory_that_can_not_be_read_is_no_obstacle(workspaces: Workspaces) -> None:
    files = workspaces.files("s")
    before = await workspaces.snapshot("s")
    (files / "closed").mkdir()
    (files / "closed" / "f").touch()
    (files / "f").touch()
    (files / "closed").chmod(0)
    (files / "f").chmod(0)

    found = await workspaces.compare("s", before)
    (files / "closed").chmod(0o700)

    assert "f" in found.changed
    assert found.is_complete
