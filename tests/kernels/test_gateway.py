"""What a gateway promises: ready when entered, closed to strangers, and nothing of it left behind."""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from kernel_gateway import jupyter_websocket

from ipybox.errors import GatewayStartError, KernelStartError, PortInUseError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from tests.kernels.helpers import (
    HANG,
    MARGIN,
    eventually,
    family,
    is_alive,
    run_directories,
    running,
    still_works,
    survivors,
)

pytestmark = pytest.mark.kernel

CLEAN = 2.0 * MARGIN
"""Seconds within which nothing may be left after the owner was killed."""
IDLE = "import time\nwhile True:\n    time.sleep(600)"


def run_dir(gateway: KernelGateway) -> Path:
    """The private directory of a gateway that runs."""
    assert gateway._run_dir is not None
    return gateway._run_dir


# ---- start ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_gateway_answers_as_soon_as_it_is_entered() -> None:
    async with KernelGateway(port=0) as gateway:
        with socket.create_connection((gateway.host, gateway.port), timeout=1):
            pass
        async with aiohttp.ClientSession() as http, http.get(f"{gateway.url}/api") as answer:
            assert answer.status == 200
        assert gateway.is_running
    assert (gateway.is_running, gateway.pid) == (False, None)


@pytest.mark.asyncio
async def test_port_0_picks_a_port_and_keeps_it() -> None:
    gateway = KernelGateway(port=0)
    assert gateway.port == 0
    async with gateway:
        port = gateway.port
        assert port > 0
        assert gateway.url.endswith(f":{port}")
    assert gateway.port == port


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "0.0.0.0"])
@pytest.mark.asyncio
async def test_every_way_to_name_this_machine_works(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        gateway = KernelGateway(host, port=0)
        await gateway.start()
    except GatewayStartError:
        if host != "::1":
            raise
        pytest.skip("no ::1 here")
    try:
        async with KernelClient("127.0.0.1" if host == "0.0.0.0" else host, gateway.port) as client:
            await still_works(client)
    finally:
        await gateway.stop()


@pytest.mark.asyncio
async def test_a_taken_port_fails_at_once_and_names_the_holder() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        before = run_directories()
        with pytest.raises(PortInUseError) as caught:
            async with asyncio.timeout(MARGIN):
                await KernelGateway("127.0.0.1", port).start()
        assert (caught.value.host, caught.value.port) == ("127.0.0.1", port)
        if sys.platform.startswith("linux"):
            assert caught.value.holder is not None
            assert str(os.getpid()) in caught.value.holder
            assert caught.value.holder in str(caught.value)
        assert run_directories() <= before


@pytest.mark.asyncio
async def test_a_second_gateway_on_the_port_of_the_first_fails_and_the_first_goes_on(gateway: KernelGateway) -> None:
    with pytest.raises(PortInUseError, match=str(gateway.port)):
        await KernelGateway(gateway.host, gateway.port).start()
    async with KernelClient(gateway.host, gateway.port) as client:
        await still_works(client)


@pytest.mark.asyncio
async def test_a_host_that_does_not_exist_or_is_not_ours() -> None:
    for host in ("no-such-host.invalid", "192.0.2.1"):
        with pytest.raises(GatewayStartError):
            async with asyncio.timeout(HANG):
                await KernelGateway(host, 0).start()


@pytest.mark.asyncio
async def test_several_gateways_at_once_keep_apart() -> None:
    gateways = [KernelGateway(port=0, env={"NUMBER": str(i)}) for i in range(4)]
    try:
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        assert len({gateway.port for gateway in gateways}) == 4
        for i, gateway in enumerate(gateways):
            async with KernelClient(gateway.host, gateway.port) as client:
                assert (await client.execute("print(__import__('os').environ['NUMBER'])")).text == str(i)
    finally:
        await asyncio.gather(*(gateway.stop() for gateway in gateways))


@pytest.mark.asyncio
async def test_a_gateway_starts_once_at_a_time_and_again_after_its_stop() -> None:
    gateway = KernelGateway(port=0)
    await gateway.stop()
    for _ in range(2):
        async with gateway:
            with pytest.raises(RuntimeError, match="running"):
                await gateway.start()
            async with KernelClient(gateway.host, gateway.port) as client:
                await still_works(client)
    await gateway.stop()


def _python_that(tmp_path: Path, behaviour: str) -> str:
    """A Python for which the gateway's own program does something else; everything else runs as ever."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\nfor word in "$@"; do\n  case "$word" in\n    */warden.py) exec {sys.executable} "$@";;\n'
        f'    ipybox.kernel_mgr.gateway*) {behaviour};;\n  esac\ndone\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.mark.asyncio
async def test_a_gateway_that_dies_at_start_is_told_with_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", _python_that(tmp_path, "echo first line; echo last words >&2; exit 7"))
    before = run_directories()
    with pytest.raises(GatewayStartError, match="exit code 7") as caught:
        async with asyncio.timeout(HANG):
            await KernelGateway(port=0).start()
    assert "first line\nlast words" in caught.value.log
    assert "last words" in str(caught.value)
    assert run_directories() <= before


@pytest.mark.asyncio
async def test_a_gateway_that_closes_its_eyes_and_stays_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never says that it serves, and it does not end."""
    monkeypatch.setattr(sys, "executable", _python_that(tmp_path, "echo stuck; exec sleep 600"))
    gateway = KernelGateway(port=0, start_timeout=0.5, stop_timeout=1)
    with pytest.raises(GatewayStartError, match=r"within 0\.5 s"):
        async with asyncio.timeout(HANG):
            await gateway.start()
    assert not gateway.is_running
    # It gives up its descriptors without a word, and goes on.
    script = 'for f in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do eval "exec $f<&-"; done; exec sleep 600'
    monkeypatch.setattr(sys, "executable", _python_that(tmp_path, script))
    gateway = KernelGateway(port=0, start_timeout=5, stop_timeout=1)
    with pytest.raises(GatewayStartError):
        async with asyncio.timeout(HANG):
            await gateway.start()
    assert not gateway.is_running


@pytest.mark.parametrize("victim", ["warden", "server"])
@pytest.mark.asyncio
async def test_a_gateway_killed_while_it_starts_is_told(victim: str) -> None:
    before = run_directories()
    gateway = KernelGateway(port=0)
    starting = asyncio.create_task(gateway.start())
    target: list[psutil.Process] = []

    def found() -> bool:
        if gateway.pid is not None:
            top = psutil.Process(gateway.pid)
            target[:] = [top] if victim == "warden" else top.children()
        return bool(target)

    assert await eventually(found)
    target[0].kill()
    with pytest.raises(GatewayStartError):
        async with asyncio.timeout(HANG):
            await starting
    assert not await survivors(target, CLEAN)
    assert run_directories() <= before


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8])
@pytest.mark.asyncio
async def test_a_start_that_is_cancelled_half_way_leaves_nothing(delay: float) -> None:
    before, mine = run_directories(), set(psutil.Process().children(recursive=True))
    fds = psutil.Process().num_fds()
    gateway = KernelGateway(port=0)
    starting = asyncio.create_task(gateway.start())
    await asyncio.wait([starting], timeout=delay)
    starting.cancel()
    async with asyncio.timeout(HANG):
        await asyncio.wait([starting])
    if not starting.cancelled():
        assert starting.exception() is None
        await gateway.stop()
    assert not gateway.is_running
    left = [process for process in psutil.Process().children(recursive=True) if process not in mine]
    assert not [process for process in left if is_alive(process)]
    assert run_directories() <= before
    assert psutil.Process().num_fds() <= fds + 1


