"""Sandboxed kernels that are forked: like executed ones, and what they are forked from runs nothing that they wrote."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from ipybox.errors import ExecutionTimeoutError, GatewayFullError, KernelDiedError, PreloadError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from tests.kernels.helpers import HANG, eventually, family, is_alive, name_of, still_works, survivors
from tests.kernels.test_forked import FACTS, LOOK, MEMORY, SECRETS, holds
from tests.sandboxed.servers import connected, inits, text_of, wall_of, write_policy

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.kernel,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are forked on Linux only"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty working directory."""
    path = tmp_path / "workspace"
    path.mkdir()
    return path


def sandboxed(workspace: Path, **options: Any) -> KernelGateway:
    return KernelGateway(port=0, sandbox=True, working_dir=workspace, log_level="WARNING", **options)


def client_of(gateway: KernelGateway, **options: Any) -> KernelClient:
    return KernelClient(gateway.host, gateway.port, **options)


@pytest_asyncio.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KernelGateway]:
    async with sandboxed(tmp_path_factory.mktemp("forked")) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: KernelGateway) -> AsyncIterator[KernelClient]:
    async with client_of(gateway) as connected:
        yield connected


def kernels(gateway: KernelGateway) -> list[psutil.Process]:
    return [process for process in family(gateway.pid) if name_of(process) == "ipybox-kernel"]


# ---- they look like executed ones -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_kernels_are_forked_where_nothing_is_against_it(gateway: KernelGateway, client: KernelClient) -> None:
    assert gateway.sandbox_tier == "nested user namespaces"
    assert gateway.start_method == "fork"
    (kernel,) = kernels(gateway)
    assert wall_of(gateway, "launcher") in kernel.parents()


PROC = r"""
def proc():
    import json, os
    def text(name):
        with open(f"/proc/self/{name}") as file:
            return file.read()
    status = dict(line.split(":\t", 1) for line in text("status").splitlines() if ":\t" in line)
    facts = {
        "maps": [text(name).split() for name in ("uid_map", "gid_map")] + [text("setgroups")],
        "privileges": [status.get(name) for name in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh", "CapBnd",
                       "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "NSpid", "NSsid", "NSpgid")],
        "ids": [os.getpid(), os.getppid(), os.getuid(), os.getgid(), os.getgroups(), os.getsid(0), os.getpgid(0)],
        "owner": [os.stat("/proc/self").st_uid == os.getuid(), os.access("/proc/self/mem", os.R_OK | os.W_OK)],
        "limits": text("limits"),
        "mounts": sorted(" ".join(line.split()[3:6]) for line in text("mountinfo").splitlines()),
        "host": os.uname().nodename,
        "processes": sorted(name for name in os.listdir("/proc") if name.isdigit()),
        "name": text("comm"),
        "network": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else [],
        "home": [os.path.expanduser("~"), sorted(os.listdir(os.path.expanduser("~")))],
        "scratch": sorted(os.listdir("/tmp")),
    }
    return json.dumps(facts)
print(proc())
"""
PROC_FACTS = [
    "maps",
    "privileges",
    "ids",
    "owner",
    "limits",
    "mounts",
    "host",
    "processes",
    "network",
    "home",
    "scratch",
]


@pytest_asyncio.fixture(scope="module")
async def looks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """What a forked kernel and an executed one look like from inside."""
    directory = tmp_path_factory.mktemp("looks")
    images = tmp_path_factory.mktemp("images")
    (directory / "package").mkdir()
    env = {"PYTHONPATH": str(directory / "package"), "PYTHONWARNINGS": "error::UserWarning", "TZ": "Asia/Tokyo"}
    found = {}
    for fork in (True, False):
        async with sandboxed(directory, fork=fork, env=env) as running, client_of(running, images_dir=images) as client:
            assert running.start_method == ("fork" if fork else "exec")
            said = [(await text_of(client, code)).replace(str(running._run_dir), "RUN-DIR") for code in (PROC, LOOK)]
            found[running.start_method] = {**json.loads(said[0]), **json.loads(said[1])}
    yield found


@pytest.mark.parametrize("fact", [*FACTS, *PROC_FACTS])
def test_a_forked_kernel_looks_like_an_executed_one(fact: str, looks: dict[str, dict[str, Any]]) -> None:
    assert looks["fork"][fact] == looks["exec"][fact]


