"""Objects in a store that speaks S3 over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ipybox.control.errors import ServerSettingsError, StorageError
from ipybox.control.storage.copies import PART, Copies
from tests.control.storage.conftest import SECRET, chunked

pytestmark = pytest.mark.asyncio


async def _content(copies: Copies, key: str) -> bytes:
    return b"".join([data async for data in copies.get(key)])


async def _keys(copies: Copies, prefix: str) -> list[str]:
    return sorted([copy.key async for copy in copies.list(prefix)])


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_what_was_put_is_what_one_gets(copies: Copies, size: int) -> None:
    data = os.urandom(size)

    await copies.put("a/b", data)

    assert await _content(copies, "a/b") == data
    head = await copies.head("a/b")
    assert head is not None
    assert head.size == size


async def test_a_large_object_goes_and_comes_in_parts(copies: Copies) -> None:
    data = os.urandom(2 * PART + 12345)
    pieces = [data[start : start + 1_000_000] for start in range(0, len(data), 1_000_000)]

    await copies.put("large", chunked(*pieces), size=len(data), facts={"Content-Type": "text/csv", "mode": "755"})

    assert await _content(copies, "large") == data
    assert [len(part) async for part in copies.get("large")] == [PART, PART, 12345]
    head = await copies.head("large")
    assert head is not None
    assert head.etag is not None
    assert "-" in head.etag  # what S3 calls one that came in parts
    assert head.facts["mode"] == "755"
    assert head.facts["Content-Type"] == "text/csv"


async def test_a_file_of_ours_can_be_put_by_its_path(copies: Copies, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (PART + 1))

    await copies.put("f", tmp_path / "f")

    assert await _content(copies, "f") == b"x" * (PART + 1)


async def test_chunks_that_fail_leave_no_object(copies: Copies) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * PART
        raise OSError("no more")

    with pytest.raises(StorageError):
        await copies.put("half", failing(), size=3 * PART)

    assert await copies.head("half") is None


async def test_a_prefix_is_removed_and_its_neighbour_is_not(copies: Copies) -> None:
    for key in ("s/1/a", "s/1/b/c", "s/1/!FF", "s/10/a"):
        await copies.put(key, b"x")

    assert await copies.delete_prefix("s/1/") == 3

    assert await _keys(copies, "s/") == ["s/10/a"]
    assert await copies.delete_prefix("s/1/") == 0
    await copies.delete(["s/1/a", "never/was"])


async def test_lists_have_more_than_one_page(copies: Copies) -> None:
    keys = [f"many/{number:02}" for number in range(45)]
    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(copies.put(key, b""))

    assert await _keys(copies, "many/") == keys
    assert await copies.delete_prefix("many/") == 45
    assert await _keys(copies, "many/") == []


async def test_there_is_nothing_where_nothing_was_put(copies: Copies) -> None:
    assert await copies.head("nothing") is None
    with pytest.raises(StorageError, match="nothing"):
        await _content(copies, "nothing")


async def test_an_object_that_changes_while_it_is_read_is_an_error_and_no_mixture(copies: Copies) -> None:
    await copies.put("f", chunked(b"a" * PART, b"a"), size=PART + 1)
    reading = copies.get("f")
    assert set(await anext(reading)) == set(b"a")
    await copies.put("f", chunked(b"b" * PART, b"b"), size=PART + 1)

    with pytest.raises(StorageError):
        await anext(reading)


async def test_who_has_a_presigned_url_needs_no_key(copies: Copies) -> None:
    await copies.put("a/some file", b"content", facts={"Content-Disposition": 'attachment; filename="some file"'})

    url = await copies.presigned("a/some file", 60)

    assert "X-Amz-Expires=60" in url
    assert SECRET not in url
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=30) as answer:
        assert answer.read() == b"content"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="some file"'


async def test_a_check_takes_some_seconds(copies: Copies) -> None:
    assert 0 < await copies.check() < 30


async def test_a_bucket_that_is_not_there_is_a_storage_error(s3_endpoint: str) -> None:
    copies = Copies("s3://no-such-bucket/x", endpoint=s3_endpoint, allow_http=True)

    with pytest.raises(StorageError):
        async with copies:
            pass
    with pytest.raises(StorageError):
        await copies.check()
    with pytest.raises(StorageError):
        await copies.put("x", b"x")


async def test_a_server_that_is_gone_is_a_storage_error_soon(s3_endpoint: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"  # nobody listens
        copies = Copies("s3://b", endpoint=endpoint, allow_http=True, timeout=2)
        async with asyncio.timeout(60):
            with pytest.raises(StorageError) as raised:
                await copies.check()
            assert SECRET not in str(raised.value)
            with pytest.raises(StorageError):
                await copies.put("x", b"x")


async def test_a_server_that_never_answers_is_a_storage_error_soon(s3_endpoint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        copies = Copies("s3://b", endpoint=endpoint, allow_http=True, timeout=0.5)
        async with asyncio.timeout(60):
            for attempt in (copies.check(), copies.put("x", b"x"), copies.head("x"), copies.delete(["x"])):
                with pytest.raises(StorageError):
                    await attempt


async def test_no_error_says_a_credential(bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-not-to-be-seen")
    copies = Copies(f"s3://{bucket}-x", endpoint=s3_endpoint, allow_http=True)

    with pytest.raises(StorageError) as raised:
        await copies.put("x", b"x")

    for secret in (SECRET, "AKIDEXAMPLE", "session-token-not-to-be-seen", "Signature"):
        assert secret not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    "url", ["http://x/y", "s3://", "s3://key:secret@bucket", "s3://bucket/x?secret=1", "s3:bucket"]
)
async def test_a_url_that_makes_no_sense_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ServerSettingsError) as raised:
        Copies(url)
    assert "secret" not in str(raised.value)
