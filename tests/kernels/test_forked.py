"""Kernels that are forked from a warm Python: like executed ones in all they do, apart from each other, and soon up."""

import asyncio
import hashlib
import json
import os
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from ipybox.errors import (
    ExecutionTimeoutError,
    GatewayFullError,
    KernelDiedError,
    KernelStartError,
    PreloadError,
)
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.process.family import MARKER
from ipybox.process.memory import resident
from tests.kernels.helpers import (
    HANG,
    command_of,
    eventually,
    family,
    name_of,
    run_directories,
    running,
    still_works,
    survivors,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are forked on Linux only"),
]

POOL_OF_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Threads that asyncio's pool grows to by and by, which is no leak."""


async def text_of(client: KernelClient, code: str) -> str:
    """What code prints; never hangs."""
    async with asyncio.timeout(2 * HANG):
        return (await client.execute(code)).text or ""


async def pid_of(client: KernelClient) -> int:
    return int(await text_of(client, "print(__import__('os').getpid())"))


def client_of(gateway: KernelGateway, **options: Any) -> KernelClient:
    return KernelClient(gateway.host, gateway.port, **options)


def server(gateway: KernelGateway) -> psutil.Process:
    """The process that serves HTTP."""
    return family(gateway.pid)[1]


def kernels(gateway: KernelGateway) -> list[psutil.Process]:
    """Every kernel, as the machine sees them."""
    return [process for process in family(gateway.pid) if name_of(process) == "ipybox-kernel"]


def is_zombie(process: psutil.Process) -> bool:
    """Whether it has ended, and nobody has collected it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def fork_server(gateway: KernelGateway) -> psutil.Process:
    """The process that kernels are forked from."""
    # Not among all below: a fork of it looks like it until it has become a kernel.
    (process,) = (each for each in server(gateway).children() if "ipybox.kernel_mgr.fork_server" in command_of(each))
    return process


# ---- it looks like an executed one ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_kernels_are_forked_where_nothing_is_against_it(gateway: KernelGateway, client: KernelClient) -> None:
    assert gateway.start_method == "fork"
    assert psutil.Process(await pid_of(client)).parent() == fork_server(gateway)


LOOK = r"""
def look():
    import __main__, asyncio, builtins, faulthandler, gc, hashlib, json, locale, multiprocessing, os, resource, signal
    import site, socket, sys, tempfile, threading, time, warnings

    def kind(fd):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return None
        if target.startswith("socket:[") and is_accepted(int(fd)):
            return None
        if target == "anon_inode:[eventfd]":
            return None  # a mailbox of ZeroMQ, one for each thread that has published by now
        return target.partition(":[")[0] if ":[" in target and "anon_inode" not in target else target

    def is_accepted(fd):
        # How many of the gateway's connections are there by now is chance; those of pairs have no name.
        with socket.socket(fileno=os.dup(fd)) as held:
            return held.getsockname() != "" and not held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    def status(*names):
        with open("/proc/self/status") as file:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        return {name: lines.get(name) for name in names}

    def handler(number):
        found = signal.getsignal(number)
        return getattr(found, "__qualname__", None) or str(found)

    def task_names():
        return sorted(open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task"))

    facts = {
        "path": sys.path,
        "flags": repr(sys.flags),
        "argv": sys.argv,
        "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, sys.platlibdir],
        "executable": sys.executable,
        "orig_argv": sys.orig_argv[:4],
        "environment": sorted(os.environ),
        "environment of children": sorted(
            __import__("subprocess").run(["env"], capture_output=True, text=True).stdout.splitlines()),
        "signal handlers": {int(number): handler(number) for number in signal.valid_signals()},
        "signal masks": status("SigBlk", "SigIgn", "SigCgt"),
        "descriptors": sorted(filter(None, map(kind, os.listdir("/proc/self/fd")))),
        "inheritable descriptors": sorted(
            fd for fd in range(1000) if kind(fd) is not None and os.get_inheritable(fd)),
        "nice": os.nice(0),
        "limits": {name: resource.getrlimit(getattr(resource, name))
                   for name in dir(resource) if name.startswith("RLIMIT_")},
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "number of threads": len(task_names()),
        "main thread": [threading.main_thread() is threading.current_thread(),
                        threading.main_thread().ident == threading.get_ident(),
                        threading.main_thread().native_id == os.getpid()],
        "locale": [locale.setlocale(locale.LC_ALL), *locale.getlocale(), locale.getpreferredencoding()],
        "encodings": [sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.getdefaultencoding(),
                      sys.stdout.encoding, sys.stderr.encoding, sys.__stdout__.encoding, sys.__stdin__.encoding],
        "streams": [type(s).__qualname__ for s in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stdin__)],
        "stdin": [sys.__stdin__.name, kind(0)],
        "warnoptions": sys.warnoptions,
        "warning filters": sorted(str(entry) for entry in warnings.filters),
        "main": sorted(vars(__main__)),
        "main module": [__name__, str(__main__.__spec__), __main__.__doc__, type(__main__).__qualname__],
        "builtins": sorted(vars(builtins)),
        "xoptions": sys._xoptions,
        "recursion": sys.getrecursionlimit(),
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks)],
        "umask": [os.umask(0o22), os.umask(0o22)][0],
        "directory": os.getcwd(),
        "session": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "hooks": [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in
                  (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook)],
        "importers": [[getattr(f, "__qualname__", type(f).__qualname__) for f in where]
                      for where in (sys.meta_path, sys.path_hooks)],
        "event loop": [type(asyncio.get_event_loop()).__qualname__,
                       type(asyncio.get_event_loop_policy()).__qualname__],
        "multiprocessing": [multiprocessing.get_start_method(), multiprocessing.current_process().name,
                            multiprocessing.parent_process()],
        "temporary files": tempfile.gettempdir(),
        "time zone": time.tzname,
        "privileges": status("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs",
                             "Seccomp", "Cpus_allowed_list", "THP_enabled"),
        "oom": open("/proc/self/oom_score_adj").read(),
        "site": [site.ENABLE_USER_SITE, site.getsitepackages(), site.PREFIXES],
        "faulthandler": faulthandler.is_enabled(),
        "bytecode": [sys.dont_write_bytecode, sys.pycache_prefix],
        "shell": [get_ipython().execution_count, sorted(get_ipython().user_ns), sorted(get_ipython().user_ns_hidden),
                  get_ipython().profile_dir.location.startswith(os.environ["IPYTHONDIR"]),
                  sorted(get_ipython().magics_manager.lsmagic()["line"])],
        "debugger": "debugpy" in sys.modules,
        "missing modules": sorted(name for name, module in sys.modules.items() if module is None),
        "switch interval": sys.getswitchinterval(),
        "trace": [sys.gettrace() is None, sys.getprofile() is None],
    }
    for name in ("PWD", "OLDPWD"):
        os.environ.get(name)
    return json.dumps(facts, default=str)
