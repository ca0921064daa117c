"""Code that takes room where nobody would look for it, or has those who look be busy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.control.errors import InstallError
from ipybox.control.records import Dependency
from ipybox.control.runtime.local import LocalHost
from ipybox.control.states import ExecutionStatus, Reason
from tests.control.attacks.hostile import BACKEND, FILL, pack
from tests.control.runtime.boxes import HANG, LIMITS, OUTPUT, Box

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def test_files_of_a_process_whose_first_thread_has_ended_count(box: Box) -> None:
    """Of such a process, /proc says that it has nothing open and nothing mapped."""
    ran = await box.python(f"{FILL}\ndef handler(e):\n    if not os.fork():\n        leave_to(fill)\n    os.wait()")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.DISK_FULL)


async def test_files_that_one_thread_alone_has_open_count(box: Box) -> None:
    code = """
def alone():
    libc.syscall(436, 1_000_000, 2_000_000, 2)  # close_range of nothing, which gives it a table of its own
    fill()
def handler(e):
    threading.Thread(target=alone).start()
"""
    ran = await box.python(FILL + code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.DISK_FULL)


async def test_many_mappings_do_not_keep_the_disk_from_being_measured(box: Box) -> None:
    """Millions of them take half a minute to be read, in which there is time to fill any disk."""
    code = """
def handler(e):
    fd = os.open('small', os.O_RDWR | os.O_CREAT)
    os.unlink('small')
    os.truncate(fd, 8192)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_long] * 4)
    for number in range(60_000):
        libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, number % 2 * 4096)
    for _ in range(10):
        if not os.fork():
            time.sleep(60)
            os._exit(0)
    fill()
"""
    ran = await box.python(FILL + code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.DISK_FULL)
    assert "are mapped" in (ran.outcome.error_message or "")
    assert await box.value("handler = lambda e: 'well'") == "well"


async def test_memory_of_a_process_whose_first_thread_has_ended_counts(box: Box) -> None:
    code = """
def take():
    kept.append(bytearray(os.urandom(1 << 20)) * 300)
    time.sleep(60)
def handler(e):
    for _ in range(3):
        if not os.fork():
            leave_to(take)
    os.wait()
"""
    ran = await box.python(FILL + code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY)


# ---- while packages are installed --------------------------------------------------------------------------------


async def test_memory_that_translates_addresses_counts(box: Box) -> None:
    """Where all is zeros there is nothing resident, but to say so takes memory."""
    code = """
def handler(e):
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_long] * 4)
    for _ in range(4):
        if not os.fork():
            size = 80 << 30
            start = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)
            for place in range(start, start + size, 2 << 20):
                ctypes.c_char.from_address(place).value
            time.sleep(60)
    os.wait()
"""
    ran = await box.python(FILL + code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[LocalHost, Path, Path]]:
    root, sources = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("sources")
    pack(sources, "ipybox-testing-unnamed", BACKEND.format(before="", after="os.unlink('big')"))
    async with LocalHost(root, max_output_bytes=OUTPUT, default_index=sources.as_uri()) as host:
        yield host, root, sources


async def test_files_without_a_name_count_while_packages_are_installed(
    installer: tuple[LocalHost, Path, Path],
) -> None:
    host, root, _ = installer
    into = root / "prefix"
    into.mkdir()
    with pytest.raises(InstallError, match="what is installed takes more than"):
        await host.install(
            [Dependency(name="ipybox-testing-unnamed")], into=into, index_url=None, limits=LIMITS, timeout=HANG
        )
    assert list(into.iterdir()) == []