@pytest.mark.asyncio
async def test_a_kernel_can_read_what_the_system_says_of_itself(client: KernelClient) -> None:
    code = """
import os
assert os.stat("/proc/self").st_uid == os.getuid()
assert os.listdir("/proc/self/fd") and os.readlink("/proc/self/exe")
assert b"PATH=" in open("/proc/self/environ", "rb").read()
with open("/proc/self/mem", "rb", 0) as memory:
    memory.seek(id(None))
    assert len(memory.read(8)) == 8
print("all of it")
"""
    assert await text_of(client, code) == "all of it"


# ---- what they are forked from is out of reach ------------------------------------------------------------------

REACH = r"""
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)

def attempt(work):
    try:
        return repr(work())
    except OSError as error:
        return errno.errorcode[error.errno]

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def read_memory(pid):
    buffer = ctypes.create_string_buffer(8)
    here, there = Vector(ctypes.addressof(buffer), 8), Vector(id(None), 8)
    if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
    return buffer.raw

def trace(pid):
    if libc.ptrace(16, pid, 0, 0) < 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "")

found = {}
for pid in sorted({1, os.getppid()}):
    for name in ("environ", "mem", "maps", "auxv", "syscall", "stack"):
        found[f"{pid}/{name}"] = attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ("fd", "map_files", "cwd/x", "root/x"):
        found[f"{pid}/{name}"] = attempt(lambda: os.listdir(f"/proc/{pid}/{name}"))
    found[f"{pid} readv"] = attempt(lambda: read_memory(pid))
    found[f"{pid} ptrace"] = attempt(lambda: trace(pid))
print(json.dumps(found))
"""


@pytest.mark.asyncio
async def test_a_kernel_reaches_nothing_of_the_process_that_it_was_forked_from(client: KernelClient) -> None:
    found: dict[str, str] = json.loads(await text_of(client, REACH))
    refused = {"EACCES", "EPERM", "ENOENT", "ENOSYS"}
    assert {what: said for what, said in found.items() if said not in refused} == {}
    others = "import os; print(sorted(int(n) for n in os.listdir('/proc') if n.isdigit()) == sorted({1, os.getpid()}))"
    assert await text_of(client, others) == "True"