@pytest.mark.asyncio
async def test_a_kernel_name_that_does_not_exist_is_told() -> None:
    async with KernelGateway(port=0) as gateway:
        with pytest.raises(KernelStartError):
            async with asyncio.timeout(HANG):
                await KernelClient(gateway.host, gateway.port, kernel_name="no-such-kernel").connect()


# ---- who may talk to it ---------------------------------------------------------------------------------------

ROUTES = [
    handler[0]
    for handler in (
        jupyter_websocket.default_api_handlers
        + jupyter_websocket.default_kernel_handlers
        + jupyter_websocket.default_kernelspec_handlers
        + jupyter_websocket.default_session_handlers
        + jupyter_websocket.default_base_handlers
    )
]
MADE_UP = [
    "/",
    "/nothing",
    "/api/nothing",
    "/static/x.js",
    "/favicon.ico",
    "/api/kernels/",
    "//api",
    "/api/../api",
    "/%00",
]


def paths() -> list[str]:
    """A path for every route of the application, and some that it does not have."""
    made = []
    for pattern in ROUTES:
        path = re.sub(r"\(\?P<(\w+)>(?:[^()]|\([^()]*\))*\)", r"00000000-0000-0000-0000-000000000000", pattern)
        path = re.sub(r"\([^()]*\)|[$^?]", "", path).replace("\\", "").replace(".*", "x")
        made.append(path if path.startswith("/") else f"/{path}")
    return [*made, *MADE_UP]


