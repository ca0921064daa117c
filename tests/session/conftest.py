"""A sandbox for each test that wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from ipybox.session import AsyncSandbox


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[AsyncSandbox]:
    async with AsyncSandbox.create() as created:
        yield created
