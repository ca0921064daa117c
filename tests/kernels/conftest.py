"""One gateway for a whole module, a kernel of its own for each test."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway


@pytest.fixture(scope="package", autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of these tests alone: others on this machine, tests as well, make and remove theirs meanwhile."""
    tmp_path_factory.getbasetemp()  # not in there: those of later tests are in it as well
    directory = tempfile.mkdtemp(prefix="k-", dir="/tmp")  # short, as the paths of Unix sockets are in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", directory)
        patch.setenv("TMPDIR", directory)
        yield
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients make their ``images`` in the current directory, which must not be the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest_asyncio.fixture(scope="module")
async def gateway() -> AsyncIterator[KernelGateway]:
    """A gateway that lives in the module's loop, while each test calls it from a loop of its own."""
    async with KernelGateway(port=0, log_level="WARNING") as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: KernelGateway) -> AsyncIterator[KernelClient]:
    """A client with a fresh kernel."""
    async with KernelClient(gateway.host, gateway.port) as connected:
        yield connected