@pytest.mark.asyncio
async def test_no_secret_of_the_owner_or_the_gateway_is_in_the_memory_or_the_environment_of_a_kernel(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, known = (f"{random.SystemRandom().getrandbits(128):032x}" for _ in range(2))
    monkeypatch.setenv("CANARY_SECRET", secret)
    async with sandboxed(workspace, auth_token=True, env={"KNOWN": known}) as gateway:
        assert gateway.start_method == "fork"
        assert gateway.auth_token is not None
        async with client_of(gateway, auth_token=gateway.auth_token) as client:
            await client.execute(MEMORY)
            wanted = {"known": known, "secret": secret, "token": gateway.auth_token}
            found = {name: await holds(client, value) for name, value in wanted.items()}
            environ = await text_of(client, "print(open('/proc/self/environ', errors='replace').read())")
    assert found == {"known": True, "secret": False, "token": False}
    assert secret not in environ


# ---- nothing that sandboxed code wrote runs outside -------------------------------------------------------------

PLANTED = (
    "sitecustomize",
    "usercustomize",
    "trio",
    "curio",
    "debugpy",
    "docrepr",
    "pickleshare",
    "matplotlib",
    "numpy",
    "pandas",
    "torch",
    "gevent",
    "uvloop",
    "black",
    "jedi",
    "appnope",
    "_pydev_bundle",
    "pydevd",
    "ipywidgets",
    "ipyparallel",
    "cython",
    "simplejson",
    "orjson",
    "msgpack",
    "json",
    "ctypes",
    "psutil",
    "zmq",
    "IPython",
    "ipykernel",
    "ipybox",
)
"""Names of modules that something may import, whether it is installed or not."""
WITNESS = """
with open({path!r}, "a") as file, open("/proc/self/comm") as process:
    file.write(process.read().strip() + " " + __name__ + chr(10))
"""


def plant(workspace: Path) -> Path:
    """Puts modules into a working directory that write down where they run; returns where."""
    witness = workspace / "ran"
    witness.touch(mode=0o666)
    witness.chmod(0o666)
    workspace.chmod(0o777)
    source = WITNESS.format(path=str(witness))
    for name in PLANTED:
        (workspace / f"{name}.py").write_text(source)
    (workspace / "planted.pth").write_text(
        f"import os; open({str(witness)!r}, 'a').write(open('/proc/self/comm').read())\n"
    )
    (workspace / "pyvenv.cfg").write_text(f"home = {workspace}\ninclude-system-site-packages = true\n")
    return witness


@pytest.mark.parametrize("on_path", [False, True], ids=["in the working directory", "on PYTHONPATH as well"])
@pytest.mark.asyncio
async def test_nothing_planted_in_the_working_directory_runs_outside_of_a_kernel(
    on_path: bool, workspace: Path
) -> None:
    witness = plant(workspace)
    env = {"PYTHONPATH": str(workspace)} if on_path else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        async with sandboxed(workspace, env=env) as gateway:
            assert gateway.start_method == "fork"
            assert witness.read_text() == ""  # no kernel was asked for, so nothing may have run at all
            if not on_path:  # else kernels import what was planted in place of what they need
                async with client_of(gateway) as client:
                    await still_works(client)
    assert {line.split()[0] for line in witness.read_text().splitlines()} <= {"ipybox-kernel"}


@pytest.mark.asyncio
async def test_a_customization_in_the_working_directory_runs_in_the_kernel_only(workspace: Path) -> None:
    witness = workspace / "ran"
    witness.touch()
    witness.chmod(0o666)
    workspace.chmod(0o777)
    (workspace / "sitecustomize.py").write_text(WITNESS.format(path=str(witness)))
    async with sandboxed(workspace, env={"PYTHONPATH": str(workspace)}) as gateway:
        assert gateway.start_method == "fork"
        assert witness.read_text() == ""
        for number in range(1, 3):
            async with client_of(gateway) as client:
                await still_works(client)
            assert witness.read_text() == "ipybox-kernel sitecustomize\n" * number


@pytest.mark.asyncio
async def test_what_one_kernel_plants_does_not_run_where_the_next_one_is_forked(workspace: Path) -> None:
    """Also not when the host has changed something, so that another wall with another warm Python is made."""
    async with sandboxed(workspace) as own:
        async with client_of(own) as client:
            names = [name for name in PLANTED if name != "sitecustomize"]
            source = WITNESS.format(path=str(workspace / "ran"))
            await text_of(
                client,
                f"for name in {names!r}: _ = open(name + '.py', 'w').write({source!r})\nopen('ran', 'w').close()",
            )
        (workspace / ".bashrc").write_text("changed by the host")
        async with client_of(own) as client:
            await still_works(client)
    assert {line.split()[0] for line in (workspace / "ran").read_text().splitlines()} <= {"ipybox-kernel"}


# ---- preload ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_preloaded_modules_are_there_before_a_kernel_imports_anything(
    workspace: Path, client: KernelClient
) -> None:
    code = "import sys; print('numpy' in sys.modules, 'json.tool' in sys.modules)"
    assert await text_of(client, code) == "False False"
    async with sandboxed(workspace, preload=["numpy", "json.tool"]) as gateway:
        assert gateway.start_method == "fork"
        async with client_of(gateway) as preloaded:
            assert await text_of(preloaded, code) == "True True"
            product = "import numpy; print(int((numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum()))"
            assert await text_of(preloaded, product) == "27000000"


@pytest.mark.asyncio
async def test_a_module_that_sandboxed_code_can_write_is_not_preloaded(workspace: Path) -> None:
    witness = workspace / "ran"
    witness.touch()
    witness.chmod(0o666)
    (workspace / "own").mkdir()
    for directory in (workspace, workspace / "own"):
        directory.chmod(0o777)
        (directory / "planted.py").write_text(WITNESS.format(path=str(witness)))
        for entry in (str(directory), f"{directory}/", f"{directory}/../{directory.name}", "own", "."):
            gateway = sandboxed(workspace, env={"PYTHONPATH": entry}, preload=["planted"])
            with pytest.raises(PreloadError) as caught:
                await gateway.start()
            assert caught.value.module == "planted"
            assert not gateway.is_running
    assert witness.read_text() == ""


@pytest.mark.asyncio
async def test_a_link_on_the_path_into_the_working_directory_is_not_followed(tmp_path: Path, workspace: Path) -> None:
    witness = workspace / "ran"
    witness.touch()
    witness.chmod(0o666)
    (workspace / "planted.py").write_text(WITNESS.format(path=str(witness)))
    (tmp_path / "link").symlink_to(workspace)
    with pytest.raises(PreloadError):
        await sandboxed(workspace, env={"PYTHONPATH": str(tmp_path / "link")}, preload=["planted"]).start()
    assert witness.read_text() == ""


