"""Sandboxed kernels start, stop, die and are killed: every end is told, and nothing stays behind."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    ExecutionTimeoutError,
    GatewayConnectionError,
    GatewayStartError,
    KernelDiedError,
    PolicyError,
    PortInUseError,
    SandboxUnavailableError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from tests.kernels.helpers import (
    HANG,
    eventually,
    family,
    is_alive,
    name_of,
    running,
    still_works,
    survivors,
)
from tests.sandboxed.servers import (
    connected,
    host_mounts,
    inits,
    server_of,
    supervisor_of,
    text_of,
    wall_of,
    write_policy,
)

pytestmark = [pytest.mark.sandbox, pytest.mark.kernel]

DAEMONS = """
import os, subprocess, sys
subprocess.Popen(['setsid', 'sleep', '999'])
code = 'import os, time\\nif os.fork(): os._exit(0)\\nos.setsid()\\nif os.fork(): os._exit(0)\\ntime.sleep(999)'
subprocess.run([sys.executable, '-c', code], check=True)
subprocess.Popen(['sh', '-c', 'trap "" INT TERM HUP; sleep 999 & wait'], start_new_session=True)
"""
"""Children that do all they can to stay."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files that nobody else on this machine uses; it must be empty in the end."""
    directory = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))  # short, as the paths of Unix sockets are in it
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory))
    try:
        yield directory
        assert entries(directory) == []
    finally:
        shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KernelGateway]:
    workspace = tmp_path_factory.mktemp("lifecycle")
    async with KernelGateway(port=0, sandbox=True, working_dir=workspace, log_level="WARNING") as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: KernelGateway) -> AsyncIterator[KernelClient]:
    async with KernelClient(gateway.host, gateway.port) as connected:
        yield connected


async def death_of(client: KernelClient, code: str) -> KernelDiedError:
    """Runs code that kills its kernel, and returns the error that tells."""
    with pytest.raises(KernelDiedError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute(code)
    return caught.value


def entries(directory: Path) -> list[str]:
    """All names below a directory."""
    return sorted(str(path) for path in directory.rglob("*"))


def run_dir(gateway: KernelGateway) -> Path:
    """The private directory of a gateway that runs."""
    assert gateway._run_dir is not None
    return gateway._run_dir


# ---- start ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_default_sandbox_answers(tmp_path: Path) -> None:
    async with asyncio.timeout(HANG), KernelGateway(port=0, sandbox=True, working_dir=tmp_path) as gateway:
        assert gateway.sandbox_tier is not None
        async with KernelClient(gateway.host, gateway.port) as client:
            assert await text_of(client, "1 + 1") == "2"
    assert not gateway.is_running


OWNER = """
import asyncio, json, sys
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
import psutil

async def main():
    async with KernelGateway(port=0, sandbox=True, working_dir=sys.argv[1]) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            await client.execute(sys.argv[2])
            pids = [process.pid for process in psutil.Process().children(recursive=True)]
            print(json.dumps([pids, str(gateway._run_dir)]), flush=True)
            await client.execute(sys.argv[3])

asyncio.run(main())
"""
"""A program that runs one gateway with one kernel."""


async def owner_process(workspace: Path, first: str, second: str, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OWNER,
        str(workspace),
        first,
        second,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )


@pytest.mark.asyncio
async def test_an_empty_home_stays_empty(tmp_path: Path) -> None:
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    home.mkdir()
    workspace.mkdir()
    code = "import matplotlib.pyplot as plt; plt.plot([1]); open('here', 'w').close()"
    owner = await owner_process(workspace, code, "1", HOME=str(home))
    async with asyncio.timeout(HANG):
        _, errors = await owner.communicate()
    assert owner.returncode == 0, errors
    assert entries(home) == []
    assert entries(workspace) == [str(workspace / "here")]


@pytest.mark.asyncio
async def test_a_home_that_does_not_exist_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    async with KernelGateway(port=0, sandbox=True, working_dir=tmp_path) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            assert await text_of(client, "import os; os.path.isdir(os.path.expanduser('~'))") == "True"
    assert not Path("/nonexistent").exists()


@pytest.mark.asyncio
async def test_a_taken_port_is_told_and_nothing_is_started(tmp_path: Path, temporary: Path) -> None:
    mine = set(psutil.Process().children(recursive=True))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        with pytest.raises(PortInUseError):
            await KernelGateway("127.0.0.1", listener.getsockname()[1], sandbox=True, working_dir=tmp_path).start()
    assert entries(temporary) == []
    assert set(psutil.Process().children(recursive=True)) <= mine


BAD_POLICIES: dict[str, tuple[Any, str]] = {
    "no JSON": ("{'network': 1}", "not JSON"),
    "unknown key": ({"network": {"alowedDomains": ["example.org"]}}, "allowedDomains"),
    "unknown section": ({"filesytem": {}}, "filesystem"),
    "every host": ({"network": {"allowedDomains": ["*"]}}, r"network\.allowedDomains\[0\]"),
    "a top-level domain": ({"network": {"allowedDomains": ["*.com"]}}, "top-level"),
    "a URL": ({"network": {"allowedDomains": ["http://x.test/"]}}, "URL"),
    "no such port": ({"network": {"allowedDomains": ["a:99999"]}}, "99999"),
    "wrong type": ({"network": {"allowedDomains": "example.org"}}, "allowedDomains"),
    "no object": ([], "object"),
    "a weaker sandbox": ({"enableWeakerNestedSandbox": True}, "enableWeakerNestedSandbox"),
    "no memory": ({"limits": {"memory": 1}}, "memory"),
}


@pytest.mark.parametrize("what", BAD_POLICIES)
def test_a_bad_policy_is_refused_before_anything_starts(what: str, tmp_path: Path, temporary: Path) -> None:
    content, reason = BAD_POLICIES[what]
    path = tmp_path / "policy.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    mine = set(psutil.Process().children(recursive=True))
    with pytest.raises(PolicyError, match=reason) as caught:
        KernelGateway(port=0, sandbox=True, sandbox_config=path, working_dir=tmp_path)
    assert isinstance(caught.value, ValueError)
    assert "policy.json" in str(caught.value)
    assert entries(temporary) == []
    assert set(psutil.Process().children(recursive=True)) <= mine


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="does not exist"):
        KernelGateway(port=0, sandbox=True, sandbox_config=tmp_path / "none.json", working_dir=tmp_path)