print(look())
"""
FACTS = [
    "path",
    "flags",
    "argv",
    "prefixes",
    "executable",
    "orig_argv",
    "environment",
    "environment of children",
    "signal handlers",
    "signal masks",
    "descriptors",
    "inheritable descriptors",
    "nice",
    "limits",
    "threads",
    "number of threads",
    "main thread",
    "locale",
    "encodings",
    "streams",
    "stdin",
    "warnoptions",
    "warning filters",
    "main",
    "main module",
    "builtins",
    "xoptions",
    "recursion",
    "collector",
    "umask",
    "directory",
    "session",
    "hooks",
    "importers",
    "event loop",
    "multiprocessing",
    "temporary files",
    "time zone",
    "privileges",
    "oom",
    "site",
    "faulthandler",
    "bytecode",
    "shell",
    "debugger",
    "missing modules",
    "switch interval",
    "trace",
]
"""All that :data:`LOOK` looks at."""
OF_ONE_START = ("/memfd:", "anon_inode:")
ENVIRONMENT = {"PYTHONWARNINGS": "error::UserWarning", "TZ": "Asia/Tokyo", "A": "b"}


@pytest.fixture(scope="module")
def _as_a_shell() -> Iterator[None]:
    """Whoever runs these tests in the background may ignore SIGHUP, which processes hand on to what they execute."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _plain(text: str, gateway: KernelGateway) -> Any:
    """Without what no two kernels have in common: their ids and the private directories of their gateways."""
    return json.loads(text.replace(str(gateway._run_dir), "RUN-DIR"))


@pytest_asyncio.fixture(scope="module")
async def looks(
    tmp_path_factory: pytest.TempPathFactory, _as_a_shell: None
) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """What a forked kernel and an executed one look like from inside."""
    directory = tmp_path_factory.mktemp("looks")
    (directory / "package").mkdir()
    env = {**ENVIRONMENT, "PYTHONPATH": str(directory / "package")}
    found = {}
    for fork in (True, False):
        async with (
            KernelGateway(port=0, fork=fork, env=env, working_dir=directory) as gateway,
            client_of(gateway, images_dir=directory) as client,
        ):
            assert gateway.start_method == ("fork" if fork else "exec")
            found[gateway.start_method] = _plain(await text_of(client, LOOK), gateway)
    yield found


def test_every_fact_is_compared(looks: dict[str, dict[str, Any]]) -> None:
    assert set(looks["exec"]) == set(looks["fork"]) == set(FACTS)


def _comparable(fact: str, value: Any) -> Any:
    if fact == "environment of children":
        mine = ("IPYBOX", "KERNEL_ID", "JPY_PARENT_PID", "_=")
        return [line for line in value if not line.startswith(mine)]
    return value


@pytest.mark.parametrize("fact", FACTS)
def test_a_forked_kernel_looks_like_an_executed_one(fact: str, looks: dict[str, dict[str, Any]]) -> None:
    assert _comparable(fact, looks["fork"][fact]) == _comparable(fact, looks["exec"][fact])


# ---- it does what an executed one does --------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module")
async def executing(_as_a_shell: None) -> AsyncIterator[KernelGateway]:
    """A gateway that executes its kernels, to compare with."""
    async with KernelGateway(port=0, fork=False, log_level="WARNING") as running:
        yield running


@pytest.fixture(params=["fork", "exec"])
def either(request: pytest.FixtureRequest, gateway: KernelGateway, executing: KernelGateway) -> KernelGateway:
    """A gateway of each kind."""
    return gateway if request.param == "fork" else executing


AT_EXIT = {
    "exit handlers run": "import atexit\n_ = atexit.register(lambda: open({path!r}, 'w').write('done'))",
    "open files are flushed": "file = open({path!r}, 'w')\n_ = file.write('done')",
    "finalizers run": (
        "import weakref\nclass Thing: pass\nthing = Thing()\n"
        "_ = weakref.finalize(thing, lambda: open({path!r}, 'w').write('done'))"
    ),
    "threads are waited for": (
        "import threading, time\ndef work():\n    time.sleep(0.2)\n    open({path!r}, 'w').write('done')\n"
        "threading.Thread(target=work).start()"
    ),
    "objects are destroyed": (
        "class Thing:\n    def __del__(self, open=open):\n"
        "        with open({path!r}, 'w') as file: file.write('done')\nthing = Thing()"
    ),
}


