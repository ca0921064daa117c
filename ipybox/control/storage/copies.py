"""An object store that keeps copies of files: S3, or what speaks like it. Floor: control.

Credentials come from the environment (``AWS_ACCESS_KEY_ID`` and so on, or the machine's role) and from nowhere else,
and no error says them. Every request has a time limit and few retries: what can't be done is a ``StorageError`` soon.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from ipybox.control.errors import ServerSettingsError, StorageError

if TYPE_CHECKING:
    from obstore import Attributes

PART = 8 * 1024 * 1024
"""Bytes that are sent or fetched with one request."""

_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_MISSING = (NotFoundError, FileNotFoundError)  # it raises the second for the first
_QUERY = re.compile(r"\?[^\s\"')]+")
_SLOWEST = 256 * 1024
_AT_ONCE = 16
_PARTS_AT_ONCE = 4
_LONGEST_REASON = 300
_PROBES = "probes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """An object.

    Attributes:
        key: Below the prefix of the store.
        size: Bytes.
        etag: What the store calls this version of it.
        modified_at: When it was put there, as the store's clock has it.
        facts: What :meth:`Copies.put` was told to keep with it; empty in a list.
    """

    key: str
    size: int
    etag: str | None
    modified_at: datetime
    facts: Mapping[str, str] = field(default_factory=dict)


class Copies:
    """The objects below a URL. An async context manager that is ready when one could write there.

    Args:
        url: ``s3://BUCKET/PREFIX``.
        endpoint: URL of an object store other than that of AWS.
        region: Of the bucket.
        allow_http: Whether that may be without TLS.
        timeout: Seconds for a request with its retries; larger files get more, by their size.

    Raises:
        ServerSettingsError: The URL makes no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint: str = "",
        region: str = "us-east-1",
        allow_http: bool = False,
        timeout: float = 30.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
            raise ServerSettingsError("workspace_url", "must be s3://BUCKET/PREFIX; credentials are in the environment")
        config: dict[str, Any] = {"region": region, "checksum_algorithm": "SHA256"}
        if endpoint:
            config["endpoint"] = endpoint
        self._timeout = timeout
        try:
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options={
                    "allow_http": allow_http,
                    "connect_timeout": timedelta(seconds=min(5.0, timeout)),
                    "timeout": timedelta(seconds=timeout),
                },
                retry_config={
                    "max_retries": 3,
                    "retry_timeout": timedelta(seconds=timeout),
                    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2)},
                },
                **config,
            )
        except (BaseError, ValueError, TypeError) as error:
            raise ServerSettingsError("workspace_url", _without_secrets(error)) from None
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        probe = f"{_PROBES}/{secrets.token_hex(8)}"
        await self.put(probe, b"")
        await self.delete([probe])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # connections end with the store

    async def put(
        self,
        key: str,
        data: bytes | Path | AsyncIterable[bytes],
        *,
        size: int | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Makes an object, or replaces it, at once: nobody ever sees half of it.

        Args:
            data: Bytes, a file of ours (never one that code can change), or chunks; several requests if it is large.
            size: Bytes, if they are chunks and it is known; how long it may take depends on it.
            facts: Kept with it: ``Content-Type``, ``Content-Disposition``, and whatever else.

        Raises:
            StorageError: It did not work.
        """
        if isinstance(data, bytes):
            size = len(data)
        elif isinstance(data, Path):
            size = (await asyncio.to_thread(data.stat)).st_size
        attributes: Attributes = dict(facts or {})
        async with self._turn:
            with _translated():
                # What comes in chunks is collected first: a source that is slow is not the store's fault.
                async with asyncio.timeout(self._timeout + (size or 0) / _SLOWEST):
                    await obstore.put_async(
                        self._store,
                        key,
                        data,
                        attributes=attributes,
                        use_multipart=size is None or size > PART,
                        chunk_size=PART,
                        max_concurrency=_PARTS_AT_ONCE,
                    )

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """The content of an object, all of one version.

        Raises:
            StorageError: It did not work, also if there is none.
        """
        copy = await self.head(key)
        if copy is None:
            raise StorageError(f"there is no object {key!r}")
        for start in range(0, copy.size, PART):
            yield await self._range(copy, start, min(start + PART, copy.size))

    async def head(self, key: str) -> Copy | None:
        """What is known of an object; None if there is none.

        Raises:
            StorageError: It did not work.
        """
        async with self._turn:
            try:
                with _translated(missing=True):
                    async with asyncio.timeout(self._timeout):
                        result = await obstore.get_async(self._store, key, options={"head": True})
            except _MISSING:
                return None
            meta = result.meta
            facts = {str(name): value for name, value in result.attributes.items()}
            return Copy(key=key, size=meta["size"], etag=meta["e_tag"], modified_at=meta["last_modified"], facts=facts)

    async def list(self, prefix: str) -> AsyncIterator[Copy]:
        """All objects below a prefix, which ends where a part of a key does.

        Raises:
            StorageError: It did not work.
        """
        pages = obstore.list(self._store, prefix=prefix, chunk_size=1000)
        while True:
            with _translated():
                async with asyncio.timeout(self._timeout):
                    try:
                        page = await anext(pages)
                    except StopAsyncIteration:
                        return
            for meta in page:
                yield Copy(key=meta["path"], size=meta["size"], etag=meta["e_tag"], modified_at=meta["last_modified"])

    async def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; those that are not there as well.

        Raises:
            StorageError: It did not work; some may be gone.
        """
        todo = [*keys]
        for start in range(0, len(todo), 1000):
            async with self._turn:
                with _translated():
                    async with asyncio.timeout(self._timeout):
                        try:
                            await obstore.delete_async(self._store, todo[start : start + 1000])
                        except _MISSING:
                            pass

    async def delete_prefix(self, prefix: str) -> int:
        """Removes all objects below a prefix, and says how many there were.

        Raises:
            StorageError: It did not work; some may be gone.
        """
        count, batch = 0, list[str]()
        async for copy in self.list(prefix):
            batch.append(copy.key)
            if len(batch) == 1000:
                await self.delete(batch)
                count, batch = count + len(batch), []
        await self.delete(batch)
        return count + len(batch)

    async def check(self) -> float:
        """Asks the store for something small, and says how many seconds it took.

        Raises:
            StorageError: It does not answer, or refuses.
        """
        begin = time.monotonic()
        async for _ in self.list(_PROBES):
            break
        return time.monotonic() - begin

    async def presigned(self, key: str, seconds: int) -> str:
        """A URL from which anybody can load an object for so many seconds.

        Raises:
            StorageError: There are no credentials.
        """
        with _translated():
            async with asyncio.timeout(self._timeout):
                return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))

    async def _range(self, copy: Copy, start: int, end: int) -> bytes:
        async with self._turn:
            with _translated():
                async with asyncio.timeout(self._timeout):
                    options: Any = {"range": (start, end)}
                    if copy.etag is not None:
                        options["if_match"] = copy.etag
                    result = await obstore.get_async(self._store, copy.key, options=options)
                    data = bytes(await result.bytes_async())
        if len(data) != end - start:
            raise StorageError(f"{copy.key!r} came with {len(data)} bytes of {end - start}")
        return data


@contextmanager
def _translated(missing: bool = False) -> Iterator[None]:
    try:
        yield
    except _MISSING as error:
        if missing:
            raise
        raise StorageError(_without_secrets(error)) from None
    except TimeoutError:
        raise StorageError("it did not answer in time") from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(_without_secrets(error)) from None


def _without_secrets(error: BaseException) -> str:
    """What an error says, as one line, without what should stay here; its cause is left out for the same reason."""
    text = " ".join(str(error).partition("Debug source")[0].split()).rstrip(" :")
    for variable in _SECRET_VARIABLES:
        if secret := os.environ.get(variable):
            text = text.replace(secret, "***")
    text = _QUERY.sub("?…", text)
    return f"{type(error).__name__}: {text}"[:_LONGEST_REASON]
