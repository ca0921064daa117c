"""Whatever sandboxed code uses up is its own: the limit is felt inside, and the host and other kernels go on."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.errors import ExecutionError, KernelDiedError, OutputLostError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.output_limit import OutputLimit
from ipybox.outputs import ExecutionResult
from tests.kernels.helpers import HANG, eventually, is_alive, running, still_works
from tests.sandboxed.servers import inits, supervisor_of, text_of, write_policy

pytestmark = [pytest.mark.sandbox, pytest.mark.kernel]

MIB = 1024 * 1024
MEMORY = 256 * MIB
PROCESSES = 64
OPEN_FILES = 128
SCRATCH = 8 * MIB
FILE_SIZE = 4 * MIB


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resources")


@pytest_asyncio.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> AsyncIterator[KernelGateway]:
    """A gateway whose kernels may use little."""
    config = write_policy(
        tmp_path_factory.mktemp("policy"),
        limits={
            "memory": MEMORY,
            "processes": PROCESSES,
            "openFiles": OPEN_FILES,
            "scratch": SCRATCH,
            "sharedMemory": SCRATCH,
        },
    )
    async with KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: KernelGateway) -> AsyncIterator[KernelClient]:
    async with KernelClient(gateway.host, gateway.port) as connected:
        yield connected


@pytest_asyncio.fixture(scope="module")
async def strict_gateway(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> AsyncIterator[KernelGateway]:
    """A gateway with the limits that the other one leaves out, and enough of the rest."""
    limits = {"cpuTime": 3, "fileSize": FILE_SIZE}
    config = write_policy(tmp_path_factory.mktemp("policy"), limits=limits)
    async with KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace) as running:
        yield running


@pytest_asyncio.fixture
async def other(gateway: KernelGateway) -> AsyncIterator[KernelClient]:
    """A kernel that is none of this business."""
    async with KernelClient(gateway.host, gateway.port) as connected:
        await connected.execute("x = 2")
        yield connected
        assert await text_of(connected, "x") == "2"


# ---- processes ------------------------------------------------------------------------------------------------

FORKS = """
import errno, os, signal
children = []
try:
    while len(children) < 5000:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
except OSError as error:
    print(errno.errorcode[error.errno], len(children))
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


@pytest.mark.asyncio
async def test_forks_end_at_the_limit(client: KernelClient, other: KernelClient) -> None:
    for _ in range(2):
        name, count = (await text_of(client, FORKS)).split()
        assert name == "EAGAIN"
        assert PROCESSES // 2 < int(count) < PROCESSES
    assert await text_of(client, "import subprocess; subprocess.run(['true']).returncode") == "0"


@pytest.mark.asyncio
async def test_a_shell_fork_bomb_burns_inside_and_is_put_out(
    gateway: KernelGateway, client: KernelClient, other: KernelClient
) -> None:
    await client.execute(
        "x = 1\nimport subprocess\n"
        "bomb = subprocess.Popen(['sh', '-c', 'b() { b & b & wait; }; b; wait'], stderr=subprocess.DEVNULL)\n"
    )
    assert await text_of(other, "x * 21") == "42"
    async with asyncio.timeout(HANG):
        call = asyncio.create_task(client.execute("while True: pass"))
        assert await eventually(lambda: bool(running(client)))
        await client.interrupt()
        with pytest.raises(ExecutionError, match="KeyboardInterrupt"):
            await call
    assert await text_of(client, "x") == "1"
    await client.reset()
    await still_works(client)
    assert await eventually(lambda: all(len(init.children(recursive=True)) == 1 for init in inits(gateway)))


@pytest.mark.asyncio
async def test_a_python_fork_bomb_is_ended_by_its_timeout(
    gateway: KernelGateway, client: KernelClient, other: KernelClient
) -> None:
    client.interrupt_grace = 1.0
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    with pytest.raises((TimeoutError, KernelDiedError)):
        async with asyncio.timeout(2 * HANG):
            await client.execute(bomb, timeout=1)
    await client.reset()
    await still_works(client)
    assert await eventually(lambda: all(len(init.children(recursive=True)) == 1 for init in inits(gateway)))