@pytest.mark.parametrize("what", AT_EXIT)
@pytest.mark.asyncio
async def test_at_a_polite_shutdown(what: str, either: KernelGateway, tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with client_of(either) as client:
        assert await text_of(client, AT_EXIT[what].format(path=str(path))) == ""
    assert path.read_text() == "done"


@pytest.mark.asyncio
async def test_an_exit_handler_that_raises_does_not_keep_the_others_from_running(
    either: KernelGateway, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    code = f"""
import atexit
atexit.register(lambda: open({str(path)!r}, 'a').write('first'))
atexit.register(lambda: 1 / 0)
_ = atexit.register(lambda: open({str(path)!r}, 'a').write('last'))
"""
    async with client_of(either) as client:
        await text_of(client, code)
    assert path.read_text() == "lastfirst"


WORKS = {
    "fork pool": (
        "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(pool.map(lambda x: x, []), pool.map(abs, [-1, 2]))",
        "[] [1, 2]",
    ),
    "spawn pool": (
        "import multiprocessing\nwith multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "    print(pool.map(abs, [-1, 2]))",
        "[1, 2]",
    ),
    "forkserver pool": (
        "import multiprocessing\nwith multiprocessing.get_context('forkserver').Pool(2) as pool:\n"
        "    print(pool.map(abs, [-1, 2]))",
        "[1, 2]",
    ),
    "process pool": (
        "from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2) as pool:\n"
        "    print(list(pool.map(abs, [-1, 2])))",
        "[1, 2]",
    ),
    "manager": (
        "import multiprocessing\nwith multiprocessing.Manager() as manager:\n    print(list(manager.list([1, 2])))",
        "[1, 2]",
    ),
    "shared memory": (
        "from multiprocessing.shared_memory import SharedMemory\nmemory = SharedMemory(create=True, size=10)\n"
        "memory.buf[0] = 7\nprint(memory.buf[0])\nmemory.close()\nmemory.unlink()",
        "7",
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n"
        "    print(sum(pool.map(abs, range(-10, 0))))",
        "55",
    ),
    "subprocess": (
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout.strip())",
        "42",
    ),
    "os.fork": (
        "import os\npid = os.fork()\nif pid == 0: os._exit(3)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
        "3",
    ),
    "shell command": ("!echo 42", "42"),
    "asyncio": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 42\nprint(await f())",
        "42",
    ),
    "asyncio.to_thread": ("import asyncio\nprint(await asyncio.to_thread(abs, -42))", "42"),
    "faulthandler": (
        "import faulthandler\nprint(faulthandler.is_enabled())",
        "True",
    ),
    "tracemalloc": ("import tracemalloc\ntracemalloc.start()\nprint(tracemalloc.get_traced_memory()[0] >= 0)", "True"),
    "collector": (
        "import gc, weakref\nclass A: pass\na = A(); a.a = a\nr = weakref.ref(a)\ndel a\n_ = gc.collect()\nprint(r())",
        "None",
    ),
    "pickle of main": (
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A, A.__module__)",
        "True __main__",
    ),
    "history": ("print(len(In), get_ipython().history_manager.hist_file)", "2 :memory:"),
    "sqlite": ("import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 42').fetchone()[0])", "42"),
    "numpy": ("import numpy\nprint(int((numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum()))", "27000000"),
    "figure": ("import matplotlib.pyplot as p\n_ = p.plot([1])\np.close()\nprint(p.get_backend().lower())", ""),
}


@pytest.mark.parametrize("what", WORKS)
@pytest.mark.asyncio
async def test_it_works(what: str, either: KernelGateway) -> None:
    code, expected = WORKS[what]
    async with client_of(either) as client:
        text = (await text_of(client, code)).strip()
        assert text == expected if expected else "inline" in text
        await still_works(client)


@pytest.mark.asyncio
async def test_questions_are_answered(either: KernelGateway) -> None:
    async with client_of(either, on_input=lambda prompt, password: f"<{prompt}>") as client:
        assert await text_of(client, "print(input('one?'))") == "<one?>"


ENDS: dict[str, tuple[str, str]] = {
    "os._exit(7)": ("import os; os._exit(7)", "exit code 7"),
    "os._exit(0)": ("import os; os._exit(0)", "exit code 0"),
    "os._exit(255)": ("import os; os._exit(255)", "exit code 255"),
    "SIGTERM": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); signal.pause()", "SIGTERM"),
    "SIGKILL": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "SIGABRT": ("import os; os.abort()", "SIGABRT"),
    "SIGHUP": ("import os, signal; os.kill(os.getpid(), signal.SIGHUP); signal.pause()", "SIGHUP"),
    "SIGUSR1": ("import os, signal; os.kill(os.getpid(), signal.SIGUSR1); signal.pause()", "SIGUSR1"),
    "a segmentation fault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.asyncio