@pytest.mark.asyncio
async def test_a_policy_that_this_host_contradicts_is_refused_and_leaves_nothing(
    tmp_path: Path, temporary: Path
) -> None:
    """Only the supervisor can see it, so it comes from the start."""
    config = write_policy(tmp_path, filesystem={"allowWrite": ["/proc"]})
    mine = set(psutil.Process().children(recursive=True))
    with pytest.raises(PolicyError):
        await KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=tmp_path).start()
    assert entries(temporary) == []
    assert not [each for each in psutil.Process().children(recursive=True) if each not in mine and is_alive(each)]


def test_arguments_that_contradict_each_other(tmp_path: Path) -> None:
    config = write_policy(tmp_path)
    with pytest.raises(ValueError, match="sandbox_config"):
        KernelGateway(port=0, sandbox_config=config)
    with pytest.raises(ValueError, match="learn"):
        KernelGateway(port=0, learn=True)
    with pytest.raises(ValueError, match="kernel_name"):
        KernelGateway(port=0, sandbox=True, kernel_name="python3")


# ---- no sandbox to be had -------------------------------------------------------------------------------------

REFUSED = """
import asyncio, json, os, sys
import psutil
from ipybox.errors import SandboxUnavailableError
from ipybox.kernel_mgr.server import KernelGateway

async def main():
    try:
        async with KernelGateway(port=0, sandbox=True, working_dir=sys.argv[1]) as gateway:
            print(json.dumps(["started", gateway.sandbox_tier, 0, ""]))
    except SandboxUnavailableError as error:
        left = len(psutil.Process().children(recursive=True))
        print(json.dumps(["refused", str(error), left, os.path.exists(sys.argv[1] + "/kernel ran")]))

asyncio.run(main())
"""