@pytest.mark.asyncio
async def test_threads_end_at_the_limit(client: KernelClient, other: KernelClient) -> None:
    code = """
import threading
stop, threads = threading.Event(), []
try:
    while len(threads) < 10_000:
        thread = threading.Thread(target=stop.wait)
        thread.start()
        threads.append(thread)
except RuntimeError as error:
    print('refused', len(threads))
stop.set()
for thread in threads: thread.join()
"""
    word, count = (await text_of(client, code)).split()
    assert word == "refused"
    assert int(count) < PROCESSES
    await still_works(client)


@pytest.mark.asyncio
async def test_the_limit_of_one_kernel_is_not_shared_with_another(client: KernelClient, other: KernelClient) -> None:
    await client.execute(FORKS.split("for pid in children")[0])
    name, count = (await text_of(other, FORKS)).split()
    assert (name, int(count) > PROCESSES // 2) == ("EAGAIN", True)


# ---- memory ---------------------------------------------------------------------------------------------------

HOGS = {
    "slowly": "hog = []\nwhile True: hog.append(b'x' * 5_000_000)",
    "in one go": f"hog = b'x' * {4 * MEMORY}",
    "numpy": f"import numpy\nhog = numpy.ones({4 * MEMORY} // 8)",
    "shared and anonymous": f"import mmap\nhog = mmap.mmap(-1, {4 * MEMORY})\nhog.write(b'x' * {4 * MEMORY})",
    "in one child": (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time\\nhog = b\"x\" * {2 * MEMORY}\\n"
        "time.sleep(60)'], check=True)"
    ),
    "in many children": (
        "import subprocess, sys\ncode = 'import time\\nhog = b\"x\" * 40_000_000\\ntime.sleep(60)'\n"
        "for child in [subprocess.Popen([sys.executable, '-c', code]) for _ in range(20)]: child.wait()"
    ),
    "in a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        hog = b'x' * {2 * MEMORY}\n        time.sleep(60)\n    os._exit(0)\ntime.sleep(60)"
    ),
}


async def outcome(client: KernelClient, code: str) -> ExecutionResult | KernelDiedError | ExecutionError:
    """How code ended; never hangs."""
    try:
        async with asyncio.timeout(2 * HANG):
            return await client.execute(code)
    except (KernelDiedError, ExecutionError) as error:
        return error


@pytest.mark.parametrize("how", HOGS)
@pytest.mark.asyncio
async def test_memory_ends_at_the_limit(client: KernelClient, other: KernelClient, how: str) -> None:
    """Either the allocation fails, or the kernel is killed and everybody is told why."""
    end = await outcome(client, f"print('ticking', flush=True)\n{HOGS[how]}")
    if isinstance(end, KernelDiedError):
        assert end.exit.reason == "memory"
        assert str(MEMORY) in end.exit.detail
        assert "memory" in str(end)
        assert end.result is not None
        assert end.result.stdout == "ticking\n"
    else:
        assert isinstance(end, ExecutionError), "it got all of it"
        assert end.name in ("MemoryError", "_ArrayMemoryError")
    await still_works(client)


