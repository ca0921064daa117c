"""Workspaces on the real disk, and an object store that speaks HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.control.storage.copies import Copies
from ipybox.control.storage.workspaces import Workspaces
from tests.control.object_store import CREDENTIALS, SECRET, ObjectStore, make_bucket

__all__ = ["SECRET", "chunked", "make_bucket"]


@pytest.fixture(scope="session")
def s3_endpoint(object_store: ObjectStore) -> Iterator[str]:
    """URL of a server, whose credentials are in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name.lower().endswith("_proxy") or name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield object_store.endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path) -> str:
    """A bucket for one test."""
    name = f"b{abs(hash(str(tmp_path))):x}"
    make_bucket(s3_endpoint, name)
    return name


@pytest_asyncio.fixture
async def copies(s3_endpoint: str, bucket: str) -> AsyncIterator[Copies]:
    async with Copies(f"s3://{bucket}/some/where", endpoint=s3_endpoint, allow_http=True) as ready:
        yield ready


@pytest_asyncio.fixture
async def workspaces(tmp_path: Path) -> AsyncIterator[Workspaces]:
    async with Workspaces(tmp_path / "workspaces", uid=None, min_free_bytes=0) as ready:
        await ready.create("s")
        yield ready


async def chunked(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