async def outcome(wrapper: list[str], workspace: Path) -> tuple[str, str]:
    """Starts a sandboxed gateway in a machine that was made poorer; returns what came of it."""
    process = await asyncio.create_subprocess_exec(
        *wrapper,
        sys.executable,
        "-c",
        REFUSED,
        str(workspace),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(HANG):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    what, text, left, ran = json.loads(output)
    assert (left, ran) == (0, False)
    return what, text


def bwrap_files() -> list[str]:
    """Wherever it is looked for."""
    directories = ("/usr/bin", "/bin", "/usr/local/bin", None)
    found = [shutil.which("bwrap", path=directory) for directory in directories]
    return sorted({os.path.realpath(path) for path in found if path})


def bwrap() -> str:
    found = shutil.which("bwrap")
    assert found is not None
    return found


@pytest.mark.asyncio
async def test_without_bubblewrap_nothing_starts_and_the_error_names_it(tmp_path: Path, temporary: Path) -> None:
    masks = [word for path in bwrap_files() for word in ("--bind", "/dev/null", path)]
    what, text = await outcome([bwrap(), "--dev-bind", "/", "/", *masks, "--"], tmp_path)
    assert what == "refused"
    assert "bwrap" in text
    assert "install" in text
    assert entries(temporary) == []


@pytest.mark.asyncio
async def test_an_older_bubblewrap_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho bubblewrap 0.3.3\n")
    old.chmod(0o755)
    masks = [word for path in bwrap_files() for word in ("--bind", str(old), path)]
    what, text = await outcome([bwrap(), "--dev-bind", "/", "/", *masks, "--"], tmp_path)
    assert what == "refused"
    assert "0.3.3" in text
    assert "0.8" in text


@pytest.mark.asyncio
async def test_without_user_namespaces_nothing_starts_and_the_error_says_why(tmp_path: Path, temporary: Path) -> None:
    wrapper = [bwrap(), "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--proc", "/proc", "--"]
    what, text = await outcome(wrapper, tmp_path)
    assert what == "refused"
    assert "namespace" in text
    assert entries(temporary) == []


# ---- what was killed is told, and replaced --------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_death_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    mounts = host_mounts()
    owner = await owner_process(tmp_path, DAEMONS, "import time\nwhile True: time.sleep(60)")
    assert owner.stdout is not None
    async with asyncio.timeout(HANG):
        line = await owner.stdout.readline()
        pids, directory = json.loads(line)
        processes = [psutil.Process(pid) for pid in pids]
        assert await eventually(lambda: len([process for process in processes if name_of(process) == "sleep"]) >= 2)
        owner.send_signal(signal.SIGKILL)
        await owner.communicate()
    assert not await survivors(processes, HANG)
    assert await eventually(lambda: not Path(directory).exists())
    assert host_mounts() == mounts


@pytest.mark.asyncio
async def test_the_death_of_the_supervisor_ends_everything_and_is_told(tmp_path: Path) -> None:
    async with KernelGateway(port=0, sandbox=True, working_dir=tmp_path) as gateway:
        directory = run_dir(gateway)
        async with KernelClient(gateway.host, gateway.port) as client:
            await client.execute(DAEMONS)
            processes = family(gateway.pid)
            call = asyncio.create_task(client.execute("print('before')\nimport time; time.sleep(60)"))
            assert await eventually(lambda: bool(running(client)))
            supervisor_of(gateway).kill()
            with pytest.raises((ConnectionLostError, KernelDiedError)):
                async with asyncio.timeout(HANG):
                    await call
            with pytest.raises((GatewayConnectionError, ConnectionLostError)):
                async with asyncio.timeout(HANG):
                    await client.execute("1")
        assert not await survivors(processes, HANG)
        assert await eventually(lambda: not gateway.is_running)
        assert await eventually(lambda: not directory.exists())


@pytest.mark.parametrize("victim", ["warden", "server", "wall of the server"])
@pytest.mark.asyncio
async def test_the_death_of_the_gateway_ends_everything_and_is_told(victim: str, tmp_path: Path) -> None:
    gateway = KernelGateway(port=0, sandbox=True, working_dir=tmp_path)
    await gateway.start()
    directory = run_dir(gateway)
    try:
        async with KernelClient(gateway.host, gateway.port) as client:
            await client.execute(DAEMONS)
            processes = family(gateway.pid)
            call = asyncio.create_task(client.execute("import time; time.sleep(60)"))
            assert await eventually(lambda: bool(running(client)))
            victims = {
                "warden": processes[0],
                "server": server_of(gateway),
                "wall of the server": wall_of(gateway, "gateway_process"),
            }
            victims[victim].kill()
            with pytest.raises((ConnectionLostError, KernelDiedError)):
                async with asyncio.timeout(HANG):
                    await call
        assert not await survivors(processes, HANG)
    finally:
        await gateway.stop()
    assert not directory.exists()


@pytest.mark.parametrize("victim", ["bubblewrap", "launcher"])
@pytest.mark.asyncio
async def test_the_death_of_the_wall_is_told_to_all_and_a_new_wall_is_built(victim: str, tmp_path: Path) -> None:
    async with KernelGateway(port=0, sandbox=True, working_dir=tmp_path) as gateway:
        clients = await connected(gateway, 2)
        await asyncio.gather(*(client.execute("x = 1\n" + DAEMONS) for client in clients))
        target = wall_of(gateway, "launcher")
        if victim != "bubblewrap":
            (target,) = target.children()
        doomed = [each for init in inits(gateway) for each in (init, *init.children(recursive=True))]
        calls = [asyncio.create_task(client.execute("import time; time.sleep(60)")) for client in clients]
        assert await eventually(lambda: all(running(client) for client in clients))
        target.kill()
        if victim == "launcher":  # what it started needs it no more, or ends with it: both are fine
            async with KernelClient(gateway.host, gateway.port) as another:
                await still_works(another)
            for init in inits(gateway):
                if init in doomed and is_alive(init):
                    init.kill()
        async with asyncio.timeout(HANG):
            results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            assert isinstance(result, KernelDiedError)
            assert result.exit == ExitStatus("signalled", signal=signal.SIGKILL)
        assert not await survivors(doomed, HANG)
        assert [await text_of(client, "'x' in globals()") for client in clients] == ["False", "False"]
        async with KernelClient(gateway.host, gateway.port) as another:
            await still_works(another)
        await asyncio.gather(*(client.disconnect() for client in clients))


@pytest.mark.asyncio
async def test_the_death_of_pid_1_is_told_and_others_go_on(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port) as other:
        await other.execute("x = 2")
        known = inits(gateway)
        async with KernelClient(gateway.host, gateway.port) as client:
            await client.execute(DAEMONS)
            (init,) = (each for each in inits(gateway) if each not in known)
            processes = [init, *init.children(recursive=True)]
            call = asyncio.create_task(client.execute("import time; time.sleep(60)"))
            assert await eventually(lambda: bool(running(client)))
            init.kill()
            with pytest.raises(KernelDiedError) as caught:
                async with asyncio.timeout(HANG):
                    await call
            assert caught.value.exit == ExitStatus("signalled", signal=signal.SIGKILL)
            assert not await survivors(processes, HANG)
            await still_works(client)
        assert await text_of(other, "x") == "2"


DEATHS = {
    "SIGKILL": ("import os; os.kill(os.getpid(), 9)", ExitStatus("signalled", signal=signal.SIGKILL)),
    "SIGKILL to its group": ("import os; os.killpg(0, 9)", ExitStatus("signalled", signal=signal.SIGKILL)),
    "SIGTERM": ("import os; os.kill(os.getpid(), 15)", ExitStatus("signalled", signal=signal.SIGTERM)),
    "os._exit": ("import os; os._exit(3)", ExitStatus("exited", code=3)),
    "os._exit(0)": ("import os; os._exit(0)", ExitStatus("exited", code=0)),
    "exit()": ("exit()", ExitStatus("exited", code=0)),
    "segfault": ("import ctypes; ctypes.string_at(0)", ExitStatus("signalled", signal=signal.SIGSEGV)),
    "abort": ("import os; os.abort()", ExitStatus("signalled", signal=signal.SIGABRT)),
    "from a thread": (
        "import os, threading, time\nthreading.Thread(target=os._exit, args=(3,)).start()\ntime.sleep(60)",
        ExitStatus("exited", code=3),
    ),
    "exec": ("import os; os.execv('/bin/sh', ['sh', '-c', 'exit 3'])", ExitStatus("exited", code=3)),
}


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.asyncio
async def test_a_kernel_that_dies_is_told_with_its_cause(gateway: KernelGateway, how: str) -> None:
    code, expected = DEATHS[how]
    async with KernelClient(gateway.host, gateway.port) as client, KernelClient(gateway.host, gateway.port) as other:
        await asyncio.gather(client.execute("x = 1"), other.execute("x = 2"))
        if how == "SIGTERM":
            await client.execute("import signal; signal.signal(15, signal.SIG_DFL)")
        error = await death_of(client, "print('partial', flush=True)\n" + code)
        assert error.exit == expected
        assert error.during_execution
        assert error.result is not None
        assert error.result.stdout == "partial\n"
        assert await text_of(client, "'x' in globals()") == "False"
        assert await text_of(other, "x") == "2"


@pytest.mark.asyncio
async def test_a_kernel_can_do_nothing_to_its_pid_1(client: KernelClient) -> None:
    code = """
import os
for signum in range(1, 65):
    try: os.kill(1, signum)
    except OSError: pass
print('on')
"""
    assert await text_of(client, code) == "on"
    await still_works(client)


LAST_WORDS = {
    "os._exit": ("import os\nprint('last words', end='')\nos._exit(3)", "last words"),
    "to both streams": (
        "import os, sys\nsys.stdout.write('last ')\nsys.stderr.write('words')\nos._exit(3)",
        "last words",
    ),
    "of the file descriptor": ("import os\nos.write(1, b'last words')\nos._exit(3)", "last words"),
    "of a child": ("import os\nos.system('printf \"last words\"')\nos._exit(3)", "last words"),
    "of faulthandler": ("import faulthandler\nfaulthandler.enable()\nfaulthandler._sigsegv()", "Segmentation fault"),
}


@pytest.mark.parametrize("what", LAST_WORDS)
@pytest.mark.asyncio
async def test_last_words_arrive(client: KernelClient, what: str) -> None:
    code, expected = LAST_WORDS[what]
    error = await death_of(client, code)
    assert error.result is not None
    assert expected in (error.result.text or "")


# ---- interrupts and timeouts ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_state_survives_a_timeout(client: KernelClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute("x = 41\nimport time; time.sleep(60)", timeout=0.5)
    assert caught.value.state_preserved
    assert await text_of(client, "print(x + 1)") == "42"


async def interrupted(client: KernelClient, code: str, until: str) -> ExecutionError:
    """Interrupts code as soon as it printed something."""
    with pytest.raises(ExecutionError) as caught:
        async with asyncio.timeout(HANG), client.run(code) as execution:
            async for event in execution:
                if until in getattr(event, "text", ""):
                    await client.interrupt()
    return caught.value


@pytest.mark.asyncio
async def test_an_interrupt_ends_a_sleep(client: KernelClient) -> None:
    error = await interrupted(client, "x = 1\nprint('go', flush=True)\nimport time; time.sleep(60)", "go")
    assert error.name == "KeyboardInterrupt"
    assert await text_of(client, "x") == "1"


@pytest.mark.asyncio
async def test_an_interrupt_ends_a_child_as_well(gateway: KernelGateway, client: KernelClient) -> None:
    code = "import subprocess\nprint('go', flush=True)\nsubprocess.run(['sleep', '20'])"
    error = await interrupted(client, code, "go")
    assert error.name == "KeyboardInterrupt"

    def sleeps() -> bool:
        return any(name_of(each) == "sleep" for each in family(gateway.pid) if is_alive(each))

    assert await eventually(lambda: not sleeps())
    await still_works(client)


@pytest.mark.asyncio
async def test_a_kernel_that_ignores_everything_is_replaced_at_its_timeout(gateway: KernelGateway) -> None:
    code = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    async with KernelClient(gateway.host, gateway.port, interrupt_grace=0.5) as client:
        with pytest.raises(ExecutionTimeoutError) as caught:
            async with asyncio.timeout(HANG):
                await client.execute(code, timeout=0.5)
        assert not caught.value.state_preserved
        await still_works(client)


@pytest.mark.asyncio
async def test_reset_and_keep_kernel(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port, keep_kernel=True) as client:
        await client.execute("x = 1\nopen('/tmp/mine', 'w').close()\n" + DAEMONS)
        (init,) = (each for each in inits(gateway) if any(name_of(c) == "sleep" for c in each.children(recursive=True)))
        before = [init, *init.children(recursive=True)]
        kernel_id = client.kernel_id
        await client.reset()
        assert not await survivors(before, HANG)
        assert client.kernel_id == kernel_id
        assert await text_of(client, "import os; 'x' in globals() or os.path.exists('/tmp/mine')") == "False"
        await client.execute("x = 2")
    async with KernelClient(gateway.host, gateway.port, kernel_id=kernel_id) as joined:
        assert await text_of(joined, "x") == "2"
    async with aiohttp.ClientSession() as http:
        async with http.delete(f"{gateway.url}/api/kernels/{kernel_id}") as answer:
            assert answer.status == 204


# ---- stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.asyncio
async def test_stop_leaves_the_host_as_it_was(busy: bool, tmp_path: Path, temporary: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / ".git" / "hooks").mkdir(parents=True)
    (workspace / ".env").write_text("SECRET=1")
    (workspace / "file").write_text("content")
    config = write_policy(
        tmp_path, filesystem={"denyWrite": ["not there", "src/not there either"], "allowWrite": ["."]}
    )
    names, mounts = entries(workspace), host_mounts()
    fds, mine = psutil.Process().num_fds(), set(psutil.Process().children(recursive=True))
    gateway = KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace)
    await gateway.start()
    client = KernelClient(gateway.host, gateway.port)
    await client.connect()
    await client.execute(DAEMONS)
    processes = family(gateway.pid)
    assert len(processes) >= 8
    if busy:
        ignore = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
        call = asyncio.create_task(client.execute(ignore))
        assert await eventually(lambda: bool(running(client)))
    async with asyncio.timeout(HANG):
        await gateway.stop()
    assert not await survivors(processes, 0)
    assert (entries(workspace), host_mounts()) == (names, mounts)
    assert entries(temporary) == []
    if busy:
        await asyncio.wait([call])
        call.exception()
    await client.disconnect()
    assert not [each for each in psutil.Process().children(recursive=True) if each not in mine and is_alive(each)]
    assert psutil.Process().num_fds() <= fds
    async with KernelGateway(port=gateway.port, sandbox=True, working_dir=workspace):  # the port is free at once
        pass
    assert entries(workspace) == names


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3, 0.5])
@pytest.mark.asyncio
async def test_a_start_that_is_cancelled_half_way_leaves_nothing(delay: float, tmp_path: Path, temporary: Path) -> None:
    mine, fds = set(psutil.Process().children(recursive=True)), psutil.Process().num_fds()
    gateway = KernelGateway(port=0, sandbox=True, working_dir=tmp_path)
    starting = asyncio.create_task(gateway.start())
    await asyncio.wait([starting], timeout=delay)
    starting.cancel()
    async with asyncio.timeout(HANG):
        await asyncio.wait([starting])
    if not starting.cancelled():
        assert starting.exception() is None
        await gateway.stop()
    assert not gateway.is_running
    assert not [each for each in psutil.Process().children(recursive=True) if each not in mine and is_alive(each)]
    assert entries(temporary) == []
    assert psutil.Process().num_fds() <= fds + 1
    assert entries(tmp_path) == []