HIDDEN = {
    "files in memory": f"""
import os, time
hog = os.memfd_create('hog')
for _ in range({2 * MEMORY} // 2**20): os.write(hog, b'x' * 2**20)
for _ in range(40): time.sleep(0.05)
print(os.fstat(hog).st_size)
""",
    "System V segments": f"""
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
got = 0
for _ in range({2 * MEMORY} // 2**24):
    segment = libc.shmget(0, 2**24, 0o1600)
    if segment < 0: raise OSError(ctypes.get_errno(), 'no segment')
    address = libc.shmat(segment, None, 0)
    ctypes.memset(address, 1, 2**24)
    libc.shmdt(ctypes.c_void_p(address))
    got += 2**24
for _ in range(40): time.sleep(0.05)
print(got)
""",
    "System V semaphores": f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
got = 0
while got < {2 * MEMORY}:
    if libc.semget(0, 32000, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'no semaphores')
    got += 32000 * 64
print(got)
""",
    "System V messages": f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
got, message = 0, ctypes.create_string_buffer(bytes([1] + [0] * 7) + b'x' * 8192)
while got < {2 * MEMORY}:
    queue = libc.msgget(0, 0o1600)
    if queue < 0: break
    while libc.msgsnd(queue, message, 8192, 0o4000) == 0: got += 8192
print(got)
""",
}
"""Memory that is in no process's resident set."""


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.asyncio
async def test_memory_that_no_process_shows_counts_as_well(client: KernelClient, other: KernelClient, how: str) -> None:
    end = await outcome(client, HIDDEN[how])
    if isinstance(end, KernelDiedError):
        assert end.exit.reason == "memory"
    elif isinstance(end, ExecutionError):
        assert end.name in ("OSError", "MemoryError", "PermissionError")
    else:
        assert int(end.stdout) < MEMORY


@pytest.mark.asyncio
async def test_what_forked_children_share_counts_once(client: KernelClient) -> None:
    code = """
import multiprocessing, time
data = bytearray(b'x' * 100_000_000)
def look(number):
    time.sleep(0.5)
    return len(data)
with multiprocessing.get_context('fork').Pool(6) as pool:
    print(set(pool.map(look, range(24), chunksize=1)))
"""
    assert await text_of(client, code) == "{100000000}"


@pytest.mark.asyncio
async def test_the_limit_of_the_gateway_goes_before_that_of_the_policy(tmp_path: Path) -> None:
    config = write_policy(tmp_path, limits={"memory": "8 GiB"})
    limit = 200 * MIB
    options = {"sandbox_config": config, "memory_limit": limit}
    async with KernelGateway(port=0, sandbox=True, working_dir=tmp_path, **options) as gateway:  # type: ignore[arg-type]
        async with KernelClient(gateway.host, gateway.port) as client:
            with pytest.raises(KernelDiedError) as caught:
                async with asyncio.timeout(HANG):
                    await client.execute("hog = []\nwhile True: hog.append(b'x' * 5_000_000)")
            assert caught.value.exit.reason == "memory"
            assert str(limit) in caught.value.exit.detail
            await still_works(client)


# ---- files and sockets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["open('/dev/null')", "socket.socket()", "socket.socketpair()", "os.pipe()", "os.dup(1)", "select.epoll()"],
)
@pytest.mark.asyncio
async def test_open_files_end_at_the_limit(client: KernelClient, other: KernelClient, what: str) -> None:
    code = f"""
import errno, os, select, socket
held = []
try:
    while len(held) < 100_000: held.append({what})
except OSError as error:
    print(errno.errorcode[error.errno], len(held))
for one in held:
    for each in one if isinstance(one, tuple) else [one]:
        os.close(each) if isinstance(each, int) else each.close()
"""
    name, count = (await text_of(client, code)).split()
    assert name == "EMFILE"
    assert int(count) < OPEN_FILES
    await still_works(client)


@pytest.mark.asyncio
async def test_limits_can_only_be_lowered(client: KernelClient) -> None:
    code = """
import resource
for name in ('NPROC', 'NOFILE', 'DATA', 'CORE'):
    kind = getattr(resource, 'RLIMIT_' + name)
    soft, hard = resource.getrlimit(kind)
    assert 0 <= soft == hard
    for wanted in (hard + 1, resource.RLIM_INFINITY):
        try: resource.setrlimit(kind, (soft, wanted)); print(name, 'raised')
        except (ValueError, PermissionError): pass
print('done')
"""
    assert await text_of(client, code) == "done"


