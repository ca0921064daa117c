"""A disk that is really full: a small one, mounted where nobody else sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TEST = """
import asyncio, os, sys
from pathlib import Path
from ipybox.control.errors import StorageFullError
from ipybox.control.storage.workspaces import Workspaces
ROOM = {"limit": 100_000_000, "quota": 1_000_000_000}

async def chunked(*parts):
    for part in parts:
        yield part

async def refused(workspaces, path, *parts):
    try:
        await workspaces.write("s", path, chunked(*parts), **ROOM)
    except StorageFullError as error:
        return str(error)
    raise AssertionError("was taken")

async def fills(path, size):
    yield b"x" * 1000
    Path(path).write_bytes(b"x" * size)  # code is faster
    yield b"x" * 1_000_000

async def main(disk):
    async with Workspaces(Path(disk, "w"), uid=None, min_free_bytes=0) as workspaces:
        files = await workspaces.create("s")
        incoming = files.parent / "incoming"
        await workspaces.write("s", "kept", chunked(b"before"), **ROOM)

        # Too large.
        await refused(workspaces, "kept", *[b"x" * 300_000] * 10)
        await refused(workspaces, "d/e/f", b"x" * 3_000_000)
        assert os.listdir(files) == ["kept"] and os.listdir(incoming) == []

        # Large enough for the half of it.
        try:
            await workspaces.write("s", "kept", fills(files / "code", 1_500_000), **ROOM)
            raise AssertionError("was taken")
        except StorageFullError:
            pass
        (files / "code").unlink()
        assert (files / "kept").read_bytes() == b"before" and os.listdir(incoming) == []

        # No inode for another directory.
        left = os.statvfs(disk).f_ffree
        for number in range(left - 2):
            (files / f"{number}").touch()
        print(await refused(workspaces, "a/b/c/d", b"x"))
        assert not (files / "a").exists() and os.listdir(incoming) == []
        (files / "last").touch()
        (files / "very-last").touch()
        await refused(workspaces, "f", b"x")
        await refused(workspaces, "kept", b"x")

        # And it works again as soon as there is room; removing needs none.
        for number in range(10):
            await workspaces.delete("s", f"{number}")
        await workspaces.write("s", "a/b/c/d", chunked(b"x"), **ROOM)
        (files / "fill").write_bytes(b"x" * (os.statvfs(disk).f_bavail * 4096 - 4096))
        await workspaces.remove("s")
        assert os.listdir(Path(disk, "w")) == []
    print("good")

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_refuses_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=2m,nr_inodes=64 tmpfs "$1" && exec "$2" -c "$3" "$1"'
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
        if subprocess.run([*unshare, "true"], capture_output=True, timeout=60).returncode:
            pytest.skip("no user namespace for a small disk")

    done = subprocess.run(
        [*unshare, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, _TEST],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.stdout.splitlines() == ["no room is left on the disk", "good"], done.stderr