async def test_how_it_ended_is_told_and_the_next_call_gets_a_fresh_kernel(how: str, either: KernelGateway) -> None:
    code, cause = ENDS[how]
    async with client_of(either) as client:
        await client.execute("x = 1; print('before', flush=True)")
        with pytest.raises(KernelDiedError, match=cause) as caught:
            async with asyncio.timeout(HANG):
                await client.execute("print('last words')\n" + code)
        assert caught.value.result is not None
        assert "last words\n" in caught.value.result.stdout
        if how == "a segmentation fault":
            assert "Segmentation fault" in caught.value.result.stderr
        assert await text_of(client, "'x' in globals()") == "False"


@pytest.mark.asyncio
async def test_its_death_between_two_calls_is_told(client: KernelClient) -> None:
    psutil.Process(await pid_of(client)).kill()
    with pytest.raises(KernelDiedError, match="SIGKILL"):
        async with asyncio.timeout(HANG):
            while True:
                await client.execute("1")
    await still_works(client)


@pytest.mark.parametrize(
    "code", ["import time\ntime.sleep(600)", "while True: pass", "import asyncio\nawait asyncio.sleep(600)"]
)
@pytest.mark.asyncio
async def test_it_can_be_interrupted_and_keeps_its_variables(code: str, client: KernelClient) -> None:
    await client.execute("x = 42")
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute(code, timeout=0.5)
    assert caught.value.state_preserved
    assert await text_of(client, "x") == "42"


@pytest.mark.asyncio
async def test_a_restart_gives_another_fork_without_the_variables(gateway: KernelGateway, client: KernelClient) -> None:
    await client.execute("x = 42")
    before = psutil.Process(await pid_of(client))
    await client.reset()
    assert not await survivors([before], HANG)
    assert await text_of(client, "'x' in globals()") == "False"
    assert psutil.Process(await pid_of(client)).parent() == fork_server(gateway)


@pytest.mark.asyncio
async def test_one_that_ends_does_not_disturb_the_others(gateway: KernelGateway, client: KernelClient) -> None:
    await client.execute("x = 42")
    for code in (ENDS["a segmentation fault"][0], ENDS["SIGKILL"][0], "import os; os.killpg(0, 9)"):
        async with client_of(gateway) as other:
            with pytest.raises(KernelDiedError):
                async with asyncio.timeout(HANG):
                    await other.execute(code)
    assert await text_of(client, "x") == "42"


# ---- they share nothing -----------------------------------------------------------------------------------------

SECRETS = {
    "random": "import random; print(random.random())",
    "numpy": "import numpy; print(numpy.random.random())",
    "numpy generator": "import numpy; print(numpy.random.default_rng().random())",
    "temporary names": "import tempfile; print(tempfile.mktemp())",
    "temporary files": "import tempfile; f = tempfile.NamedTemporaryFile(); print(f.name)",
    "uuid1": "import uuid; print(uuid.uuid1())",
    "uuid4": "import uuid; print(uuid.uuid4())",
    "ssl": "import ssl; print(ssl.RAND_bytes(16).hex())",
    "authkey": "import multiprocessing as m; print(bytes(m.current_process().authkey).hex())",
    "secrets": "import secrets; print(secrets.token_hex())",
    "session of the kernel": "print(get_ipython().kernel.session.session)",
    "key of the kernel": "print(get_ipython().kernel.session.key)",
}


@pytest_asyncio.fixture(scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[KernelClient, KernelClient]]:
    """Two kernels of one gateway that has imported all that is random."""
    modules = ["numpy", "tempfile", "uuid", "ssl", "multiprocessing", "secrets"]
    images = tmp_path_factory.mktemp("images")
    async with KernelGateway(port=0, preload=modules) as gateway:
        async with client_of(gateway, images_dir=images) as one, client_of(gateway, images_dir=images) as other:
            yield one, other


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.asyncio(loop_scope="module")
async def test_two_kernels_do_not_share_their(what: str, two: tuple[KernelClient, KernelClient]) -> None:
    one, other = [await text_of(client, SECRETS[what]) for client in two]
    assert one != other


INODES = """
import json, os, stat
def inode(fd):
    try: status = os.fstat(fd)
    except OSError: return None
    if stat.S_ISCHR(status.st_mode): return None
    target = os.readlink(f"/proc/self/fd/{fd}")
    if "anon_inode" in target: return None  # all of a kind have one inode
    return [target, status.st_dev, status.st_ino]
print(json.dumps([found for found in map(inode, range(2000)) if found]))
"""


@pytest.mark.asyncio(loop_scope="module")
async def test_two_kernels_do_not_share_their_open_files(two: tuple[KernelClient, KernelClient]) -> None:
    one, other = [json.loads(await text_of(client, INODES)) for client in two]
    assert one
    assert not [entry for entry in one if entry in other]


MEMORY = """
def holds(half, digest):
    # The whole of it is never put together here, so that nobody finds what only the search has brought in.
    import hashlib
    half = half.encode()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, access, *_, name = [*line.split(), ""][:7]
            if "r" not in access or name in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError):
                continue
            at = data.find(half)
            while at >= 0:
                rest = data[at + len(half):at + 2 * len(half)]
                if hashlib.sha256(rest).hexdigest() == digest:
                    return True
                at = data.find(half, at + 1)
    return False
"""


async def holds(client: KernelClient, secret: str) -> bool:
    """Whether a kernel that has run :data:`MEMORY` finds a secret of an even length in its own memory."""
    middle = len(secret) // 2
    digest = hashlib.sha256(secret[middle : 2 * middle].encode()).hexdigest()
    return await text_of(client, f"holds({secret[:middle]!r}, {digest!r})") == "True"