@pytest.mark.asyncio
async def test_a_file_ends_at_its_limit(strict_gateway: KernelGateway, workspace: Path) -> None:
    async with KernelClient(strict_gateway.host, strict_gateway.port) as client:
        with pytest.raises(ExecutionError, match="File too large"):
            await client.execute(f"open('big', 'wb').write(b'x' * {2 * FILE_SIZE})")
        assert (workspace / "big").stat().st_size <= FILE_SIZE
        # Pipes are no files, so output does not end there.
        assert len(await text_of(client, f"print('x' * {2 * FILE_SIZE})")) == 2 * FILE_SIZE


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm", "~"])
@pytest.mark.asyncio
async def test_private_directories_end_at_their_size(client: KernelClient, other: KernelClient, place: str) -> None:
    code = f"""
import errno, os
directory, written = os.path.expanduser({place!r}), 0
try:
    for number in range(100):
        with open(f'{{directory}}/{{number}}', 'wb', buffering=0) as file:
            written += file.write(b'x' * {MIB})
except OSError as error:
    print(errno.errorcode[error.errno], written)
"""
    name, written = (await text_of(client, code)).split()
    assert name == "ENOSPC"
    assert int(written) <= SCRATCH
    assert await text_of(other, f"import os; len(os.listdir(os.path.expanduser({place!r}))) < 5") == "True"
    await still_works(client)


@pytest.mark.parametrize("place", ["/", "/dev", "/run", "/etc", "/proc", "/var", "/usr"])
@pytest.mark.asyncio
async def test_nothing_else_takes_any_bytes(client: KernelClient, place: str) -> None:
    code = f"""
try:
    open('{place}/new', 'wb').write(b'x')
    print('written')
except OSError as error:
    print('refused')
"""
    assert await text_of(client, code) == "refused"


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm", "~"])
@pytest.mark.asyncio
async def test_empty_files_take_up_room_as_well(client: KernelClient, other: KernelClient, place: str) -> None:
    """Each takes about 1 KiB of the machine's memory, though none of the directory's bytes."""
    most = SCRATCH // 512
    code = f"""
import errno, os
directory, made = os.path.expanduser({place!r}) + '/many', 0
os.mkdir(directory)
try:
    for made in range(2 * {most}): os.mkdir(f'{{directory}}/{{made}}')
except OSError as error:
    print(errno.errorcode[error.errno], end=' ')
print(made)
"""
    *names, made = (await text_of(client, code)).split()
    assert int(made) < most
    assert names == ["ENOSPC"]


@pytest.mark.asyncio
async def test_output_of_children_outlives_a_lack_of_descriptors(client: KernelClient) -> None:
    """Nobody can do anything while there are none; afterwards all is as before."""
    code = """
import os, time
held = []
try:
    while True: held.append(os.open('/dev/null', os.O_RDONLY))
except OSError: pass
os.write(1, b'without descriptors\\n')
time.sleep(0.3)
for each in held: os.close(each)
"""
    async with asyncio.timeout(HANG):
        await client.execute(code)
        result = await client.execute("import subprocess\nx = subprocess.run(['seq', '1000000'])", timeout=HANG / 3)
    assert result.stdout == "".join(f"{number}\n" for number in range(1, 1_000_001))


# ---- time -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_processor_time_ends_at_its_limit(strict_gateway: KernelGateway) -> None:
    async with KernelClient(strict_gateway.host, strict_gateway.port) as other:
        await other.execute("x = 2")
        async with KernelClient(strict_gateway.host, strict_gateway.port) as client:
            with pytest.raises(KernelDiedError) as caught:
                async with asyncio.timeout(HANG):
                    await client.execute("while True: pass")
            assert caught.value.exit.reason == "signalled"
            assert caught.value.exit.signal in (signal.SIGXCPU, signal.SIGKILL)
            await still_works(client)
        assert await text_of(other, "x") == "2"