async def status(gateway: KernelGateway, method: str, path: str, headers: dict[str, str]) -> int:
    """Status of the answer to one request, sent just as it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Content-Length: 0", "", ""]
        writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(HANG):
            first = await reader.readline()
        return int(first.split()[1]) if first else 0
    finally:
        writer.close()
        await writer.wait_closed()


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REFUSED = {400, 401, 403, 405}
WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.asyncio
async def test_no_route_answers_without_the_token() -> None:
    async with KernelGateway("127.0.0.1", port=0, auth_token=True) as gateway:
        host = {"Host": f"127.0.0.1:{gateway.port}"}
        open_routes = []
        for path in paths():
            for method in METHODS:
                for extra in ({}, {"Authorization": "token wrong"}, {"Authorization": "token"}):
                    code = await status(gateway, method, path, {**host, **extra})
                    if code not in REFUSED:
                        open_routes.append((method, path, extra, code))
            code = await status(gateway, "GET", path, {**host, **WEBSOCKET})
            if code not in REFUSED:
                open_routes.append(("WEBSOCKET", path, {}, code))
        assert not open_routes
        async with KernelClient(gateway.host, gateway.port, auth_token=gateway.auth_token) as client:
            channels = f"/api/kernels/{client.kernel_id}/channels"
            for protocol in ({}, {"Sec-WebSocket-Protocol": "v1.kernel.websocket.ipybox"}):
                assert await status(gateway, "GET", channels, {**host, **WEBSOCKET, **protocol}) == 401
                given = {"Authorization": f"Bearer {gateway.auth_token}"}
                assert await status(gateway, "GET", channels, {**host, **WEBSOCKET, **protocol, **given}) == 101
            assert await status(gateway, "GET", f"/api/kernels?token={gateway.auth_token}", host) == 200
            assert await status(gateway, "GET", f"/api/kernels?token={gateway.auth_token}x", host) == 401
            await still_works(client)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:8888", "http://127.0.0.1"])
@pytest.mark.asyncio
async def test_requests_of_web_pages_are_refused(gateway: KernelGateway, client: KernelClient, origin: str) -> None:
    host = {"Host": f"localhost:{gateway.port}", "Origin": origin}
    for path in ["/api", "/api/kernels", "/api/swagger.json", "/nothing"]:
        for method in ("GET", "POST", "OPTIONS"):
            assert await status(gateway, method, path, host) == 403
    channels = f"/api/kernels/{client.kernel_id}/channels"
    assert await status(gateway, "GET", channels, {**host, **WEBSOCKET}) == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8888", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::2]"]
)
@pytest.mark.asyncio
async def test_requests_under_a_foreign_name_are_refused(
    gateway: KernelGateway, client: KernelClient, host: str
) -> None:
    for path in ["/api", "/api/kernels", "/api/swagger.json", "/nothing"]:
        assert await status(gateway, "GET", path, {"Host": host}) in (400, 403)
    channels = f"/api/kernels/{client.kernel_id}/channels"
    assert await status(gateway, "GET", channels, {"Host": host, **WEBSOCKET}) in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8888"])
@pytest.mark.asyncio
async def test_requests_under_our_own_names_are_answered(gateway: KernelGateway, host: str) -> None:
    assert await status(gateway, "GET", "/api", {"Host": host}) == 200


# ---- what kernels get -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_kernels_get_the_given_environment_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"secret-{time.time_ns()}"
    for name in ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "MY_PASSWORD", "HTTP_PROXY", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, secret)
    env = {"A": "a b'\"$é\n", "TZ": "Asia/Tokyo"}
    async with (
        KernelGateway("127.0.0.1", port=0, env=env, auth_token=True) as gateway,
        KernelClient(gateway.host, gateway.port, auth_token=gateway.auth_token) as client,
    ):
        result = await client.execute("import os, json; print(json.dumps(dict(os.environ)))")
        assert result.text is not None
        got = json.loads(result.text)
        assert {name: got.get(name) for name in env} == env
        assert secret not in result.text
        assert gateway.auth_token is not None
        assert gateway.auth_token not in result.text
        assert (await client.execute("import time; print(time.tzname[0])")).text == "JST"
        for process in family(gateway.pid):  # the kernel could read these
            assert secret not in str(process.environ())
            assert gateway.auth_token not in str(process.environ())
            assert gateway.auth_token not in str(process.cmdline())
        files = "\n".join(path.read_text(errors="replace") for path in run_dir(gateway).rglob("*") if path.is_file())
        assert gateway.auth_token not in files
        assert secret not in files


@pytest.mark.asyncio
async def test_kernels_hold_no_descriptor_of_the_gateway(client: KernelClient) -> None:
    code = """