@pytest.mark.parametrize("kind", ["module", "package"])
@pytest.mark.asyncio
async def test_a_module_that_is_a_link_into_the_working_directory_is_not_preloaded(
    kind: str, tmp_path: Path, workspace: Path
) -> None:
    """Its directory is the owner's, and what it says is anybody's."""
    library = tmp_path / "library"
    library.mkdir()
    library.chmod(0o755)
    witness = workspace / "ran"
    witness.touch()
    witness.chmod(0o666)
    source = WITNESS.format(path=str(witness))
    if kind == "module":
        (workspace / "planted.py").write_text(source)
        (library / "planted.py").symlink_to(workspace / "planted.py")
    else:
        (workspace / "planted").mkdir()
        (workspace / "planted" / "__init__.py").write_text(source)
        (library / "planted").symlink_to(workspace / "planted")
    config = write_policy(tmp_path, filesystem={"allowRead": [str(library)]})
    gateway = sandboxed(workspace, sandbox_config=config, env={"PYTHONPATH": str(library)}, preload=["planted"])
    try:
        with pytest.raises(PreloadError):
            await gateway.start()
    finally:
        await gateway.stop()
        assert witness.read_text() == ""


@pytest.mark.asyncio
async def test_a_module_of_a_directory_that_is_only_read_is_preloaded(tmp_path: Path, workspace: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "owned.py").write_text("x = 42")
    config = write_policy(tmp_path, filesystem={"allowRead": [str(library)]})
    env = {"PYTHONPATH": str(library)}
    async with sandboxed(workspace, sandbox_config=config, env=env, preload=["owned"]) as gateway:
        async with client_of(gateway) as client:
            assert await text_of(client, "import sys; print(sys.modules['owned'].x)") == "42"


CULPRITS = {
    "no_such_module_at_all": ("", "ModuleNotFoundError"),
    "starts_a_thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "thread",
    ),
}


@pytest.mark.parametrize("module", CULPRITS)
@pytest.mark.asyncio
async def test_a_module_that_can_not_be_preloaded_is_named_and_nothing_is_left(
    module: str, tmp_path: Path, workspace: Path
) -> None:
    source, reason = CULPRITS[module]
    library = tmp_path / "library"
    library.mkdir()
    if source:
        (library / f"{module}.py").write_text(source)
    config = write_policy(tmp_path, filesystem={"allowRead": [str(library)]})
    mine = set(psutil.Process().children(recursive=True))
    gateway = sandboxed(workspace, sandbox_config=config, env={"PYTHONPATH": str(library)}, preload=[module])
    with pytest.raises(PreloadError, match=reason) as caught:
        await gateway.start()
    assert caught.value.module == module
    assert not [each for each in psutil.Process().children(recursive=True) if each not in mine and is_alive(each)]


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH"])
@pytest.mark.asyncio
async def test_with_an_environment_that_only_a_start_heeds_kernels_are_executed(name: str, workspace: Path) -> None:
    async with sandboxed(workspace, env={name: ""}) as gateway, client_of(gateway) as client:
        assert gateway.start_method == "exec"
        assert await text_of(client, f"import os; print(os.environ[{name!r}] == '')") == "True"


@pytest.mark.asyncio
async def test_a_hash_seed_is_honoured(workspace: Path) -> None:
    found = set()
    for _ in range(2):
        async with sandboxed(workspace, env={"PYTHONHASHSEED": "7"}) as gateway, client_of(gateway) as client:
            assert gateway.start_method == "fork"
            found.add(await text_of(client, "print(hash('x'))"))
    assert len(found) == 1


# ---- they share nothing, and end as others do -------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[KernelClient]]:
    """Two kernels of one gateway that has imported all that is random."""
    modules = ["numpy", "tempfile", "uuid", "ssl", "multiprocessing", "secrets"]
    images = tmp_path_factory.mktemp("images")
    async with sandboxed(tmp_path_factory.mktemp("two"), preload=modules) as gateway:
        clients = await connected(gateway, 2, images_dir=images)
        yield clients
        for client in clients:
            await client.disconnect()


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.asyncio(loop_scope="module")
async def test_two_kernels_do_not_share_their(what: str, two: list[KernelClient]) -> None:
    """Though they have the same pid."""
    pids = {await text_of(client, "import os; print(os.getpid())") for client in two}
    assert len(pids) == 1
    one, other = [await text_of(client, SECRETS[what]) for client in two]
    assert one != other


ENDS = {
    "exit code 7": "import os; os._exit(7)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
    "SIGSEGV": "import ctypes; ctypes.string_at(0)",
}


@pytest.mark.parametrize("cause", ENDS)
@pytest.mark.asyncio
async def test_how_it_ended_is_told_and_the_next_call_gets_a_fresh_kernel(cause: str, client: KernelClient) -> None:
    with pytest.raises(KernelDiedError, match=cause) as caught:
        async with asyncio.timeout(HANG):
            await client.execute("x = 1; print('last words')\n" + ENDS[cause])
    assert caught.value.result is not None
    assert "last words\n" in caught.value.result.stdout
    assert await text_of(client, "'x' in globals()") == "False"


