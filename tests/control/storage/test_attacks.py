"""Code that swaps what it has for links to what it has not, as fast as it can, while clients work in its workspace."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipybox.control.errors import ControlError, WorkspaceFileError
from ipybox.control.storage import beneath
from ipybox.control.storage.workspaces import Workspaces
from tests.control.storage.conftest import chunked

pytestmark = pytest.mark.asyncio
ROOM = {"limit": 100_000_000, "quota": 1_000_000_000}
TURNS = 80
SECRET = b"a secret of the host"

_SWAP = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
pairs = [tuple(os.fsencode(each) for each in pair.split("|")) for pair in sys.argv[1:]]
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print("swapping", flush=True)
while True:
    for one, other in pairs:
        libc.renameat2(-100, one, -100, other, 2)  # RENAME_EXCHANGE
"""
_BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
os.chdir(sys.argv[1])
print("busy", flush=True)
while True:
    for change in (lambda: os.makedirs("d/a/b/c/d/e"), lambda: open("d/a/b/f", "w").close(),
                   lambda: os.rename("d/a/b/c", "moved"), lambda: os.rename("moved", "d/c"),
                   lambda: os.symlink("/etc", "d/link"), lambda: os.rename("d/c", "d/a/b/c")):
        try:
            change()
        except OSError:
            pass
"""


@contextmanager
def _running(code: str, *arguments: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        attacker.stdout.readline()
        yield
        assert attacker.poll() is None
        attacker.stdin.close()


@pytest.fixture(params=["openat2", "by parts"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems without ``openat2`` are as safe."""
    if request.param == "by parts":
        monkeypatch.setattr(beneath, "has_openat2", lambda: False)
    else:
        assert beneath.has_openat2()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must stay as it is."""
    directory = tmp_path / "outside"
    (directory / "sub").mkdir(parents=True)
    for name in ("f", "sub/f"):
        (directory / name).write_bytes(SECRET)
    yield directory
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == ["f", "sub", "sub/f"]
    assert (directory / "f").read_bytes() == (directory / "sub/f").read_bytes() == SECRET


async def test_no_byte_of_the_host_is_read_written_listed_or_removed(workspaces: Workspaces, outside: Path) -> None:
    files = workspaces.files("s")
    (files / "d" / "sub").mkdir(parents=True)
    (files / "d" / "f").write_bytes(b"inside")
    (files / "d" / "sub" / "f").write_bytes(b"inside")
    (files / "link").symlink_to(outside)
    (files / "file").write_bytes(b"inside")
    (files / "file-link").symlink_to(outside / "f")
    results = {"done": 0, "refused": 0}

    async def read(path: str) -> None:
        async with await workspaces.open("s", path) as file:
            assert SECRET not in b"".join([data async for data in file.chunks()])

    async def write(path: str) -> None:
        await workspaces.write("s", path, chunked(b"inside"), **ROOM)

    async def delete(path: str) -> None:
        await workspaces.delete("s", path)

    async def look(path: str) -> None:
        for entry in await workspaces.list("s", path, limit=100, recursive=True):
            assert entry.size in (0, 6), entry
        for entry in await workspaces.list("s", path, limit=100):
            assert entry.kind != "file" or entry.size == 6, entry

    pairs = [f"{files}/d|{files}/link", f"{files}/file|{files}/file-link"]
    with _running(_SWAP, *pairs):
        before = await workspaces.snapshot("s")
        for turn in range(TURNS):
            for attempt in (
                write("d/new"),
                write("d/sub/f"),
                write("d/sub/new/er/f"),
                write("file"),
                read("d/f"),
                read("d/sub/f"),
                read("file"),
                look("d"),
                look("d/sub"),
                look(""),
                delete("d/new"),
                workspaces.delete("s", "d/sub/new", recursive=True),
            ):
                try:
                    await attempt
                    results["done"] += 1
                except WorkspaceFileError:
                    results["refused"] += 1
            if turn % 10 == 0:
                for artifact in await workspaces.changes("s", before):
                    assert artifact.size in (0, 6), artifact
                await workspaces.usage("s")

    assert results["done"] > 0
    assert results["refused"] > 0  # it did swap under us
    assert os.listdir(files.parent / "incoming") == []


async def test_a_tree_that_moves_while_it_is_walked_ends_nobody_up_elsewhere(
    workspaces: Workspaces, outside: Path
) -> None:
    files = workspaces.files("s")
    with _running(_BUSY, str(files)):
        before = await workspaces.snapshot("s")
        for _ in range(TURNS):
            for entry in await workspaces.list("s", limit=1000, recursive=True):
                assert entry.path.split("/")[0] in ("d", "moved")
                assert "link" not in entry.path
            await workspaces.compare("s", before)
            await workspaces.usage("s")
            for path in ("d", "moved"):
                try:
                    await workspaces.delete("s", path, recursive=True)
                except ControlError:
                    pass


async def test_a_session_is_removed_though_code_is_still_at_it(workspaces: Workspaces, outside: Path) -> None:
    files = workspaces.files("s")
    (files / "link").symlink_to(outside)
    (files / "d").mkdir()
    with _running(_SWAP, f"{files}/d|{files}/link"):
        await workspaces.remove("s")
    assert not files.exists()
    assert await workspaces.orphans([]) == []


async def test_fifty_clients_at_once_are_as_safe_as_one(workspaces: Workspaces, outside: Path) -> None:
    files = workspaces.files("s")
    (files / "d").mkdir()
    (files / "link").symlink_to(outside)

    async def client(number: int) -> None:
        for turn in range(10):
            try:
                await workspaces.write("s", f"d/{number % 7}/{turn}", chunked(b"in", b"side"), **ROOM)
            except WorkspaceFileError:
                pass

    with _running(_SWAP, f"{files}/d|{files}/link"):
        await asyncio.gather(*(client(number) for number in range(50)))
    assert os.listdir(files.parent / "incoming") == []