# ---- output ---------------------------------------------------------------------------------------------------


FLOOD = "line = 'x' * 1_000_000\nfor _ in range({count}): print(line)\nprint('the end')"


async def flood(client: KernelClient, count: int, directory: Path) -> ExecutionResult:
    """Prints that many megabytes, and more than half a gigabyte is not kept."""
    limit = OutputLimit(directory=directory)
    async with asyncio.timeout(4 * HANG):
        result = await client.execute(FLOOD.format(count=count), output_limit=limit)
    if result.full_text is not None:
        result.full_text.unlink()
    return result


@pytest.mark.asyncio
async def test_a_flood_of_output_drowns_nobody_and_is_complete(strict_gateway: KernelGateway, tmp_path: Path) -> None:
    async with (
        KernelClient(strict_gateway.host, strict_gateway.port) as client,
        KernelClient(strict_gateway.host, strict_gateway.port) as other,
    ):
        call = asyncio.create_task(flood(client, 1000, tmp_path))
        assert await eventually(lambda: bool(running(client)))
        answers = 0
        while not call.done():
            await still_works(other)
            answers += 1
        result = await call
        assert answers > 3
        assert result.text is not None
        assert result.text.endswith("the end")
        assert result.dropped > 999_900_000
        await still_works(client)


SCARCE = """
import mmap
text, held = 'x' * 20_000_000, []
try:
    while True: held.append(mmap.mmap(-1, 2**23, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
except (OSError, MemoryError): pass
del held[-3:]
for _ in range(3): print(text)
print('the end')
"""
"""Takes nearly all addresses that it may have, and then prints more than what is left."""


@pytest.mark.asyncio
async def test_output_for_which_memory_is_short_is_complete_or_an_error(client: KernelClient) -> None:
    """A result that is not complete must not look as if it were."""
    try:
        async with asyncio.timeout(HANG):
            result = await client.execute(SCARCE)
    except (KernelDiedError, ExecutionError, OutputLostError):
        return
    assert len(result.stdout) == 3 * 20_000_001 + len("the end\n")


@pytest.mark.asyncio
async def test_a_flood_can_be_interrupted(strict_gateway: KernelGateway, tmp_path: Path) -> None:
    async with KernelClient(strict_gateway.host, strict_gateway.port) as client:
        limit = OutputLimit(directory=tmp_path)
        call = asyncio.create_task(client.execute("x = 1\nwhile True: print('x' * 100_000)", output_limit=limit))
        assert await eventually(lambda: bool(running(client)))
        await asyncio.wait([call], timeout=0.1)
        await client.interrupt()
        with pytest.raises(ExecutionError, match="KeyboardInterrupt"):
            async with asyncio.timeout(2 * HANG):
                await call
        assert await text_of(client, "x") == "1"


# ---- what is left ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_crash_leaves_no_core(client: KernelClient, workspace: Path, tmp_path: Path) -> None:
    assert await text_of(client, "import resource; resource.getrlimit(resource.RLIMIT_CORE)") == "(1, 1)"
    with pytest.raises(KernelDiedError) as caught:
        await client.execute("import ctypes; ctypes.string_at(0)")
    assert caught.value.exit == ExitStatus("signalled", signal=signal.SIGSEGV)
    await client.execute("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import os; os.abort()'])")
    assert await text_of(client, "import glob; glob.glob('core*') + glob.glob('/tmp/core*')") == "[]"
    assert not list(workspace.rglob("core*"))


@pytest.mark.asyncio
async def test_the_supervisor_is_out_of_all_this(gateway: KernelGateway) -> None:
    """After everything above it has no children that should be gone, and few descriptors."""
    supervisor = supervisor_of(gateway)
    assert is_alive(supervisor)
    assert await eventually(lambda: not inits(gateway))
    assert supervisor.num_fds() < 40
    assert len(supervisor.children()) == 2