@pytest.mark.asyncio
async def test_no_secret_of_the_gateway_or_its_owner_is_in_the_memory_of_a_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret, known = (f"{random.SystemRandom().getrandbits(128):032x}" for _ in range(2))
    monkeypatch.setenv("CANARY_SECRET", secret)
    async with KernelGateway(port=0, auth_token=True, env={"KNOWN": known}) as gateway:
        assert gateway.auth_token is not None
        async with client_of(gateway, auth_token=gateway.auth_token) as client:
            await client.execute(MEMORY)
            wanted = {"known": known, "secret": secret, "token": gateway.auth_token}
            found = {name: await holds(client, value) for name, value in wanted.items()}
    assert found == {"known": True, "secret": False, "token": False}


@pytest.mark.asyncio
async def test_what_a_kernel_shares_with_others_does_not_count_against_its_limit() -> None:
    limit = 32 * 1024 * 1024
    async with KernelGateway(port=0, memory_limit=limit) as gateway, client_of(gateway) as client:
        assert resident(await pid_of(client)) > limit
        assert await text_of(client, "import time\nfor _ in range(20): time.sleep(0.1)\nprint('lives')") == "lives"
        with pytest.raises(KernelDiedError) as caught:
            await client.execute(f"hoard = b'x' * {2 * limit}\nimport time; time.sleep(60)")
        assert caught.value.exit.reason == "memory"


# ---- the fork-server --------------------------------------------------------------------------------------------

UNFIT = """
import gc, sys
if "ipybox.kernel_mgr.fork_server" in sys.orig_argv:
    gc.freeze = None
"""
"""Breaks what a Python does to get warm, as a version of IPython may that nobody has seen yet."""


@pytest.mark.asyncio
async def test_where_a_python_can_not_get_warm_kernels_are_executed_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNFIT)
    with caplog.at_level("INFO", logger="ipybox.gateway"):
        async with KernelGateway(port=0, env={"PYTHONPATH": str(tmp_path)}) as gateway, client_of(gateway) as client:
            assert gateway.start_method == "exec"
            await still_works(client)
    said = [record.getMessage() for record in caplog.records if "not forked" in record.getMessage()]
    assert len(said) == 1
    assert "TypeError" in said[0]


@pytest.mark.asyncio
async def test_when_the_fork_server_is_killed_clients_are_told_and_the_next_connect_works() -> None:
    async with KernelGateway(port=0) as gateway:
        clients = [client_of(gateway) for _ in range(3)]
        await asyncio.gather(*(client.connect() for client in clients))
        processes = kernels(gateway)
        assert len(processes) == 3
        calls = [asyncio.create_task(client.execute("import time\ntime.sleep(600)")) for client in clients[:2]]
        assert await eventually(lambda: all(running(client) for client in clients[:2]))
        before = fork_server(gateway)
        before.kill()
        async with client_of(gateway) as fresh:
            await still_works(fresh)
        for call in calls:
            with pytest.raises(KernelDiedError):
                async with asyncio.timeout(HANG):
                    await call
        with pytest.raises(KernelDiedError):
            async with asyncio.timeout(HANG):
                while True:
                    await clients[2].execute("1")
        assert not await survivors(processes, HANG)
        assert gateway.is_running
        assert fork_server(gateway) != before
        for client in clients:
            await still_works(client)
            await client.disconnect()


@pytest.mark.asyncio
async def test_a_fork_server_that_is_killed_again_and_again_is_started_again_each_time() -> None:
    async with KernelGateway(port=0) as gateway:
        for _ in range(4):
            async with client_of(gateway) as client:
                await still_works(client)
            fork_server(gateway).kill()
        async with client_of(gateway) as client:
            await still_works(client)
        assert gateway.start_method == "fork"


@pytest.mark.asyncio
async def test_connects_that_are_under_way_when_the_fork_server_is_killed_succeed() -> None:
    async with KernelGateway(port=0) as gateway:
        clients = [client_of(gateway) for _ in range(6)]
        connecting = [asyncio.create_task(client.connect()) for client in clients]
        assert await eventually(lambda: bool(kernels(gateway)))
        fork_server(gateway).kill()
        async with asyncio.timeout(2 * HANG):
            outcomes = await asyncio.gather(*connecting, return_exceptions=True)
        # A kernel that was there already is gone with it, and its client is told; nobody waits for nothing.
        assert all(outcome is None or isinstance(outcome, KernelStartError) for outcome in outcomes), outcomes
        for client, outcome in zip(clients, outcomes, strict=True):
            if outcome is None:
                await client.disconnect()
        async with client_of(gateway) as client:
            await still_works(client)


@pytest.mark.asyncio
async def test_a_fork_server_that_can_not_fork_one_more_loses_no_kernel_that_runs() -> None:
    async with KernelGateway(port=0) as gateway, client_of(gateway) as client:
        await client.execute("x = 42")
        process = fork_server(gateway)
        limits = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + 3, limits[1]))
        with pytest.raises(KernelStartError):
            async with asyncio.timeout(2 * HANG):
                await client_of(gateway).connect()
        assert await text_of(client, "x") == "42"
        process.rlimit(resource.RLIMIT_NOFILE, limits)
        async with client_of(gateway) as other:
            await still_works(other)