import os
def target(fd):
    try: return os.readlink(f"/proc/self/fd/{fd}")
    except OSError: return ""
found = sorted(map(target, os.listdir("/proc/self/fd")))
print([f for f in found if "ipybox-" in f and "ipybox-output" not in f])
"""
    if sys.platform.startswith("linux"):
        assert (await client.execute(code)).stdout == "[]\n"
        gateway_fds = (
            "print([s for s in __import__('psutil').Process().net_connections('tcp') if s.status == 'LISTEN'])"
        )
        assert (await client.execute(gateway_fds)).stdout == "[]\n"


@pytest.mark.asyncio
async def test_kernels_run_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    async with (
        KernelGateway(port=0, working_dir=tmp_path / "own") as gateway,
        KernelClient(gateway.host, gateway.port, images_dir=tmp_path / "images") as client,
    ):
        assert (await client.execute("print(__import__('os').getcwd())")).text == str(tmp_path / "own")
        await client.execute("import json; open('json.py', 'w').write('1/0')")
        await client.reset()
        await still_works(client)


@pytest.mark.asyncio
async def test_the_private_directory_is_private(gateway: KernelGateway, client: KernelClient) -> None:
    assert stat.S_IMODE(run_dir(gateway).stat().st_mode) & 0o777 == 0o700


# ---- the end --------------------------------------------------------------------------------------------------

STUBBORN_CHILDREN = """
import os, signal, subprocess, sys, time
def start(setup, wiped=False):
    code = f"import os, signal, sys, time\\n{setup}\\nprint(os.getpid(), flush=True)\\ntime.sleep(600)"
    env = {} if wiped else None
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    return int(child.stdout.readline())
ignore = "for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)"
daemon = "if os.fork(): os._exit(0)\\nos.setsid()\\nif os.fork(): os._exit(0)"
pids = [
    start(""), start(ignore), start("os.setsid()"), start("os.setsid()\\n" + ignore), start(daemon),
    start(daemon + "\\n" + ignore), start("os.setpgid(0, 0)"), start(daemon, wiped=True),
]
print(*pids)
"""
"""Starts children that do all they can to stay. The last one is out of reach for its kernel, but not its gateway."""


async def stubborn_children(client: KernelClient) -> list[psutil.Process]:
    async with asyncio.timeout(HANG):
        result = await client.execute(STUBBORN_CHILDREN)
    return [psutil.Process(int(pid)) for pid in result.stdout.split()]


def our_threads() -> list[str]:
    """Names of the package's own threads in this process; one belongs to the module's gateway."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("ipybox"))


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.asyncio
async def test_stop_leaves_no_process_no_file_and_no_socket(busy: bool) -> None:
    before, fds, threads = run_directories(), psutil.Process().num_fds(), our_threads()
    gateway = KernelGateway(port=0)
    await gateway.start()
    client = KernelClient(gateway.host, gateway.port)
    await client.connect()
    processes = await stubborn_children(client)
    processes += family(gateway.pid)
    directory = run_dir(gateway)
    if busy:
        call = asyncio.create_task(client.execute("import signal\nsignal.signal(15, signal.SIG_IGN)\n" + IDLE))
        assert await eventually(lambda: bool(running(client)))
    async with asyncio.timeout(HANG):
        await gateway.stop()
    assert not await survivors(processes, 0.5)
    assert not directory.exists()
    assert run_directories() <= before
    with pytest.raises(OSError):
        socket.create_connection((gateway.host, gateway.port), timeout=1)
    if busy:
        await asyncio.wait([call])
        call.exception()
    await client.disconnect()
    assert await eventually(lambda: our_threads() == threads, 5)
    assert psutil.Process().num_fds() <= fds
    async with KernelGateway(port=gateway.port):  # the port is free at once
        pass


