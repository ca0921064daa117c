"""Workspaces whose files have copies: what is acknowledged survives the disk."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.control.errors import StorageError, WorkspaceFileError
from ipybox.control.storage import names
from ipybox.control.storage.copies import PART, Copies
from ipybox.control.storage.workspaces import Workspaces
from tests.control.storage.conftest import chunked, make_bucket

pytestmark = pytest.mark.asyncio
ROOM = {"limit": 100_000_000, "quota": 1_000_000_000}

Opened = Callable[[str], Workspaces]


@pytest_asyncio.fixture
async def copied(tmp_path: Path, copies: Copies) -> AsyncIterator[Workspaces]:
    async with Workspaces(tmp_path / "here", uid=None, min_free_bytes=0, copies=copies) as ready:
        await ready.create("s", is_new=True)
        yield ready


@pytest_asyncio.fixture
async def elsewhere(tmp_path: Path, copies: Copies) -> AsyncIterator[Workspaces]:
    """On another machine, with the same store."""
    async with Workspaces(tmp_path / "elsewhere", uid=None, min_free_bytes=0, copies=copies) as ready:
        yield ready


async def _keys(copies: Copies) -> list[str]:
    return sorted([copy.key async for copy in copies.list("sessions")])


def _tree(files: Path) -> dict[bytes, bytes]:
    root = os.fsencode(files)
    return {
        os.path.relpath(os.path.join(above, name), root): Path(os.fsdecode(os.path.join(above, name))).read_bytes()
        for above, _, found in os.walk(root)
        for name in found
    }


async def test_an_upload_is_in_the_store_when_it_is_acknowledged(copied: Workspaces, copies: Copies) -> None:
    stored = await copied.write("s", "a/b.csv", chunked(b"1,2"), **ROOM)

    head = await copies.head("sessions/s/files/a/b.csv")
    assert head is not None
    assert head.size == 3
    assert f"sha256:{head.facts['sha256']}" == stored.checksum
    assert head.facts["Content-Type"] == "text/csv"


async def test_all_files_of_a_session_come_back_on_an_empty_disk(copied: Workspaces, elsewhere: Workspaces) -> None:
    files = copied.files("s")
    large = os.urandom(PART + 1)
    long = "/".join(["é" * 120] * 8) + "/end"
    await copied.write("s", "large", chunked(large[:100], large[100:]), **ROOM)
    await copied.write("s", long, chunked(b"far"), **ROOM)
    before = await copied.snapshot("s")
    for name in (
        b"\xff\xfe",
        b"100%FF",
        b"50%",
        b"with space",
        "ünï😀".encode(),
        b"line\nfeed",
        b"!41",
        b"a+b&c=d#e?f",
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(files), name))).write_bytes(name)
    (files / "deep" / "er").mkdir(parents=True)
    (files / "deep" / "er" / "run.sh").write_text("#!/bin/sh")
    (files / "deep" / "er" / "run.sh").chmod(0o755)
    (files / "large2").write_bytes(large)
    os.utime(files / "large2", ns=(1_000_000_001, 1_000_000_001))
    await copied.push("s", await copied.compare("s", before))

    there = await elsewhere.create("s")
    assert await elsewhere.restore("s") == 12

    assert _tree(there) == _tree(files)
    assert (there / "deep/er/run.sh").stat().st_mode & 0o777 == 0o755
    assert (there / "large2").stat().st_mtime_ns == 1_000_000_001
    assert os.listdir(there.parent / "incoming") == []
    assert await elsewhere.restore("s") == 0


async def test_a_push_follows_changes_and_removals(copied: Workspaces, copies: Copies, elsewhere: Workspaces) -> None:
    files = copied.files("s")
    await copied.write("s", "changed", chunked(b"1"), **ROOM)
    await copied.write("s", "gone", chunked(b"1"), **ROOM)
    await copied.write("s", "kept", chunked(b"1"), **ROOM)
    before = await copied.snapshot("s")
    (files / "changed").write_bytes(b"2")
    (files / "gone").unlink()
    (files / "new").write_bytes(b"3")
    (files / "__pycache__").mkdir()
    (files / "__pycache__" / "m.pyc").write_bytes(b"4")
    (files / "link").symlink_to("/etc/passwd")
    os.mkfifo(files / "pipe")

    await copied.push("s", await copied.compare("s", before))

    assert await _keys(copies) == [f"sessions/s/files/{name}" for name in ("changed", "kept", "new")]
    await elsewhere.create("s")
    await elsewhere.restore("s")
    assert _tree(elsewhere.files("s")) == {b"changed": b"2", b"kept": b"1", b"new": b"3"}


async def test_a_file_that_became_a_link_has_no_copy_any_more(copied: Workspaces, copies: Copies) -> None:
    await copied.write("s", "f", chunked(b"1"), **ROOM)
    before = await copied.snapshot("s")
    (copied.files("s") / "f").unlink()
    (copied.files("s") / "f").symlink_to("/etc/passwd")

    await copied.push("s", await copied.compare("s", before))

    assert await _keys(copies) == []


async def test_a_restore_keeps_what_is_there(copied: Workspaces, elsewhere: Workspaces) -> None:
    await copied.write("s", "f", chunked(b"old"), **ROOM)
    await copied.write("s", "d/f", chunked(b"old"), **ROOM)
    files = await elsewhere.create("s")
    (files / "f").write_bytes(b"new")
    (files / "d").write_bytes(b"a file")

    assert await elsewhere.restore("s") == 0

    assert _tree(files) == {b"f": b"new", b"d": b"a file"}


async def test_a_restore_that_failed_can_be_done_again(
    copied: Workspaces, elsewhere: Workspaces, copies: Copies
) -> None:
    await copied.write("s", "f", chunked(b"good"), **ROOM)
    await copies.put("sessions/s/files/f", b"evil", facts={"sha256": "0" * 64})
    files = await elsewhere.create("s")

    with pytest.raises(StorageError, match="not what was sent"):
        await elsewhere.restore("s")
    assert _tree(files) == {}
    assert os.listdir(files.parent / "incoming") == []

    await copied.push("s", ["f"])
    await elsewhere.create("s")
    assert await elsewhere.restore("s") == 1
    assert _tree(files) == {b"f": b"good"}


async def test_a_session_that_has_its_directory_is_not_restored_but_copied(copied: Workspaces, copies: Copies) -> None:
    await copied.write("s", "f", chunked(b"1"), **ROOM)
    (copied.files("s") / "f").unlink()
    await copied.create("s")

    assert await copied.restore("s") == 0
    assert os.listdir(copied.files("s")) == []
    assert await _keys(copies) == []


async def test_what_a_dead_server_did_not_copy_is_copied_when_the_session_goes_on(
    copied: Workspaces, copies: Copies, tmp_path: Path
) -> None:
    files = copied.files("s")
    long = "/".join(["é" * 120] * 8)
    for path in ("same", "changed", "grown", "gone", long):
        await copied.write("s", path, chunked(b"12"), **ROOM)
    (files / "changed").write_bytes(b"34")
    (files / "grown").write_bytes(b"1234")
    (files / "gone").unlink()
    (files / "new").write_bytes(b"1")
    (files / long).unlink()

    async with Workspaces(tmp_path / "here", uid=None, min_free_bytes=0, copies=copies) as later:
        await later.create("s")
        assert await later.restore("s") == 0

    contents = {key: b"".join([data async for data in copies.get(key)]) for key in await _keys(copies)}
    prefix = "sessions/s/files/"
    assert contents == {
        f"{prefix}same": b"12",
        f"{prefix}changed": b"34",
        f"{prefix}grown": b"1234",
        f"{prefix}new": b"1",
    }


async def test_what_could_not_be_copied_is_copied_the_next_time(tmp_path: Path, s3_endpoint: str, bucket: str) -> None:
    late = Copies(f"s3://{bucket}-late", endpoint=s3_endpoint, allow_http=True)
    async with Workspaces(tmp_path / "w", uid=None, min_free_bytes=0, copies=late) as workspaces:
        files = await workspaces.create("s", is_new=True)
        for name in ("one", "two"):
            (files / name).write_bytes(b"1")
            with pytest.raises(StorageError):
                await workspaces.push("s", [name])
        assert await workspaces.restore("s") == 0  # a session can go on without its copies

        make_bucket(s3_endpoint, f"{bucket}-late")
        await workspaces.push("s", [])

    assert await _keys(late) == ["sessions/s/files/one", "sessions/s/files/two"]


async def test_a_removed_session_leaves_nothing_in_the_store(copied: Workspaces, copies: Copies) -> None:
    await copied.create("s2", is_new=True)
    for session in ("s", "s2"):
        await copied.write(session, "f", chunked(b"1"), **ROOM)
        await copied.write(session, "x" * 200 + "/" + "é" * 120 + "/" + "é" * 120, chunked(b"1"), **ROOM)

    await copied.remove("s")

    keys = await _keys(copies)
    assert keys
    assert all(key.startswith("sessions/s2/") for key in keys)
    await copied.remove("s2")
    assert await _keys(copies) == []


async def test_a_removed_file_or_directory_is_removed_from_the_store(copied: Workspaces, copies: Copies) -> None:
    long = "d/" + "/".join(["é" * 120] * 4)
    for path in ("d/1", "d/e/2", "d2", "f", long):
        await copied.write("s", path, chunked(b"1"), **ROOM)

    await copied.delete("s", "f")
    await copied.delete("s", "d", recursive=True)

    assert await _keys(copies) == ["sessions/s/files/d2"]


async def test_an_upload_that_can_not_be_copied_did_not_happen(
    tmp_path: Path, copies: Copies, s3_endpoint: str
) -> None:
    lost = Copies("s3://no-such-bucket", endpoint=s3_endpoint, allow_http=True)
    async with Workspaces(tmp_path / "w", uid=None, min_free_bytes=0, copies=lost) as workspaces:
        files = await workspaces.create("s", is_new=True)
        (files / "f").write_bytes(b"before")

        with pytest.raises(StorageError):
            await workspaces.write("s", "f", chunked(b"after"), **ROOM)
        with pytest.raises(StorageError):
            await workspaces.write("s", "d/f", chunked(b"after" * PART), **ROOM)

        assert _tree(files) == {b"f": b"before"}
        assert os.listdir(files) == ["f"]
        assert os.listdir(files.parent / "incoming") == []


async def test_an_upload_that_finds_no_place_in_the_end_leaves_no_copy(copied: Workspaces, copies: Copies) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"1"
        (copied.files("s") / "f").mkdir()

    with pytest.raises(WorkspaceFileError):
        await copied.write("s", "f", chunks(), **ROOM)

    assert await _keys(copies) == []


async def test_a_session_whose_copies_can_not_be_removed_is_an_orphan(
    tmp_path: Path, copies: Copies, s3_endpoint: str
) -> None:
    root = tmp_path / "w"
    lost = Copies("s3://no-such-bucket", endpoint=s3_endpoint, allow_http=True)
    async with Workspaces(root, uid=None, min_free_bytes=0, copies=lost) as workspaces:
        (await workspaces.create("s") / "f").write_bytes(b"1")
        with pytest.raises(StorageError):
            await workspaces.remove("s")
        (orphan,) = await workspaces.orphans([])
    await copies.put("sessions/s/files/f", b"1")

    async with Workspaces(root, uid=None, min_free_bytes=0, copies=copies) as workspaces:
        await workspaces.remove(orphan)

    assert os.listdir(root) == []
    assert await _keys(copies) == []


async def test_a_presigned_url_gives_what_the_file_is_now(copied: Workspaces) -> None:
    stored = await copied.write("s", 'my "file".csv', chunked(b"old"), **ROOM)
    (copied.files("s") / 'my "file".csv').write_bytes(b"newer")

    url = await copied.presigned("s", stored.path, 60)

    assert url is not None
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=30) as answer:
        assert answer.read() == b"newer"
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="my _file_.csv"')


async def test_a_presigned_url_of_what_is_as_it_was_copied_copies_nothing(copied: Workspaces, copies: Copies) -> None:
    stored = await copied.write("s", "f", chunked(b"data"), **ROOM)
    # Another content, to tell the copies apart; as to time and size they are the same.
    head = await copies.head("sessions/s/files/f")
    assert head is not None
    await copies.put("sessions/s/files/f", b"copy", facts=head.facts)

    await copied.presigned("s", stored.path, 60)

    assert b"".join([data async for data in copies.get("sessions/s/files/f")]) == b"copy"


async def test_without_a_store_there_is_nothing_to_copy(workspaces: Workspaces) -> None:
    await workspaces.write("s", "f", chunked(b"data"), **ROOM)

    await workspaces.push("s", ["f"])
    assert await workspaces.restore("s") == 0
    assert await workspaces.presigned("s", "f") is None


async def test_keys_that_are_not_ours_are_left_alone(elsewhere: Workspaces, copies: Copies) -> None:
    await copies.put("sessions/s/files/a b", b"1")
    await copies.put("sessions/s/files/f", b"1")
    files = await elsewhere.create("s")

    assert await elsewhere.restore("s") == 1
    assert os.listdir(files) == ["f"]
    assert names.object_key("a b") == "a!20b"


async def test_whatever_comes_at_the_same_time_the_copy_is_of_what_stays(copied: Workspaces, copies: Copies) -> None:
    path = copied.files("s") / "f"
    for turn in range(12):
        path.write_bytes(b"code %d" % turn)
        upload = copied.write("s", "f", chunked(b"upload %d" % turn), **ROOM)
        push = copied.push("s", ["f"])
        delete = copied.delete("s", "f") if turn % 3 == 2 else asyncio.sleep(0)

        await asyncio.gather(*((upload, push, delete) if turn % 2 else (delete, push, upload)))

        there = await copies.head("sessions/s/files/f")
        assert (there is not None) == path.exists()
        if there is not None:
            assert b"".join([data async for data in copies.get(there.key)]) == path.read_bytes()


async def test_an_upload_that_is_cancelled_anywhere_has_a_copy_if_it_has_a_place(
    copied: Workspaces, copies: Copies
) -> None:
    path = copied.files("s") / "f"
    for milliseconds in range(0, 30, 2):
        task = asyncio.create_task(copied.write("s", "f", chunked(b"data"), **ROOM))
        await asyncio.sleep(milliseconds / 1000)
        task.cancel()
        await asyncio.wait([task])

        assert (await copies.head("sessions/s/files/f") is not None) == path.exists()
        assert os.listdir(path.parent.parent / "incoming") == []
        if path.exists():
            await copied.delete("s", "f")
