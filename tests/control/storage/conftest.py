"""Workspaces on the real disk, and an object store that speaks HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.control.storage.copies import Copies
from ipybox.control.storage.workspaces import Workspaces

SECRET = "wJalrXUtnFEMI-not-to-be-seen"
_SERVER = """
import os, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of a server that ends with us, whatever becomes of us: it reads its standard input."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name.lower().endswith("_proxy") or name.startswith("AWS_"):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "20"},
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
            server.stdin.close()


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


def make_bucket(endpoint: str, name: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=30) as answer:
        assert answer.status == 200