OWNER = """
import asyncio, json, os, signal, sys
import psutil
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

async def main():
    async with KernelGateway(port=0) as gateway, KernelClient(gateway.host, gateway.port) as client:
        children = (await client.execute(sys.argv[1])).stdout.split()
        pids = [p.pid for p in psutil.Process().children(recursive=True)] + [int(c) for c in children]
        print(json.dumps([pids, str(gateway._run_dir)]), flush=True)
        await client.execute(sys.argv[2])

asyncio.run(main())
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.asyncio
async def test_the_death_of_the_owner_leaves_nothing(signum: signal.Signals) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OWNER,
        STUBBORN_CHILDREN,
        IDLE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert owner.stdout is not None
    async with asyncio.timeout(HANG):
        pids, directory = json.loads(await owner.stdout.readline())
        processes = [psutil.Process(pid) for pid in pids]
        assert len(processes) >= 10
        owner.send_signal(signum)
        await owner.wait()
        assert not await survivors(processes, CLEAN)
        assert await eventually(lambda: not Path(directory).exists(), CLEAN)
        await owner.stdout.read()


@pytest.mark.asyncio
async def test_a_gateway_whose_server_hangs_is_stopped_by_force() -> None:
    gateway = KernelGateway(port=0, stop_timeout=1)
    await gateway.start()
    processes = family(gateway.pid)
    processes[1].suspend()
    async with asyncio.timeout(HANG):
        await gateway.stop()
    assert not await survivors(processes, 0.5)


@pytest.mark.asyncio
async def test_join_returns_when_the_gateway_ends_by_itself() -> None:
    async with KernelGateway(port=0) as gateway:
        joining = asyncio.create_task(gateway.join())
        done, _ = await asyncio.wait([joining], timeout=0.05)
        assert not done
        family(gateway.pid)[1].kill()
        async with asyncio.timeout(HANG):
            await joining
        assert not gateway.is_running


def test_a_gateway_lives_across_event_loops() -> None:
    gateway = KernelGateway(port=0)
    asyncio.run(gateway.start())

    async def use() -> str | None:
        async with KernelClient(gateway.host, gateway.port) as client:
            return (await client.execute("1 + 1")).text

    try:
        assert [asyncio.run(use()) for _ in range(3)] == ["2"] * 3
    finally:
        processes = family(gateway.pid)
        asyncio.run(gateway.stop())
    assert not [process for process in processes if is_alive(process)]


@pytest.mark.asyncio
async def test_stop_that_is_cancelled_still_stops() -> None:
    gateway = KernelGateway(port=0)
    await gateway.start()
    processes = family(gateway.pid)
    stopping = asyncio.create_task(gateway.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    async with asyncio.timeout(HANG):
        await asyncio.wait([stopping])
    assert not await survivors(processes, CLEAN)
    assert not gateway.is_running


# ---- kernels come and go --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_end_of_a_kernel_ends_its_children(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port) as client:
        children = await stubborn_children(client)
        mine = children[:-1]
        await client.reset()
        assert not await survivors(mine, 0.5)
        again = (await stubborn_children(client))[:-1]
    assert not await survivors(again, 0.5)
    children[-1].kill()


@pytest.mark.asyncio
async def test_an_abandoned_kernel_is_ended_and_a_used_one_is_not() -> None:
    async with KernelGateway(port=0, abandoned_timeout=1.0) as gateway:
        used = KernelClient(gateway.host, gateway.port)
        await used.connect()
        async with KernelClient(gateway.host, gateway.port, keep_kernel=True) as client:
            pid = int((await client.execute("print(__import__('os').getpid())")).text or "")
            process = psutil.Process(pid)
            await asyncio.sleep(1.5)  # longer than the timeout, with a connection
            await still_works(client)
        assert not await survivors([process], HANG / 3)
        await still_works(used)
        await used.disconnect()


@pytest.mark.asyncio
async def test_an_abandoned_kernel_that_is_joined_in_time_stays() -> None:
    async with KernelGateway(port=0, abandoned_timeout=1.5) as gateway:
        async with KernelClient(gateway.host, gateway.port, keep_kernel=True) as client:
            kernel_id = client.kernel_id
        async with KernelClient(gateway.host, gateway.port, kernel_id=kernel_id) as client:
            await asyncio.sleep(2.0)
            await still_works(client)


POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads that asyncio's pool grows to by and by, which is no leak."""