@pytest.mark.asyncio
async def test_a_start_that_takes_long_can_be_given_up_and_leaves_a_repository_as_it_was(tmp_path: Path) -> None:
    library, repository = tmp_path / "library", tmp_path / "repository"
    library.mkdir()
    (library / "slow.py").write_text("import time; time.sleep(999)\n")
    for name in ("objects", "refs"):
        (repository / ".git" / name).mkdir(parents=True)
    (repository / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    before = sorted(repository.rglob("*"))
    gateway = KernelGateway(
        port=0,
        sandbox=True,
        working_dir=repository,
        sandbox_config=write_policy(tmp_path, filesystem={"allowRead": [str(library)]}),
        env={"PYTHONPATH": str(library)},
        preload=["slow"],
    )
    starting = asyncio.create_task(gateway.start())
    assert await eventually((repository / ".git" / "hooks").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert sorted(repository.rglob("*")) == before


@pytest.mark.parametrize("victim", ["supervisor", "launcher", "gateway_process"])
@pytest.mark.asyncio
async def test_a_gateway_that_is_killed_while_it_starts_is_told(victim: str, tmp_path: Path, temporary: Path) -> None:
    mine = set(psutil.Process().children(recursive=True))
    gateway = KernelGateway(port=0, sandbox=True, working_dir=tmp_path)
    starting = asyncio.create_task(gateway.start())
    found: list[psutil.Process] = []

    def there() -> bool:
        for each in psutil.Process().children(recursive=True):
            try:
                line = " ".join(each.cmdline())
            except psutil.Error:
                continue
            wanted = (
                "ipybox.sandbox.supervisor" in line if victim == "supervisor" else "bwrap" in line and victim in line
            )
            if each not in mine and wanted:
                found.append(each)
        return bool(found)

    assert await eventually(there)
    found[0].kill()
    async with asyncio.timeout(HANG):
        await asyncio.wait([starting])
    if starting.exception() is None:
        # The launcher is tried in two ways, so its death alone need not be the end; and who was found
        # in the moment in which the gateway came up may have died after that.
        if victim == "launcher":
            async with KernelClient(gateway.host, gateway.port) as client:
                await still_works(client)
        else:
            assert await eventually(lambda: not gateway.is_running)
        await gateway.stop()
    else:
        assert isinstance(starting.exception(), GatewayStartError | SandboxUnavailableError)
    assert not [each for each in psutil.Process().children(recursive=True) if each not in mine and is_alive(each)]
    assert entries(temporary) == []


# ---- many -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_twenty_kernels_at_once_see_only_themselves(gateway: KernelGateway) -> None:
    clients = await connected(gateway, 20)
    code = """
import os
open(f'/tmp/mine-{number}', 'w').close()
os.makedirs(os.path.expanduser(f'~/mine-{number}'))
"""
    look = """
pids = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
files = [name for name in [*os.listdir('/tmp'), *os.listdir(os.path.expanduser('~'))] if name.startswith('mine')]
print(len(pids), os.getpid() in pids, files == [f'mine-{number}'] * 2)
"""
    try:
        await asyncio.gather(*(client.execute(f"number = {i}\n{code}") for i, client in enumerate(clients)))
        seen = await asyncio.gather(*(text_of(client, look) for client in clients))
        assert set(seen) == {"2 True True"}
        assert [await text_of(client, "number") for client in clients] == [str(i) for i in range(20)]
    finally:
        await asyncio.gather(*(client.disconnect() for client in clients))
    assert await eventually(lambda: not inits(gateway))


@pytest.mark.asyncio
async def test_kernels_that_come_and_go_leave_nothing(gateway: KernelGateway) -> None:
    supervisor, server = supervisor_of(gateway), server_of(gateway)

    def footprint() -> dict[str, Any]:
        return {
            "processes": sorted(each.pid for each in family(gateway.pid) if is_alive(each)),
            "descriptors": (supervisor.num_fds(), server.num_fds()),
            "mounts": [Path(f"/proc/{each.pid}/mountinfo").read_text().count("\n") for each in (supervisor, server)],
            "files": entries(run_dir(gateway)),
        }

    async def cycle(client: KernelClient) -> None:
        async with asyncio.timeout(HANG), client:
            await client.execute("import os; open('/tmp/x', 'w').close()\n" + DAEMONS)

    for _ in range(3):
        await cycle(KernelClient(gateway.host, gateway.port))
    assert await eventually(lambda: not inits(gateway))
    before = footprint()
    for _ in range(30):
        await cycle(KernelClient(gateway.host, gateway.port))

    def is_as_before() -> bool:
        # A connection of the first ones may still have been about to be closed: there may be fewer descriptors now.
        now = footprint()
        are_fewer = all(each <= then for each, then in zip(now["descriptors"], before["descriptors"], strict=True))
        return are_fewer and now == {**before, "descriptors": now["descriptors"]}

    assert await eventually(is_as_before), (before, footprint())


@pytest.mark.asyncio
async def test_a_client_that_leaves_while_its_kernel_starts_leaves_none(gateway: KernelGateway) -> None:
    before = server_of(gateway).num_fds()
    for step in range(12):
        client = KernelClient(gateway.host, gateway.port)
        connecting = asyncio.create_task(client.connect())
        await asyncio.wait([connecting], timeout=step * 0.02)
        connecting.cancel()
        await asyncio.wait([connecting])
        if not connecting.cancelled() and connecting.exception() is None:
            await client.disconnect()
    async with asyncio.timeout(HANG):
        async with aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"{gateway.url}/api/kernels") as answer:
                    if not await answer.json():
                        break
                await asyncio.sleep(0.05)
    assert await eventually(lambda: not inits(gateway))
    assert await eventually(lambda: server_of(gateway).num_fds() <= before + 2)


@pytest.mark.parametrize("first_to_leave", [0, 1])
@pytest.mark.asyncio
async def test_two_gateways_share_a_working_directory(first_to_leave: int, tmp_path: Path) -> None:
    """What one of them does when it leaves must not open anything for the kernels of the other one."""
    config = write_policy(tmp_path, filesystem={"denyWrite": ["later"], "allowWrite": ["."]})
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    gateways = [KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace) for _ in range(2)]
    try:
        for gateway in gateways:
            await gateway.start()
        clients = [(await connected(gateway, 1))[0] for gateway in gateways]
        leaving, staying = clients[first_to_leave], clients[1 - first_to_leave]
        await leaving.execute("open('shared', 'w').write('from one')")
        assert await text_of(staying, "print(open('shared').read())") == "from one"
        await leaving.disconnect()
        await gateways[first_to_leave].stop()
        attempt = "try: open('later', 'w').close(); print('written')\nexcept OSError: print('refused')"
        async with KernelClient(staying.host, staying.port) as fresh:
            assert [await text_of(each, attempt) for each in (staying, fresh)] == ["refused", "refused"]
        await staying.disconnect()
    finally:
        await asyncio.gather(*(gateway.stop() for gateway in gateways))
    assert entries(workspace) == [str(workspace / "shared")]