@pytest.mark.asyncio
async def test_a_fork_server_that_stands_still_is_no_matter_for_kernels_that_run() -> None:
    async with KernelGateway(port=0) as gateway, client_of(gateway) as client:
        process = fork_server(gateway)
        process.suspend()
        try:
            await still_works(client)
        finally:
            process.resume()
        async with client_of(gateway) as other:
            await still_works(other)


@pytest.mark.asyncio
async def test_kernels_and_their_fork_server_go_with_their_gateway() -> None:
    gateway = KernelGateway(port=0)
    await gateway.start()
    client = client_of(gateway)
    await client.connect()
    processes = family(gateway.pid)
    assert fork_server(gateway) in processes
    server(gateway).kill()
    assert not await survivors(processes, HANG)
    await client.disconnect()
    await gateway.stop()


@pytest.mark.asyncio
async def test_50_kernels_leave_no_process_no_zombie_and_no_descriptor() -> None:
    async with KernelGateway(port=0) as gateway:

        async def cycle(code: str = "1 + 1") -> None:
            async with client_of(gateway) as client:
                await client.execute(code)

        def footprint() -> dict[str, Any]:
            return {
                "processes": sorted(process.pid for process in family(gateway.pid)),
                "zombies": [each for each in family(gateway.pid) if is_zombie(each)],
                "gateway": server(gateway).num_fds(),
                "fork-server": fork_server(gateway).num_fds(),
                "files": sorted(str(path) for path in (gateway._run_dir or Path()).rglob("*")),
            }

        for _ in range(3):
            await asyncio.gather(*(cycle() for _ in range(8)))
        assert await eventually(lambda: not kernels(gateway))
        before = footprint()
        threads = server(gateway).num_threads()
        for number in range(10):
            code = "print('x' * 100_000)" if number % 2 else "import os, subprocess; subprocess.Popen(['sleep', '600'])"
            await asyncio.gather(*(cycle(code) for _ in range(5)))
        after: dict[str, Any] = {}

        def settled() -> bool:
            after.update(footprint())
            return all(after[key] <= before[key] for key in before)

        await eventually(settled, 5)
        assert after == {**before, "gateway": min(after["gateway"], before["gateway"])}
        assert before["zombies"] == []
        assert server(gateway).num_threads() <= threads + POOL_OF_THREADS


# ---- environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["0", "1234"])
@pytest.mark.asyncio
async def test_a_hash_seed_is_honoured(seed: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(hash('x'))", stdout=asyncio.subprocess.PIPE, env={"PYTHONHASHSEED": seed}
    )
    expected, _ = await process.communicate()
    async with KernelGateway(port=0, env={"PYTHONHASHSEED": seed}) as gateway, client_of(gateway) as client:
        assert gateway.start_method == "fork"
        assert await text_of(client, "print(hash('x'))") == expected.decode().strip()


