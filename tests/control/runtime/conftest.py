"""A host for each module, and a session for each test that wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ipybox.control.runtime.local import LocalHost
from tests.control.runtime.boxes import OUTPUT, Box, Boxes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Boxes]:
    root = tmp_path_factory.mktemp("state")
    async with LocalHost(root, max_output_bytes=OUTPUT) as host:
        boxes = Boxes(host, root)
        await host.warm(boxes.warm_spec())
        yield boxes


@pytest_asyncio.fixture(loop_scope="module")
async def boxes(place: Boxes) -> AsyncIterator[Boxes]:
    yield place
    await place.close()


@pytest_asyncio.fixture(loop_scope="module")
async def box(boxes: Boxes) -> Box:
    return await boxes.make()


@pytest_asyncio.fixture(loop_scope="module")
async def notebook(boxes: Boxes) -> Box:
    return await boxes.make(stateful=True)
