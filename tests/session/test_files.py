"""Files of a sandbox: what goes in comes out, and nothing leads out of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ipybox.errors import PolicyError, SandboxFileError
from ipybox.session import AsyncSandbox
from ipybox.session.frames import BODY_LIMIT

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]


async def fails(sandbox: AsyncSandbox, method: str, *arguments: object) -> int:
    with pytest.raises(SandboxFileError) as caught:
        await getattr(sandbox.files, method)(*arguments)
    assert caught.value.path == arguments[0]
    return caught.value.errno


async def test_what_was_written_is_read(sandbox: AsyncSandbox) -> None:
    await sandbox.files.write("a.txt", "grün\n")
    await sandbox.files.write("/workspace/b.bin", bytes(range(256)))
    assert await sandbox.files.read("/workspace/a.txt") == "grün\n"
    assert await sandbox.files.read_bytes("b.bin") == bytes(range(256))
    assert await sandbox.files.read("b.bin")  # what is no text is replaced


async def test_parents_are_made(sandbox: AsyncSandbox) -> None:
    await sandbox.files.write("deep/er/file", "x")
    assert await sandbox.files.read("deep/er/file") == "x"


async def test_permissions_are_those_that_were_asked_for(sandbox: AsyncSandbox) -> None:
    await sandbox.files.write("run.sh", "#!/bin/sh\necho ran\n", mode="0755")
    assert (await sandbox.commands.run("./run.sh; stat -c %a run.sh")).stdout == "ran\n755\n"
    await sandbox.files.write("plain", "")
    assert (await sandbox.commands.run("stat -c %a plain")).stdout == "644\n"


async def test_a_file_is_replaced_as_a_whole(sandbox: AsyncSandbox) -> None:
    await sandbox.files.write("a", "a long text")
    await sandbox.files.write("a", "short")
    assert await sandbox.files.read("a") == "short"
    assert [entry.name for entry in await sandbox.files.list()] == ["a"]


async def test_a_directory_is_listed_in_order_with_facts(sandbox: AsyncSandbox) -> None:
    await sandbox.files.mkdir("z")
    await sandbox.files.write("a", "12345", mode=0o600)
    await sandbox.commands.run("ln -s z link; ln -s nowhere dead")
    entries = {entry.name: entry for entry in await sandbox.files.list("/workspace")}
    assert list(entries) == ["a", "dead", "link", "z"]
    assert entries["a"].path == "/workspace/a"
    assert (entries["a"].is_dir, entries["a"].size, entries["a"].mode) == (False, 5, 0o600)
    assert (entries["z"].is_dir, entries["z"].is_link) == (True, False)
    assert (entries["link"].is_dir, entries["link"].is_link) == (True, True)
    assert entries["dead"].is_link
    assert entries["a"].to_dict()["modified"] > 0


async def test_names_that_are_no_text_are_listed_and_can_be_read(sandbox: AsyncSandbox) -> None:
    await sandbox.run_code("open(b'\\xff', 'w').write('odd')")
    (entry,) = await sandbox.files.list()
    assert await sandbox.files.read(entry.path) == "odd"


async def test_files_and_directories_are_removed(sandbox: AsyncSandbox) -> None:
    await sandbox.files.write("d/e/f", "")
    await sandbox.files.write("g", "")
    await sandbox.files.remove("g")
    await sandbox.files.remove("d")
    assert await sandbox.files.list() == []
    assert not await sandbox.files.exists("d")


async def test_a_link_is_removed_and_not_what_it_leads_to(sandbox: AsyncSandbox) -> None:
    await sandbox.files.write("d/f", "")
    await sandbox.commands.run("ln -s d link")
    await sandbox.files.remove("link")
    assert await sandbox.files.exists("d/f")


async def test_errors_are_those_of_the_system(sandbox: AsyncSandbox) -> None:
    await sandbox.files.mkdir("d")
    await sandbox.files.mkdir("d")
    assert await fails(sandbox, "read", "missing") == errno.ENOENT
    assert await fails(sandbox, "read", "d") == errno.EISDIR
    assert await fails(sandbox, "write", "d", "x") == errno.EISDIR
    assert await fails(sandbox, "list", "missing") == errno.ENOENT
    assert await fails(sandbox, "remove", "missing") == errno.ENOENT
    assert await fails(sandbox, "mkdir", "d", False) == errno.EEXIST
    assert await fails(sandbox, "mkdir", "a/b", False) == errno.ENOENT
    assert await fails(sandbox, "write", "/usr/x", "x") == errno.EROFS


async def test_wrong_arguments_are_errors_before_anything_is_asked(sandbox: AsyncSandbox) -> None:
    with pytest.raises(ValueError, match="path"):
        await sandbox.files.read("a\0b")
    with pytest.raises(TypeError, match="content"):
        await sandbox.files.write("a", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="content has"):
        await sandbox.files.write("a", bytes(BODY_LIMIT + 1))
    with pytest.raises(ValueError):
        await sandbox.files.write("a", "", mode="rwx")


async def test_nothing_but_ordinary_files_is_read_and_nothing_waits_for_ever(sandbox: AsyncSandbox) -> None:
    await sandbox.commands.run("mkfifo pipe; ln -s /dev/zero zero; ln -s loop loop")
    assert await fails(sandbox, "read", "pipe") == errno.EINVAL
    assert await fails(sandbox, "read", "zero") == errno.EINVAL
    assert await fails(sandbox, "read", "loop") == errno.ELOOP
    await sandbox.files.write("pipe", "now a file")
    assert await sandbox.files.read("pipe") == "now a file"


async def test_a_file_that_is_too_large_for_one_answer_is_refused(sandbox: AsyncSandbox) -> None:
    await sandbox.commands.run("truncate -s 65M big; truncate -s 64M fits")
    assert await fails(sandbox, "read", "big") == errno.EFBIG
    assert len(await sandbox.files.read_bytes("fits")) == BODY_LIMIT


async def test_the_workspace_has_its_size_and_a_full_one_keeps_what_is_there() -> None:
    async with AsyncSandbox.create(disk=1_000_000) as sandbox:
        await sandbox.files.write("a", "kept")
        assert await fails(sandbox, "write", "a", bytes(2_000_000)) == errno.ENOSPC
        assert await sandbox.files.read("a") == "kept"
        assert [entry.name for entry in await sandbox.files.list()] == ["a"]


async def test_no_path_and_no_link_leads_to_a_file_of_this_machine(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    up = "../" * 20
    for path in (str(secret), f"{up}{secret}", f"/proc/1/root{secret}", f"/proc/self/root{secret}"):
        with pytest.raises(SandboxFileError):
            await sandbox.files.read(path)
    await sandbox.commands.run(["ln", "-s", str(secret), "link"])
    await sandbox.commands.run(["ln", "-s", str(tmp_path), "dir"])
    assert await fails(sandbox, "read", "link") == errno.ENOENT
    await sandbox.files.write("link", "inside")
    await sandbox.files.write("dir/secret", "inside")
    assert await sandbox.files.read(str(secret)) == "inside"  # the sandbox's own place of that name
    await sandbox.files.remove(str(secret))
    assert secret.read_text() == "host"
    assert await sandbox.files.read("/etc/passwd") != Path("/etc/passwd").read_text()


async def test_what_may_be_read_is_read_and_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    async with AsyncSandbox.create(readable_paths=[tmp_path]) as sandbox:
        assert await sandbox.files.read(tmp_path / "data") == "mine"
        with pytest.raises(SandboxFileError):
            await sandbox.files.write(tmp_path / "data", "theirs")
    assert (tmp_path / "data").read_text() == "mine"


async def test_what_is_to_be_read_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"readable_paths\[0\]"):
        await AsyncSandbox.create(readable_paths=[tmp_path / "missing"])
