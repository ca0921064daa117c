"""Files of sessions on the disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ipybox.control.errors import FileTooLargeError, StorageFullError, WorkspaceFileError
from ipybox.control.storage.files import OpenedFile
from ipybox.control.storage.workspaces import Workspaces
from tests.control.storage.conftest import chunked

pytestmark = pytest.mark.asyncio
ROOM = {"limit": 100_000_000, "quota": 1_000_000_000}
ROOT = os.geteuid() == 0


async def _read(workspaces: Workspaces, path: str, start: int = 0, stop: int | None = None, size: int = 1000) -> bytes:
    async with await workspaces.open("s", path) as file:
        return b"".join([data async for data in file.chunks(start, stop, size)])


def _left_over(workspaces: Workspaces) -> list[str]:
    return os.listdir(workspaces.files("s").parent / "incoming")


# ---- directories --------------------------------------------------------------------------------------------------


async def test_a_session_has_directories_of_its_own(workspaces: Workspaces) -> None:
    files = await workspaces.create("one")
    assert files == workspaces.files("one")
    assert files.is_dir()
    assert workspaces.packages("one").is_dir()
    (files / "f").write_text("kept")

    assert await workspaces.create("one") == files

    assert (files / "f").read_text() == "kept"
    assert stat.S_IMODE(files.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("session_id", ["", ".", "..", "a/b", "/a", ".removed-x", "a\0", "a" * 129, "-a", "ä", "a\n"])
async def test_an_id_that_is_no_name_is_refused(workspaces: Workspaces, session_id: str) -> None:
    with pytest.raises(ValueError):
        workspaces.files(session_id)
    with pytest.raises(ValueError):
        await workspaces.create(session_id)


async def test_a_removed_session_leaves_nothing(workspaces: Workspaces) -> None:
    await workspaces.write("s", "a/b", chunked(b"x"), **ROOM)
    root = workspaces.files("s").parent.parent

    await workspaces.remove("s")
    await workspaces.remove("s")

    assert os.listdir(root) == []
    with pytest.raises(WorkspaceFileError) as raised:
        await workspaces.open("s", "a/b")
    assert raised.value.is_missing


async def test_orphans_are_what_no_session_is_known_of(workspaces: Workspaces) -> None:
    root = workspaces.files("s").parent.parent
    await workspaces.create("other")
    (root / ".removed-0123~gone" / "files").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to("/")

    found = await workspaces.orphans(["s", "unknown"])
    assert found == [".removed-0123~gone", "other"]
    for name in found:
        await workspaces.remove(name)

    assert await workspaces.orphans({"s"}) == []
    assert (await workspaces.create("s")).is_dir()


async def test_what_a_dead_server_left_half_written_is_removed(workspaces: Workspaces, tmp_path: Path) -> None:
    half = workspaces.files("s").parent / "incoming" / "0123456789abcdef-x"
    half.write_bytes(b"half")

    await workspaces.create("s")

    assert _left_over(workspaces) == []


@pytest.mark.skipif(not ROOT, reason="only root gives files away")
async def test_what_is_made_belongs_to_who_runs_the_code(tmp_path: Path) -> None:
    async with Workspaces(tmp_path / "w", uid=54321, min_free_bytes=0) as workspaces:
        files = await workspaces.create("s")
        await workspaces.write("s", "a/b/c", chunked(b"x"), **ROOM)

        owned = [files, workspaces.packages("s"), files / "a", files / "a/b", files / "a/b/c"]
        assert {(each.stat().st_uid, each.stat().st_gid) for each in owned} == {(54321, 54321)}
        assert (files.parent.stat().st_uid, (files.parent / "incoming").stat().st_uid) == (0, 0)


# ---- writing ------------------------------------------------------------------------------------------------------


async def test_a_file_is_what_was_sent(workspaces: Workspaces) -> None:
    data = os.urandom(1_000_000)
    begin = datetime.now(UTC) - timedelta(seconds=1)

    stored = await workspaces.write("s", "uploads/x.csv", chunked(data[:10], data[10:700_000], data[700_000:]), **ROOM)

    assert (workspaces.files("s") / "uploads/x.csv").read_bytes() == data
    assert stored.name == "x.csv"
    assert stored.path == "uploads/x.csv"
    assert stored.container_path == "/workspace/uploads/x.csv"
    assert stored.size == 1_000_000
    assert stored.mime_type == "text/csv"
    assert stored.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert stored.modified_time > begin
    async with await workspaces.open("s", "uploads/x.csv") as file:
        assert (file.size, file.etag, file.mime_type) == (1_000_000, stored.etag, "text/csv")
        assert file.modified_at == stored.modified_time
    assert _left_over(workspaces) == []


async def test_files_are_readable_whatever_the_umask(workspaces: Workspaces) -> None:
    before = os.umask(0o077)
    try:
        await workspaces.write("s", "a/b", chunked(b"x"), **ROOM)
    finally:
        os.umask(before)
    files = workspaces.files("s")
    assert stat.S_IMODE((files / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((files / "a/b").stat().st_mode) == 0o644


async def test_an_empty_file_is_a_file(workspaces: Workspaces) -> None:
    stored = await workspaces.write("s", "f", chunked(), limit=0, quota=1_000_000)
    assert stored.size == 0
    assert await _read(workspaces, "f") == b""


async def test_a_file_takes_the_place_of_another_at_once(workspaces: Workspaces) -> None:
    first = await workspaces.write("s", "f", chunked(b"first"), **ROOM)
    (workspaces.files("s") / "hard").hardlink_to(workspaces.files("s") / "f")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"sec"
        assert await _read(workspaces, "f") == b"first"
        yield b"ond"

    second = await workspaces.write("s", "f", chunks(), **ROOM)

    assert await _read(workspaces, "f") == b"second"
    assert await _read(workspaces, "hard") == b"first"
    assert first.etag != second.etag


async def test_a_file_of_just_the_limit_is_taken_and_one_more_byte_is_not(workspaces: Workspaces) -> None:
    await workspaces.write("s", "f", chunked(b"12345"), limit=5, quota=1_000_000)
    with pytest.raises(FileTooLargeError):
        await workspaces.write("s", "f", chunked(b"123", b"456"), limit=5, quota=1_000_000)
    with pytest.raises(FileTooLargeError):
        await workspaces.write("s", "new/f", chunked(b"123456"), limit=5, quota=1_000_000)

    assert await _read(workspaces, "f") == b"12345"
    assert os.listdir(workspaces.files("s")) == ["f"]
    assert _left_over(workspaces) == []


async def test_a_workspace_never_gets_larger_than_its_quota(workspaces: Workspaces) -> None:
    (workspaces.files("s") / "there").write_bytes(b"x" * 500_000)
    quota = await workspaces.usage("s") + 100_000

    with pytest.raises(StorageFullError):
        await workspaces.write("s", "f", chunked(b"x" * 100_001), limit=10**6, quota=quota)
    await workspaces.write("s", "f", chunked(b"x" * 100_000), limit=10**6, quota=quota)

    assert sorted(os.listdir(workspaces.files("s"))) == ["f", "there"]
    assert _left_over(workspaces) == []


async def test_uploads_side_by_side_share_a_quota(workspaces: Workspaces) -> None:
    quota = await workspaces.usage("s") + 10 * 100_000 + 50_000
    started, go = asyncio.Semaphore(0), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        started.release()
        await go.wait()
        yield b"x" * 99_999

    async def release() -> None:
        for _ in range(30):
            await started.acquire()
        go.set()

    results = await asyncio.gather(
        *(workspaces.write("s", f"f{number}", chunks(), limit=10**6, quota=quota) for number in range(30)),
        release(),
        return_exceptions=True,
    )

    refused = [each for each in results if isinstance(each, BaseException)]
    assert refused
    assert {type(each) for each in refused} == {StorageFullError}
    kept = os.listdir(workspaces.files("s"))
    assert 1 <= len(kept) <= 10
    assert await workspaces.usage("s") <= quota
    assert _left_over(workspaces) == []
    # And what was refused is not counted any more.
    await workspaces.write("s", "f", chunked(b"x"), limit=10, quota=await workspaces.usage("s") + 10)


async def test_nothing_is_taken_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    async with Workspaces(tmp_path / "w", uid=None, min_free_bytes=0) as workspaces:
        await workspaces.create("s")
        free = await workspaces.free_bytes()
    async with Workspaces(tmp_path / "w", uid=None, min_free_bytes=2 * free) as workspaces:
        with pytest.raises(StorageFullError):
            await workspaces.write("s", "d/f", chunked(b"x"), **ROOM)
        with pytest.raises(StorageFullError):
            await workspaces.create("new")
        assert os.listdir(workspaces.files("s")) == []
        assert _left_over(workspaces) == []


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../x", "a//x", "x/", "", "a\0b", "x" * 256, "." * 2])
async def test_a_path_that_leads_elsewhere_is_refused(workspaces: Workspaces, path: str) -> None:
    for attempt in (
        workspaces.write("s", path, chunked(b"x"), **ROOM),
        workspaces.open("s", path),
        workspaces.delete("s", path),
    ):
        with pytest.raises(WorkspaceFileError):
            await attempt
    assert os.listdir(workspaces.files("s")) == []


async def test_there_can_be_no_file_where_something_else_is(workspaces: Workspaces, tmp_path: Path) -> None:
    files = workspaces.files("s")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("untouched")
    (files / "directory").mkdir()
    (files / "file").touch()
    (files / "link").symlink_to(outside)
    (files / "file-link").symlink_to(outside / "f")
    (files / "dangling").symlink_to(outside / "new")
    os.mkfifo(files / "pipe")
    before = sorted(os.listdir(files))

    for path in ("directory", "file/x", "link/x", "link/f", "file-link", "dangling", "pipe", "pipe/x", "link/d/e"):
        asked = False

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal asked
            asked = True
            yield b"evil"

        with pytest.raises(WorkspaceFileError) as raised:
            await workspaces.write("s", path, chunks(), **ROOM)
        assert not raised.value.is_missing
        assert not asked  # no byte is taken for nothing

    assert sorted(os.listdir(files)) == before
    assert os.listdir(outside) == ["f"]
    assert (outside / "f").read_text() == "untouched"
    assert _left_over(workspaces) == []


async def test_directories_that_were_made_for_nothing_are_removed(workspaces: Workspaces) -> None:
    files = workspaces.files("s")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        # While it comes, code makes a directory of the name.
        (files / "a/b/c").mkdir(parents=True)

    with pytest.raises(WorkspaceFileError):
        await workspaces.write("s", "a/b/c", chunks(), **ROOM)
    assert (files / "a/b/c").is_dir()
    assert _left_over(workspaces) == []


async def test_an_upload_that_is_cancelled_leaves_nothing(workspaces: Workspaces) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        begun.set()
        await never.wait()

    task = asyncio.create_task(workspaces.write("s", "new/f", chunks(), **ROOM))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert os.listdir(workspaces.files("s")) == []
    assert _left_over(workspaces) == []


async def test_an_upload_that_is_cancelled_anywhere_is_whole_or_nothing(workspaces: Workspaces) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    for steps in range(60):
        task = asyncio.create_task(workspaces.write("s", "f", chunked(b"x" * 300_000, b"y"), **ROOM))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        assert _left_over(workspaces) == []
        path = workspaces.files("s") / "f"
        if path.exists():
            assert path.read_bytes() == b"x" * 300_000 + b"y"
            path.unlink()
    assert len(os.listdir("/proc/self/fd")) == fds


async def test_an_upload_whose_source_fails_leaves_nothing(workspaces: Workspaces) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await workspaces.write("s", "f", chunks(), **ROOM)

    assert os.listdir(workspaces.files("s")) == []
    assert _left_over(workspaces) == []


async def test_an_upload_to_a_session_that_is_removed_meanwhile_is_an_error(workspaces: Workspaces) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await workspaces.remove("s")
        yield b"x"

    with pytest.raises(WorkspaceFileError) as raised:
        await workspaces.write("s", "f", chunks(), **ROOM)

    assert raised.value.is_missing
    assert await workspaces.orphans([]) == []


async def test_slow_clients_hold_no_thread(workspaces: Workspaces) -> None:
    begun, go = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"slow"
        begun.release()
        await go.wait()

    slow_ones = [asyncio.create_task(workspaces.write("s", f"slow{n}", slow(), **ROOM)) for n in range(50)]
    for _ in slow_ones:
        await begun.acquire()

    data = os.urandom(200_000)
    await asyncio.gather(*(workspaces.write("s", f"d{n % 5}/f{n}", chunked(data), **ROOM) for n in range(50)))
    assert [len(await _read(workspaces, f"d{n % 5}/f{n}", size=200_000)) for n in range(50)] == [200_000] * 50

    go.set()
    await asyncio.gather(*slow_ones)
    assert len(await workspaces.list("s", limit=1000)) == 55
    assert _left_over(workspaces) == []


# ---- reading ------------------------------------------------------------------------------------------------------


async def test_any_part_of_a_file_can_be_read(workspaces: Workspaces) -> None:
    data = os.urandom(10_000)
    await workspaces.write("s", "f", chunked(data), **ROOM)

    assert await _read(workspaces, "f", 10, 20) == data[10:20]
    assert await _read(workspaces, "f", 9_000, 20_000) == data[9_000:]
    assert await _read(workspaces, "f", 0, 0) == b""
    assert await _read(workspaces, "f", 20_000) == b""
    async with await workspaces.open("s", "f") as file:
        assert [len(part) async for part in file.chunks(1, 4_000, 1_500)] == [1_500, 1_500, 999]


async def test_only_regular_files_are_read_and_nothing_waits(workspaces: Workspaces) -> None:
    files = workspaces.files("s")
    (files / "directory").mkdir()
    (files / "link").symlink_to("/etc/passwd")
    (files / "up").symlink_to("..")
    os.mkfifo(files / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        where = os.open(files, os.O_PATH)
        listening.bind(f"/proc/self/fd/{where}/socket")
        os.close(where)
        odd = ["directory", "link", "up", "up/incoming", "pipe", "socket"]
        if ROOT:
            os.mknod(files / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # endless zeros
            odd.append("device")

        for path in odd:
            async with asyncio.timeout(20):
                with pytest.raises(WorkspaceFileError) as raised:
                    await workspaces.open("s", path)
            assert not raised.value.is_missing

    kinds = {entry.name: entry.kind for entry in await workspaces.list("s", limit=100)}
    assert kinds.pop("device", "other") == "other"
    assert kinds == {"directory": "directory", "link": "link", "up": "link", "pipe": "other", "socket": "other"}
    assert await workspaces.list("s", limit=100, recursive=True) == []
    for path in ("up", "link", "pipe"):
        with pytest.raises(WorkspaceFileError):
            await workspaces.open("s", f"{path}/x")


async def test_a_file_that_code_has_leased_keeps_nobody_waiting(workspaces: Workspaces) -> None:
    (workspaces.files("s") / "f").write_bytes(b"x")
    code = (
        "import fcntl, os, signal, sys; signal.signal(signal.SIGIO, signal.SIG_IGN);"
        "fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK);"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(workspaces.files("s") / "f")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(WorkspaceFileError, match="lock"):
            await workspaces.open("s", "f")
        await workspaces.write("s", "f", chunked(b"new"), **ROOM)
        assert await _read(workspaces, "f") == b"new"
        assert holder.poll() is None
        holder.communicate()


async def test_what_is_not_there_is_missing(workspaces: Workspaces) -> None:
    for attempt in (
        workspaces.open("s", "f"),
        workspaces.open("s", "d/f"),
        workspaces.list("s", "d", limit=10),
        workspaces.delete("s", "f"),
        workspaces.open("unknown", "f"),
        workspaces.write("unknown", "f", chunked(b"x"), **ROOM),
    ):
        with pytest.raises(WorkspaceFileError) as raised:
            await attempt
        assert raised.value.is_missing


async def test_a_file_that_shrinks_while_it_is_read_is_an_error(workspaces: Workspaces) -> None:
    path = workspaces.files("s") / "f"
    path.write_bytes(b"x" * 1000)
    async with await workspaces.open("s", "f") as file:
        reading = file.chunks(size=100)
        await anext(reading)
        os.truncate(path, 150)
        assert len(await anext(reading)) == 50
        with pytest.raises(WorkspaceFileError, match="shorter"):
            await anext(reading)


async def test_a_file_that_grows_while_it_is_read_gives_what_was_promised(workspaces: Workspaces) -> None:
    path = workspaces.files("s") / "f"
    path.write_bytes(b"x" * 1000)
    async with await workspaces.open("s", "f") as file:
        with path.open("ab") as more:
            more.write(b"y" * 1000)
        assert b"".join([part async for part in file.chunks()]) == b"x" * 1000
        assert b"".join([part async for part in file.chunks(500, 5000)]) == b"x" * 500


async def test_a_file_is_closed_on_the_way_out(workspaces: Workspaces) -> None:
    await workspaces.write("s", "f", chunked(b"x" * 1000), **ROOM)
    before = len(os.listdir("/proc/self/fd"))
    for steps in range(30):
        opened: list[OpenedFile] = []

        async def read(opened: list[OpenedFile]) -> None:
            async with await workspaces.open("s", "f") as file:
                opened.append(file)
                async for _ in file.chunks(size=10):
                    pass

        task = asyncio.create_task(read(opened))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_etag_changes_with_every_change(workspaces: Workspaces) -> None:
    path = workspaces.files("s") / "f"
    path.write_bytes(b"one")
    seen = set()
    for content in (b"one", b"two", b"two", b"three"):
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(0, 0))  # code may lie about when
        async with await workspaces.open("s", "f") as opened:
            seen.add(opened.etag)
        (entry,) = await workspaces.list("s", limit=1)
        assert entry.etag == opened.etag
        assert entry.etag.startswith('"')
        assert entry.etag.endswith('"')
    assert len(seen) == 4


@pytest.mark.parametrize("seconds", [-(2**40), -1, 0, 2**33, 2**40])
async def test_no_time_is_too_odd(workspaces: Workspaces, seconds: int) -> None:
    path = workspaces.files("s") / "f"
    path.touch()
    os.utime(path, (seconds, seconds))
    (entry,) = await workspaces.list("s", limit=1)
    assert entry.modified_time.tzinfo is UTC
    async with await workspaces.open("s", "f") as opened:
        assert opened.modified_at == entry.modified_time


@pytest.mark.skipif(ROOT, reason="root may read everything")
async def test_what_may_not_be_read_is_refused_with_the_reason(workspaces: Workspaces) -> None:
    files = workspaces.files("s")
    (files / "f").touch(0o000)
    (files / "d").mkdir()
    (files / "d/f").touch()
    (files / "d").chmod(0)
    for path in ("f", "d/f"):
        with pytest.raises(WorkspaceFileError, match="permissions"):
            await workspaces.open("s", path)
    with pytest.raises(WorkspaceFileError, match="permissions"):
        await workspaces.write("s", "d/g", chunked(b"x"), **ROOM)
    assert [each.path for each in await workspaces.list("s", limit=9, recursive=True)] == ["f"]
    await workspaces.remove("s")
    assert await workspaces.orphans([]) == []


# ---- listing and removing -----------------------------------------------------------------------------------------


async def test_a_list_is_sorted_and_bounded(workspaces: Workspaces) -> None:
    for path in ("b", "a/2", "a/1", "a/x/y", "c"):
        await workspaces.write("s", path, chunked(path.encode()), **ROOM)

    assert [each.name for each in await workspaces.list("s", limit=100)] == ["a", "b", "c"]
    assert [each.kind for each in await workspaces.list("s", limit=2)] == ["directory", "file"]
    assert [each.path for each in await workspaces.list("s", "a", limit=100)] == ["a/1", "a/2", "a/x"]
    recursive = await workspaces.list("s", limit=100, recursive=True)
    assert [each.path for each in recursive] == ["a/1", "a/2", "a/x/y", "b", "c"]
    assert [each.container_path for each in recursive][:2] == ["/workspace/a/1", "/workspace/a/2"]
    assert [each.size for each in recursive] == [3, 3, 5, 1, 1]
    assert [each.path for each in await workspaces.list("s", limit=3, recursive=True)] == ["a/1", "a/2", "a/x/y"]
    assert [each.path for each in await workspaces.list("s", "a/x", limit=9, recursive=True)] == ["a/x/y"]
    assert [each.path for each in await workspaces.list("s", "a/1", limit=9)] == ["a/1"]


async def test_a_list_follows_no_link(workspaces: Workspaces) -> None:
    (workspaces.files("s") / "out").symlink_to("/etc")
    (workspaces.files("s") / "in").mkdir()

    assert [(each.path, each.kind) for each in await workspaces.list("s", "out", limit=9)] == [("out", "link")]
    with pytest.raises(WorkspaceFileError):
        await workspaces.list("s", "out/ssl", limit=9)
    assert await workspaces.list("s", limit=9, recursive=True) == []


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"%FF", b"%25FF", "ünïcode😀".encode(), b"line\nfeed", b" ", b"~", b"a:b"]
)
async def test_every_name_that_is_listed_can_be_used(workspaces: Workspaces, name: bytes) -> None:
    files = os.fsencode(workspaces.files("s"))
    os.mkdir(files + b"/" + name)
    Path(os.fsdecode(files + b"/" + name + b"/" + name)).write_bytes(b"content")

    (entry,) = await workspaces.list("s", limit=10, recursive=True)
    entry.path.encode()
    assert await _read(workspaces, entry.path) == b"content"
    await workspaces.write("s", entry.path, chunked(b"new"), **ROOM)
    assert Path(os.fsdecode(files + b"/" + name + b"/" + name)).read_bytes() == b"new"
    (directory,) = await workspaces.list("s", limit=10)
    (listed,) = await workspaces.list("s", directory.path, limit=10)
    assert listed.path == entry.path
    await workspaces.delete("s", entry.path)
    assert os.listdir(files + b"/" + name) == []


async def test_a_file_is_removed_and_a_link_is_not_followed(workspaces: Workspaces, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    files = workspaces.files("s")
    (files / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(files / "pipe")
    (files / "up").symlink_to(tmp_path)
    await workspaces.write("s", "f", chunked(b"x"), **ROOM)

    for path in ("f", "link", "pipe"):
        await workspaces.delete("s", path)
    with pytest.raises(WorkspaceFileError):
        await workspaces.delete("s", "up/outside")
    await workspaces.delete("s", "up", recursive=True)

    assert os.listdir(files) == []
    assert (tmp_path / "outside").read_text() == "untouched"


async def test_a_directory_is_removed_only_if_one_says_so(workspaces: Workspaces) -> None:
    await workspaces.write("s", "d/e/f", chunked(b"x"), **ROOM)
    with pytest.raises(WorkspaceFileError):
        await workspaces.delete("s", "d")
    await workspaces.delete("s", "d", recursive=True)
    assert os.listdir(workspaces.files("s")) == []


async def test_usage_is_what_the_disk_holds(workspaces: Workspaces) -> None:
    empty = await workspaces.usage("s")
    files = workspaces.files("s")
    (files / "f").write_bytes(b"x" * 1_000_000)
    os.sync()
    once = await workspaces.usage("s")
    assert once - empty >= 1_000_000
    for number in range(10):
        (files / f"link{number}").hardlink_to(files / "f")
    (files / "symbolic").symlink_to("/usr")
    with (files / "sparse").open("wb") as sparse:
        sparse.truncate(10**12)
    assert await workspaces.usage("s") - once < 100_000


async def test_no_file_stays_open_and_no_thread_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with Workspaces(tmp_path / "w", uid=None, min_free_bytes=0) as workspaces:
        await workspaces.create("s")
        await workspaces.write("s", "a/b/f", chunked(b"x"), **ROOM)
        await workspaces.list("s", limit=9, recursive=True)
        await workspaces.compare("s", await workspaces.snapshot("s"))
        with pytest.raises(WorkspaceFileError):
            await workspaces.open("s", "a/b")
        with pytest.raises(WorkspaceFileError):
            await workspaces.write("s", "a/b/f/g", chunked(b"x"), **ROOM)
        await workspaces.delete("s", "a", recursive=True)
        await workspaces.remove("s")
        assert len(os.listdir("/proc/self/fd")) == before
        assert any(thread.name.startswith("storage") for thread in threading.enumerate())
    assert not any(thread.name.startswith("storage") for thread in threading.enumerate())