@pytest.mark.asyncio
async def test_it_can_be_interrupted_and_keeps_its_variables(client: KernelClient) -> None:
    await client.execute("x = 42")
    with pytest.raises(ExecutionTimeoutError) as caught:
        await client.execute("import time\ntime.sleep(600)", timeout=0.5)
    assert caught.value.state_preserved
    assert await text_of(client, "x") == "42"


@pytest.mark.parametrize(
    "code",
    [
        "import atexit\n_ = atexit.register(lambda: open('done', 'w').write('done'))",
        "file = open('done', 'w')\n_ = file.write('done')",
    ],
    ids=["exit handlers run", "open files are flushed"],
)
@pytest.mark.asyncio
async def test_at_a_polite_shutdown(code: str, workspace: Path) -> None:
    async with sandboxed(workspace) as gateway:
        async with client_of(gateway) as client:
            assert await text_of(client, code) == ""
        assert (workspace / "done").read_text() == "done"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.asyncio
async def test_multiprocessing_works(method: str, client: KernelClient) -> None:
    code = (
        f"import multiprocessing\nwith multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "    print(pool.map(abs, [-1, 2]))"
    )
    assert await text_of(client, code) == "[1, 2]"


@pytest.mark.asyncio
async def test_when_the_launcher_is_killed_clients_are_told_and_the_next_connect_works(workspace: Path) -> None:
    async with sandboxed(workspace) as gateway:
        first = client_of(gateway)
        await first.connect()
        processes = kernels(gateway)
        wall_of(gateway, "launcher").kill()
        async with client_of(gateway) as second:
            await still_works(second)
        with pytest.raises(KernelDiedError):
            async with asyncio.timeout(HANG):
                while True:
                    await first.execute("1")
        assert not await survivors(processes, HANG)
        await still_works(first)
        assert gateway.start_method == "fork"
        await first.disconnect()


@pytest.mark.asyncio
async def test_max_kernels_holds(workspace: Path) -> None:
    async with sandboxed(workspace, max_kernels=1) as gateway:
        for _ in range(2):
            async with client_of(gateway) as client:
                with pytest.raises(GatewayFullError):
                    await client_of(gateway).connect()
                await still_works(client)


# ---- the pool ---------------------------------------------------------------------------------------------------


async def ready(gateway: KernelGateway, size: int) -> set[psutil.Process]:
    """Waits until as many kernels are there as are to be; returns their first processes."""
    assert await eventually(lambda: len(kernels(gateway)) == size)
    assert await eventually(lambda: all(process.status() == "sleeping" for process in kernels(gateway)))
    return set(inits(gateway))


@pytest.mark.parametrize("name", [".bashrc", ".git/config", ".vscode/settings.json"])
@pytest.mark.asyncio
async def test_what_the_host_protects_after_the_pool_was_filled_is_protected_in_what_it_hands_out(
    name: str, workspace: Path
) -> None:
    workspace.chmod(0o777)
    async with sandboxed(workspace, pool_size=2) as gateway:
        assert gateway.start_method == "fork"
        before = await ready(gateway, 2)
        path = workspace / name
        path.parent.mkdir(exist_ok=True)
        if name.startswith(".git/"):
            (workspace / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        path.write_text("original")
        for each in (path.parent, path):
            os.chmod(each, 0o777)
        for _ in range(2):
            async with client_of(gateway) as client:
                code = f"""
try:
    open({name!r}, 'a').write('evil')
except OSError as error:
    print(type(error).__name__)
"""
                assert await text_of(client, code) in ("OSError", "PermissionError")
        assert path.read_text() == "original"
        assert not await survivors(before, HANG)  # nobody gets those


@pytest.mark.asyncio
async def test_a_pool_is_filled_again_and_its_kernels_share_nothing(workspace: Path) -> None:
    async with sandboxed(workspace, pool_size=2) as gateway:
        ids, words = set(), set()
        for _ in range(3):
            await ready(gateway, 2)
            clients = await connected(gateway, 2)
            ids |= {client.kernel_id for client in clients}
            words |= {await text_of(client, "import random; print(random.random())") for client in clients}
            for client in clients:
                await client.disconnect()
        assert (len(ids), len(words)) == (6, 6)


@pytest.mark.asyncio
async def test_a_gateway_with_a_pool_stops_and_leaves_nothing(workspace: Path) -> None:
    gateway = sandboxed(workspace, pool_size=2)
    await gateway.start()
    await ready(gateway, 2)
    processes = family(gateway.pid)
    async with asyncio.timeout(HANG):
        await gateway.stop()
    assert not await survivors(processes, HANG)