# ---- the host goes on as well ---------------------------------------------------------------------------------

PROTECTED = [".env", "listed", ".git/config", ".git/hooks/pre-commit", ".vscode/settings.json"]
ATTEMPT = """
for name, mode in {attempts!r}:
    try:
        with open(name, mode) as file: print(name, 'read' if mode == 'r' else file.write('by the kernel'), file.read())
    except (OSError, ValueError): pass
"""


@pytest.mark.parametrize("how", ["replaced", "removed and made again"])
@pytest.mark.asyncio
async def test_files_that_the_host_writes_anew_are_protected_from_the_next_kernel(how: str, tmp_path: Path) -> None:
    """Editors and git don't write into a file: they put a new one in its place."""
    workspace = tmp_path / "workspace"
    config = write_policy(tmp_path, filesystem={"denyRead": [".env"], "denyWrite": ["listed"], "allowWrite": ["."]})
    for name in PROTECTED:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("old")
    attempts = [(".env", "r"), *((name, "a") for name in PROTECTED)]
    async with KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            assert await text_of(client, ATTEMPT.format(attempts=attempts)) == ""
            for name in PROTECTED:
                if how == "replaced":
                    (tmp_path / "new").write_text("secret")
                    (tmp_path / "new").rename(workspace / name)
                else:
                    (workspace / name).unlink()
                    (workspace / name).write_text("secret")
        async with KernelClient(gateway.host, gateway.port) as fresh:
            assert "secret" not in await text_of(fresh, ATTEMPT.format(attempts=attempts))
    assert {name: (workspace / name).read_text() for name in PROTECTED} == dict.fromkeys(PROTECTED, "secret")


def test_a_gateway_lives_across_event_loops(tmp_path: Path) -> None:
    gateway = KernelGateway(port=0, sandbox=True, working_dir=tmp_path)
    asyncio.run(gateway.start())

    async def use() -> str:
        async with KernelClient(gateway.host, gateway.port) as client:
            return await text_of(client, "1 + 1")

    work: Callable[[], str] = lambda: asyncio.run(use())  # noqa: E731
    try:
        assert [work(), work()] == ["2", "2"]
    finally:
        asyncio.run(gateway.stop())