@pytest.mark.parametrize(
    ("env", "code", "expected"),
    [
        ({"PYTHONOPTIMIZE": "1"}, "print(__debug__)", "False"),
        ({"PYTHONUTF8": "1"}, "import sys; print(sys.flags.utf8_mode)", "1"),
        ({"PYTHONDONTWRITEBYTECODE": "1"}, "import sys; print(sys.dont_write_bytecode)", "True"),
        ({"PYTHONINTMAXSTRDIGITS": "1000"}, "import sys; print(sys.get_int_max_str_digits())", "1000"),
        ({"PYTHONNOUSERSITE": "1"}, "import sys; print(sys.flags.no_user_site)", "1"),
        ({"TZ": "Asia/Tokyo"}, "import time; print(time.tzname[0])", "JST"),
        ({"OMP_NUM_THREADS": "3"}, "import os; print(os.environ['OMP_NUM_THREADS'])", "3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.asyncio
async def test_variables_that_python_reads_at_its_start_are_honoured(
    env: dict[str, str], code: str, expected: str
) -> None:
    async with KernelGateway(port=0, env=env) as gateway, client_of(gateway) as client:
        assert await text_of(client, code) == expected


@pytest.mark.parametrize("env", [{"LD_PRELOAD": ""}, {"PYTHONHOME": sys.base_prefix}], ids=["LD_PRELOAD", "PYTHONHOME"])
@pytest.mark.asyncio
async def test_variables_by_which_code_gets_into_a_python_are_no_obstacle_without_a_sandbox(
    env: dict[str, str],
) -> None:
    if "PYTHONHOME" in env:
        env = {**env, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    for fork in (True, False):
        async with KernelGateway(port=0, env=env, fork=fork) as gateway, client_of(gateway) as client:
            assert gateway.start_method == ("fork" if fork else "exec")
            assert await text_of(client, f"import os; print({env!r}.items() <= os.environ.items())") == "True"
            assert await text_of(client, "import sys; print(sys.base_prefix)") == sys.base_prefix


# ---- preload ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_preloaded_modules_are_there_before_a_kernel_imports_anything(client: KernelClient) -> None:
    code = "import sys; print('json.tool' in sys.modules, 'wave' in sys.modules)"
    assert await text_of(client, code) == "False False"
    async with KernelGateway(port=0, preload=["json.tool", "wave"]) as gateway, client_of(gateway) as preloaded:
        assert gateway.start_method == "fork"
        assert await text_of(preloaded, code) == "True True"
        await preloaded.reset()
        assert await text_of(preloaded, code) == "True True"


@pytest.mark.asyncio
async def test_a_preloaded_module_is_imported_once_for_all(tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(f"import os\nopen({str(tmp_path / 'imports')!r}, 'a').write('x')\n")
    env = {"PYTHONPATH": str(tmp_path)}
    async with KernelGateway(port=0, env=env, preload=["counted"]) as gateway:
        for _ in range(3):
            async with client_of(gateway) as client:
                assert await text_of(client, "import counted; print(counted.__name__)") == "counted"
    assert (tmp_path / "imports").read_text() == "x"


@pytest.mark.asyncio
async def test_what_a_kernel_does_to_a_preloaded_module_no_other_sees(tmp_path: Path) -> None:
    async with KernelGateway(port=0, preload=["wave"]) as gateway, client_of(gateway) as one:
        await one.execute("import wave; wave.open = None; wave.mine = [1]")
        async with client_of(gateway) as other:
            assert await text_of(other, "import wave; print(wave.open is None, hasattr(wave, 'mine'))") == "False False"


CULPRITS = {
    "missing": ("", "ModuleNotFoundError"),
    "thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "thread",
    ),
    "socket": ("import socket\nkept = socket.socket()", "socket"),
    "exits": ("import sys\nsys.exit(0)", "SystemExit"),
    "dies": ("import os\nos._exit(5)", "5"),
}


@pytest.mark.parametrize("what", CULPRITS)
@pytest.mark.asyncio
async def test_a_module_that_can_not_be_preloaded_is_named_and_nothing_is_left(what: str, tmp_path: Path) -> None:
    source, reason = CULPRITS[what]
    if source:
        (tmp_path / "culprit.py").write_text(source)
    before, mine = run_directories(), set(psutil.Process().children(recursive=True))
    fds = psutil.Process().num_fds()
    gateway = KernelGateway(port=0, env={"PYTHONPATH": str(tmp_path)}, preload=["json.tool", "culprit"])
    with pytest.raises(PreloadError, match=reason) as caught:
        async with asyncio.timeout(2 * HANG):
            await gateway.start()
    assert caught.value.module == "culprit"
    assert not gateway.is_running
    assert not [each for each in psutil.Process().children(recursive=True) if each not in mine]
    assert run_directories() <= before
    assert psutil.Process().num_fds() <= fds


@pytest.mark.asyncio
async def test_after_a_preload_that_failed_the_same_gateway_starts_when_the_module_is_there(tmp_path: Path) -> None:
    gateway = KernelGateway(port=0, env={"PYTHONPATH": str(tmp_path)}, preload=["later"])
    with pytest.raises(PreloadError):
        await gateway.start()
    (tmp_path / "later.py").write_text("x = 42")
    async with gateway, client_of(gateway) as client:
        assert await text_of(client, "import sys; print(sys.modules['later'].x)") == "42"


# ---- how many there may be --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_no_more_than_max_kernels_and_again_after_a_disconnect() -> None:
    async with KernelGateway(port=0, max_kernels=2) as gateway:
        one, other = client_of(gateway), client_of(gateway)
        await one.connect()
        await other.connect()
        for _ in range(2):
            with pytest.raises(GatewayFullError, match="max_kernels") as caught:
                await client_of(gateway).connect()
            assert caught.value.retry_after >= 1
            assert caught.value.address == gateway.url
        await one.disconnect()
        async with client_of(gateway) as third:
            await still_works(third)
            await other.reset()  # which is no new kernel
            await still_works(other)
        await other.disconnect()


@pytest.mark.asyncio
async def test_who_is_refused_is_told_by_the_standard_header_as_well() -> None:
    async with KernelGateway(port=0, max_kernels=1) as gateway, client_of(gateway):
        async with aiohttp.ClientSession() as http, http.post(f"{gateway.url}/api/kernels", json={}) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.asyncio
async def test_of_many_who_come_at_once_no_more_than_max_kernels_get_one() -> None:
    async with KernelGateway(port=0, max_kernels=3) as gateway:
        clients = [client_of(gateway) for _ in range(12)]
        outcomes = await asyncio.gather(*(client.connect() for client in clients), return_exceptions=True)
        assert outcomes.count(None) == 3
        assert all(outcome is None or isinstance(outcome, GatewayFullError) for outcome in outcomes)
        assert len(kernels(gateway)) == 3
        for client, outcome in zip(clients, outcomes, strict=True):
            if outcome is None:
                await still_works(client)
                await client.disconnect()


@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.asyncio
async def test_starts_that_fail_take_no_place_for_ever(fork: bool, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    async with KernelGateway(port=0, max_kernels=2, working_dir=place, fork=fork) as gateway:
        place.rmdir()
        for _ in range(4):
            with pytest.raises(KernelStartError):
                async with asyncio.timeout(2 * HANG):
                    await client_of(gateway).connect()
        place.mkdir()
        async with client_of(gateway) as one, client_of(gateway) as other:
            await still_works(one)
            await still_works(other)


@pytest.mark.asyncio
async def test_kernels_that_died_take_no_place_once_their_clients_have_left() -> None:
    async with KernelGateway(port=0, max_kernels=1) as gateway:
        for _ in range(3):
            async with client_of(gateway) as client:
                with pytest.raises(KernelDiedError):
                    await client.execute("import os; os._exit(1)")


# ---- the pool ---------------------------------------------------------------------------------------------------


async def listed(gateway: KernelGateway) -> list[str]:
    """Ids of the kernels that the gateway tells of."""
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.url}/api/kernels") as answer:
        return [model["id"] for model in await answer.json()]


def id_of(process: psutil.Process) -> str:
    """A kernel's id, which its environment tells."""
    return process.environ()[MARKER]


async def _is_idle(gateway: KernelGateway, kernel_id: str) -> bool:
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.url}/api/kernels/{kernel_id}") as answer:
        return answer.status == 200 and (await answer.json())["execution_state"] == "idle"


async def filled(gateway: KernelGateway, size: int, besides: Collection[psutil.Process] = ()) -> set[psutil.Process]:
    """Waits until a pool is full; returns what is in it."""
    async with asyncio.timeout(HANG):
        while True:
            ready = {process for process in kernels(gateway) if process not in besides}
            taken = set(await listed(gateway))
            if len(ready) == size:
                ids = [id_of(process) for process in ready]
                if not taken & set(ids) and all([await _is_idle(gateway, kernel_id) for kernel_id in ids]):
                    return ready
            await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_connect_hands_out_what_the_pool_has_and_it_is_filled_again() -> None:
    async with KernelGateway(port=0, pool_size=2) as gateway:
        assert gateway.start_method == "fork"
        pooled = await filled(gateway, 2)
        async with client_of(gateway) as one, client_of(gateway) as other:
            taken = {psutil.Process(await pid_of(client)) for client in (one, other)}
            assert taken == pooled
            assert one.kernel_id != other.kernel_id
            again = await filled(gateway, 2, besides=taken)
            assert not again & taken
            async with client_of(gateway) as third:
                assert psutil.Process(await pid_of(third)) in again
                assert await text_of(third, "print(len(In), 'x' in globals())") == "3 False"


@pytest.mark.asyncio
async def test_only_kernels_that_somebody_has_are_listed() -> None:
    async with KernelGateway(port=0, pool_size=2) as gateway:
        seen: set[str] = set()
        for _ in range(3):
            async with client_of(gateway) as client:
                ids = await listed(gateway)
                assert client.kernel_id in ids
                seen |= set(ids) - {client.kernel_id}
                await filled(gateway, 2, besides=[psutil.Process(await pid_of(client))])
                assert await listed(gateway) == [client.kernel_id]
        await filled(gateway, 2)
        assert await listed(gateway) == []
        assert seen == set(), "one that was being started for the pool"


@pytest.mark.asyncio
async def test_a_pool_member_that_was_killed_is_never_handed_out() -> None:
    async with KernelGateway(port=0, pool_size=2) as gateway:
        for _ in range(3):
            pooled = await filled(gateway, 2)
            for process in pooled:
                process.kill()
            assert not await survivors(pooled, HANG)
            async with client_of(gateway) as client:  # at once: the gateway need not have noticed yet
                async with asyncio.timeout(HANG):
                    await client.execute("1")
                assert psutil.Process(await pid_of(client)) not in pooled


@pytest.mark.asyncio
async def test_the_pool_survives_the_death_of_the_fork_server() -> None:
    async with KernelGateway(port=0, pool_size=2) as gateway:
        pooled = await filled(gateway, 2)
        fork_server(gateway).kill()
        assert not await survivors(pooled, HANG)
        async with client_of(gateway) as client:
            await still_works(client)
        again = await filled(gateway, 2)
        assert not again & pooled


@pytest.mark.asyncio
async def test_the_pool_counts_among_max_kernels_and_gives_all_of_them_away() -> None:
    async with KernelGateway(port=0, pool_size=2, max_kernels=3) as gateway:
        await filled(gateway, 2)
        async with client_of(gateway) as one, client_of(gateway) as other:
            async with client_of(gateway) as third:
                for client in (one, other, third):
                    await still_works(client)
                with pytest.raises(GatewayFullError):
                    await client_of(gateway).connect()
                assert len(kernels(gateway)) == 3
        await filled(gateway, 2)


@pytest.mark.asyncio
async def test_a_kernel_of_the_pool_is_not_taken_for_abandoned_until_somebody_had_it() -> None:
    async with KernelGateway(port=0, pool_size=1, abandoned_timeout=0.5) as gateway:
        (pooled,) = await filled(gateway, 1)
        await asyncio.sleep(1.0)  # longer than the timeout
        assert pooled.is_running()
        client = client_of(gateway, keep_kernel=True)
        await client.connect()
        assert psutil.Process(await pid_of(client)) == pooled
        await client.disconnect()
        assert not await survivors([pooled], HANG)


@pytest.mark.asyncio
async def test_a_gateway_with_a_pool_stops_and_leaves_nothing() -> None:
    for wait in (False, True):
        before = run_directories()
        gateway = KernelGateway(port=0, pool_size=3)
        await gateway.start()
        if wait:
            await filled(gateway, 3)
        processes = family(gateway.pid)
        async with asyncio.timeout(HANG):
            await gateway.stop()
        assert not await survivors(processes, HANG)
        assert run_directories() <= before


# ---- many at once -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_60_who_come_at_once_all_get_one_while_a_kernel_that_runs_still_answers() -> None:
    async with KernelGateway(port=0) as gateway, client_of(gateway) as running_one:
        clients = [client_of(gateway) for _ in range(60)]
        connecting = asyncio.gather(*(client.connect() for client in clients))
        answers = 0
        while not connecting.done():
            await still_works(running_one)
            answers += 1
        await connecting
        assert answers > 1
        assert len({client.kernel_id for client in clients}) == 60
        assert len(set(await asyncio.gather(*(pid_of(client) for client in clients)))) == 60
        await asyncio.gather(*(client.disconnect() for client in clients))
        assert await eventually(lambda: len(kernels(gateway)) == 1)