def footprint(gateway: KernelGateway) -> dict[str, Any]:
    """What grows when something leaks."""
    server = family(gateway.pid)[1]
    return {
        "fds": server.num_fds(),
        "threads": server.num_threads(),
        "children": sorted(process.pid for process in family(gateway.pid)[2:]),
        "files": sorted(str(path) for path in run_dir(gateway).rglob("*")),
    }


@pytest.mark.asyncio
async def test_50_kernels_leave_nothing_in_the_gateway() -> None:
    async with KernelGateway(port=0) as gateway:

        async def cycle(code: str = "1 + 1") -> None:
            async with KernelClient(gateway.host, gateway.port) as client:
                await client.execute(code)

        for _ in range(3):
            await asyncio.gather(*(cycle() for _ in range(8)))
        before = footprint(gateway)
        for _ in range(10):
            await asyncio.gather(*(cycle("print('x' * 100_000)") for _ in range(5)))
        after: dict[str, Any] = {}

        def settled() -> bool:
            after.update(footprint(gateway))
            return after["fds"] <= before["fds"] and len(after["children"]) == 1

        await eventually(settled, 5)
        assert after["fds"] <= before["fds"]
        assert after["threads"] <= before["threads"] + POOL
        assert after["children"] == before["children"][:1]  # what kernels are forked from
        assert after["files"] == before["files"]


@pytest.mark.asyncio
async def test_deaths_and_resets_leave_nothing_in_the_gateway() -> None:
    async with (
        KernelGateway(port=0) as gateway,
        KernelClient(gateway.host, gateway.port) as client,
    ):
        for _ in range(2):
            await client.reset()
            await still_works(client)
        before = footprint(gateway)
        for _ in range(5):
            await client.reset()
            with pytest.raises(Exception, match="exit code 1"):
                await client.execute("import os; os._exit(1)")
            await still_works(client)
        after: dict[str, Any] = {}

        def settled() -> bool:
            after.update(footprint(gateway))
            return bool(after["fds"] <= before["fds"])

        await eventually(settled, 5)
        assert after["fds"] <= before["fds"]
        assert after["threads"] <= before["threads"] + POOL
        assert len(after["children"]) == len(before["children"])
        assert len(after["files"]) == len(before["files"])


@pytest.mark.asyncio
async def test_the_module_starts_a_gateway_from_the_shell() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ipybox.kernel_mgr.server", "--port", "0", "--log-level", "WARNING"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(HANG):
        line = (await process.stdout.readline()).decode()
        found = re.search(r"http://localhost:(\d+)", line)
        assert found is not None
        async with KernelClient("localhost", int(found[1])) as client:
            await still_works(client)
            processes = family(process.pid)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert not await survivors(processes, CLEAN)
        await process.stdout.read()
