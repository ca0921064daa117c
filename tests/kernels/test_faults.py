"""All that can go wrong does, with real kernels: each call ends, with the right error, and the next one works."""

import asyncio
import os
import resource
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    GatewayConnectionError,
    IpyboxError,
    KernelDiedError,
    KernelStartError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.output_limit import OutputLimit
from tests.kernels.helpers import HANG, MARGIN, eventually, family, is_alive, link_of, still_works, survivors

pytestmark = pytest.mark.kernel

DEATH = 3.0 * MARGIN
"""Seconds within which a kernel's death must be told."""
LOSS = 2.0 * MARGIN
"""Seconds within which the loss of a gateway must be told."""


async def death_of(client: KernelClient, code: str, within: float = DEATH, **options: Any) -> KernelDiedError:
    """Runs code that kills its kernel, and returns the error that tells."""
    with pytest.raises(KernelDiedError) as caught:
        async with asyncio.timeout(within):
            await client.execute(code, **options)
    return caught.value


async def ended(client: KernelClient, code: str, timeout: float | None = None) -> IpyboxError | None:
    """Runs code that may do anything; returns its error. Fails when it hangs or the error is a foreign one."""
    async with asyncio.timeout(HANG):
        try:
            await client.execute(code, timeout)
        except IpyboxError as error:
            return error
    return None


# ---- kernels that die -----------------------------------------------------------------------------------------

DEATHS = {
    "os._exit": ("import os; os._exit(3)", ExitStatus("exited", code=3)),
    "os._exit(0)": ("import os; os._exit(0)", ExitStatus("exited", code=0)),
    "segfault": ("import ctypes; ctypes.string_at(0)", ExitStatus("signalled", signal=signal.SIGSEGV)),
    "abort": ("import os; os.abort()", ExitStatus("signalled", signal=signal.SIGABRT)),
    "SIGKILL": ("import os; os.kill(os.getpid(), 9)", ExitStatus("signalled", signal=signal.SIGKILL)),
    "SIGKILL to its group": ("import os; os.killpg(0, 9)", ExitStatus("signalled", signal=signal.SIGKILL)),
    "from a thread": (
        "import os, threading, time\nthreading.Thread(target=os._exit, args=(3,)).start()\ntime.sleep(60)",
        ExitStatus("exited", code=3),
    ),
    "exec of another program": (
        "import os; os.execv('/bin/sh', ['sh', '-c', 'exit 3'])",
        ExitStatus("exited", code=3),
    ),
}


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.asyncio
async def test_a_kernel_that_dies_is_told_with_its_cause_and_replaced(gateway: KernelGateway, how: str) -> None:
    code, expected = DEATHS[how]
    async with (
        KernelClient(gateway.host, gateway.port) as client,
        KernelClient(gateway.host, gateway.port) as other,
    ):
        await asyncio.gather(client.execute("x = 1"), other.execute("x = 2"))
        kernel_id = client.kernel_id
        error = await death_of(client, "import time\nprint('partial', flush=True)\ntime.sleep(0.05)\n" + code)
        assert error.exit == expected
        assert error.during_execution
        assert error.state_preserved is False
        assert error.result is not None
        assert error.result.stdout == "partial\n"
        async with asyncio.timeout(HANG):
            assert (await client.execute("'x' in globals()")).text == "False"
        assert client.kernel_id == kernel_id
        assert (await other.execute("x")).text == "2"


@pytest.mark.parametrize("code", ["exit()", "quit()"])
@pytest.mark.asyncio
async def test_exit_in_a_cell_ends_the_kernel_and_says_so(client: KernelClient, code: str) -> None:
    await client.execute("x = 1")
    error = await death_of(client, f"print('bye', flush=True)\n{code}")
    assert error.exit == ExitStatus("exited", code=0)
    assert error.result is not None
    assert error.result.stdout == "bye\n"
    assert (await client.execute("'x' in globals()")).text == "False"


@pytest.mark.parametrize("call", ["sys.exit()", "sys.exit(3)", "raise SystemExit('why')"])
@pytest.mark.asyncio
async def test_sys_exit_is_an_exception_like_any_other(client: KernelClient, call: str) -> None:
    await client.execute("x = 1")
    with pytest.raises(ExecutionError) as caught:
        await client.execute(f"import sys\n{call}")
    assert caught.value.name == "SystemExit"
    assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_a_memory_bomb_is_killed_and_told_apart(tmp_path: Path) -> None:
    async with (
        KernelGateway(port=0, memory_limit=400 * 1024 * 1024) as gateway,
        KernelClient(gateway.host, gateway.port) as client,
        KernelClient(gateway.host, gateway.port) as other,
    ):
        await other.execute("x = 2")
        bomb = "print('ticking', flush=True)\nhog = []\nwhile True: hog.append(b'x' * 10_000_000)"
        error = await death_of(client, bomb)
        assert error.exit.reason == "memory"
        assert "400" in error.exit.detail or "419430400" in error.exit.detail
        assert "memory" in str(error)
        assert error.result is not None
        assert error.result.stdout == "ticking\n"
        await still_works(client)
        family_bomb = (
            "import subprocess, sys\n"
            "subprocess.run([sys.executable, '-c', 'import time; x = b\"x\" * 600_000_000; time.sleep(60)'])"
        )
        assert (await death_of(client, family_bomb)).exit.reason == "memory"
        await still_works(client)
        assert (await other.execute("x")).text == "2"


@pytest.mark.asyncio
async def test_a_death_between_calls_is_told_once_and_that_call_did_not_run(
    client: KernelClient, tmp_path: Path
) -> None:
    await client.execute("import os, threading, time\nx = 1")
    pid = int((await client.execute("os.getpid()")).text or "")
    for stop in (signal.SIGKILL, signal.SIGSEGV):
        process = psutil.Process(pid)
        process.send_signal(stop)
        assert not await survivors([process], DEATH)
        trace = tmp_path / f"ran-{stop}"
        error = await death_of(client, f"open({str(trace)!r}, 'w').close()")
        assert error.exit == ExitStatus("signalled", signal=stop)
        assert not trace.exists()
        result = await client.execute("import os\n'x' in globals(), os.getpid()")
        assert result.text is not None
        assert result.text.startswith("(False, ")
        pid = int(result.text.strip("()").split(", ")[1])


@pytest.mark.asyncio
async def test_a_death_noticed_between_calls_says_that_nothing_ran(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        await client.execute("import os, threading\nthreading.Timer(0.1, os._exit, [5]).start()")
        assert await eventually(lambda: link_of(client).is_dead)
    error = await death_of(client, "1")
    assert error.exit == ExitStatus("exited", code=5)
    assert not error.during_execution
    assert error.result is None
    await still_works(client)


@pytest.mark.asyncio
async def test_calls_that_wait_behind_a_dying_one_run_on_the_fresh_kernel(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        first, second, third = await asyncio.gather(
            client.execute("import os; os._exit(3)"),
            client.execute("print('second')"),
            client.execute("print('third')"),
            return_exceptions=True,
        )
    assert isinstance(first, KernelDiedError)
    assert not isinstance(second, BaseException)
    assert not isinstance(third, BaseException)
    assert (second.stdout, third.stdout) == ("second\n", "third\n")


@pytest.mark.asyncio
async def test_children_of_a_dead_kernel_are_gone_as_well(client: KernelClient) -> None:
    started = await client.execute(
        "import subprocess\n"
        "one = subprocess.Popen(['sleep', '600'])\n"
        "two = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "one.pid, two.pid"
    )
    children = [psutil.Process(int(pid)) for pid in (started.text or "").strip("()").split(",")]
    await death_of(client, "import os; os._exit(1)")
    assert not await survivors(children, DEATH)


@pytest.mark.asyncio
async def test_a_kernel_that_dies_while_its_question_is_open_is_told(client: KernelClient) -> None:
    async def never(prompt: str, password: bool) -> str:
        await asyncio.Event().wait()
        return ""

    code = "import os, threading\nthreading.Timer(0.2, os._exit, [3]).start()\ninput('? ')"
    error = await death_of(client, code, within=DEATH + 1, on_input=never)
    assert error.exit == ExitStatus("exited", code=3)
    await still_works(client)


@pytest.mark.asyncio
async def test_a_kernel_that_dies_at_every_start_is_an_error_each_time(tmp_path: Path) -> None:
    """PYTHONPATH leads every Python of the kernel to a module that ends it."""
    (tmp_path / "ipykernel").mkdir()
    (tmp_path / "ipykernel" / "__init__.py").write_text("import os; print('no kernel today', flush=True); os._exit(9)")
    async with KernelGateway(port=0, env={"PYTHONPATH": str(tmp_path)}) as gateway:
        for _ in range(2):
            with pytest.raises(KernelStartError, match="exit code 9"):
                async with asyncio.timeout(HANG):
                    await KernelClient(gateway.host, gateway.port).connect()


# ---- gateways that die ----------------------------------------------------------------------------------------


def gateway_process(gateway: KernelGateway) -> psutil.Process:
    """The process that serves, below the one at the top."""
    (process,) = psutil.Process(gateway.pid).children()
    return process


@pytest.mark.parametrize("victim", ["server", "top"])
@pytest.mark.asyncio
async def test_a_gateway_killed_during_an_execution_is_told_and_leaves_no_orphan(victim: str) -> None:
    async with KernelGateway(port=0) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            await client.execute("import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])")
            processes = family(gateway.pid)
            assert len(processes) >= 4
            with pytest.raises(ConnectionLostError) as caught:
                async with asyncio.timeout(LOSS + 1), client.run("print('partial')\ntime.sleep(60)") as execution:
                    async for _ in execution:
                        target = gateway_process(gateway) if victim == "server" else psutil.Process(gateway.pid)
                        target.kill()
            assert caught.value.execution_id == execution.id
            assert caught.value.result is not None
            assert caught.value.result.stdout == "partial\n"
            with pytest.raises(GatewayConnectionError):
                async with asyncio.timeout(LOSS):
                    await client.execute("1")
        orphans = await survivors(processes, LOSS)
        for orphan in orphans:
            orphan.kill()
        assert not orphans


@pytest.mark.asyncio
async def test_calls_that_wait_when_the_gateway_is_killed_all_end() -> None:
    async with KernelGateway(port=0) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            calls = [asyncio.create_task(client.execute("print(1)\nimport time\ntime.sleep(60)")) for _ in range(4)]
            async with client.run("1"):
                pass
            gateway_process(gateway).kill()
            async with asyncio.timeout(4 * LOSS):
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, ConnectionLostError | GatewayConnectionError) for result in results)


@pytest.mark.asyncio
async def test_a_client_outlives_its_gateway_and_uses_the_next_one_on_that_port() -> None:
    async with KernelGateway(port=0) as first:
        client = KernelClient(first.host, first.port)
        await client.connect()
        await client.execute("x = 1")
    try:
        with pytest.raises((ConnectionLostError, GatewayConnectionError)):
            async with asyncio.timeout(HANG):
                await client.execute("x")
        async with KernelGateway(port=first.port) as second:
            error = await death_of(client, "x", within=HANG)
            assert not error.during_execution
            assert (await client.execute("'x' in globals()")).text == "False"
            assert second.is_running
            await client.disconnect()
    finally:
        await client.disconnect()


@pytest.mark.asyncio
async def test_a_gateway_that_stands_still_hangs_nobody() -> None:
    async with KernelGateway(port=0) as gateway:
        server = gateway_process(gateway)
        options: dict[str, Any] = {"connect_timeout": 3, "ping_interval": 0.5, "reconnect_timeout": 1}
        async with KernelClient(gateway.host, gateway.port, **options) as client:
            server.suspend()
            try:
                with pytest.raises(IpyboxError):
                    async with asyncio.timeout(HANG):
                        await client.execute("1 + 1")
                with pytest.raises(IpyboxError):
                    async with asyncio.timeout(HANG):
                        await client.execute("1 + 1", timeout=1)
            finally:
                server.resume()
            await eventually(lambda: False, 0.2)
            async with asyncio.timeout(HANG):
                await ended(client, "1 + 1")
            await still_works(client)


# ---- no gateway there -----------------------------------------------------------------------------------------


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that treats each connection as ``answer`` does, and holds it open."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            try:
                answer(connection)
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(HANG)
        for connection in held:
            connection.close()


async def refusal(port: int, *, host: str = "127.0.0.1", within: float = HANG, **options: Any) -> str:
    """Connects, and returns the reason of the one clear error that this must give."""
    with pytest.raises(GatewayConnectionError) as caught:
        async with asyncio.timeout(within):
            await KernelClient(host, port, **options).connect()
    assert caught.value.address == f"http://{host}:{port}"
    assert caught.value.address in str(caught.value)
    assert caught.value.reason
    assert caught.value.reason in str(caught.value)
    return caught.value.reason


@pytest.mark.asyncio
async def test_a_host_that_does_not_exist() -> None:
    assert "resolve" in await refusal(8888, host="no-such-host.invalid")


@pytest.mark.asyncio
async def test_a_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "refused" in (await refusal(port)).lower()


@pytest.mark.asyncio
async def test_a_wrong_or_missing_token() -> None:
    async with KernelGateway("127.0.0.1", port=0, auth_token=True) as gateway:
        assert gateway.auth_token
        assert "token" in await refusal(gateway.port)
        assert "token" in await refusal(gateway.port, auth_token="wrong")
        assert "token" in await refusal(gateway.port, auth_token=gateway.auth_token + "x")
        assert "token" in await refusal(gateway.port, auth_token=gateway.auth_token[:-1])
        async with KernelClient(gateway.host, gateway.port, auth_token=gateway.auth_token) as client:
            await still_works(client)


class _Plain(BaseHTTPRequestHandler):
    """A web server that likes every request."""

    def do_GET(self) -> None:
        body = b"[]"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Redirecting(_Plain):
    """A web server that sends everybody elsewhere."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.mark.parametrize("handler", [_Plain, _Redirecting])
@pytest.mark.asyncio
async def test_a_web_server_that_is_no_gateway(handler: type[BaseHTTPRequestHandler]) -> None:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            assert "not an ipybox gateway" in await refusal(server.server_port)
        finally:
            server.shutdown()
            thread.join()


GREETINGS = {
    "garbage": b"\x00\xffSSH-2.0-nonsense\r\n\r\n" * 20,
    "half a header": b"HTTP/1.1 200 OK\r\nServer: ipybox/0",
    "a false gateway": b"HTTP/1.1 200 OK\r\nServer: ipybox/0.1.0\r\nContent-Length: 2\r\n\r\n[]",
    "a false gateway without end": b"HTTP/1.1 200 OK\r\nServer: ipybox/0.1.0\r\nContent-Length: 99999\r\n\r\n[",
    "nothing": b"",
}


@pytest.mark.parametrize("greeting", GREETINGS)
@pytest.mark.asyncio
async def test_a_server_that_talks_nonsense_or_not_at_all(greeting: str) -> None:
    with raw_server(lambda connection: connection.sendall(GREETINGS[greeting])) as port:
        await refusal(port, connect_timeout=0.5, within=0.5 + 2 * MARGIN)


@pytest.mark.asyncio
async def test_a_server_that_hangs_up() -> None:
    with raw_server(lambda connection: connection.close()) as port:
        await refusal(port, connect_timeout=5)


@pytest.mark.asyncio
async def test_a_failed_client_can_connect_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = KernelClient("127.0.0.1", port)
    with pytest.raises(GatewayConnectionError):
        await client.connect()
    assert not client.is_connected
    async with KernelGateway("127.0.0.1", port), client:
        await still_works(client)


# ---- bad arguments --------------------------------------------------------------------------------------------

BAD_CLIENT: list[tuple[str, Any, type[Exception]]] = [
    ("host", "", ValueError),
    ("host", 5, TypeError),
    ("host", None, TypeError),
    ("port", 0, ValueError),
    ("port", -1, ValueError),
    ("port", 70000, ValueError),
    ("port", "8888", TypeError),
    ("port", True, TypeError),
    ("port", 1.5, TypeError),
    ("images_dir", 5, TypeError),
    ("images_dir", __file__, ValueError),
    ("auth_token", 5, TypeError),
    ("auth_token", "", ValueError),
    ("auth_token", "two\nlines", ValueError),
    ("auth_token", "schlüssel", ValueError),
    ("kernel_id", 5, TypeError),
    ("kernel_id", "", ValueError),
    ("kernel_id", "../../api", ValueError),
    ("kernel_name", 5, TypeError),
    ("kernel_name", "", ValueError),
    ("keep_kernel", "yes", TypeError),
    ("on_input", "yes", TypeError),
    ("output_limit", 5, TypeError),
    ("connect_timeout", 0, ValueError),
    ("connect_timeout", float("nan"), ValueError),
    ("connect_timeout", "1", TypeError),
    ("connect_timeout", None, TypeError),
    ("interrupt_grace", -1, ValueError),
    ("interrupt_grace", True, TypeError),
    ("ping_interval", 0, ValueError),
    ("reconnect_timeout", -0.5, ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_CLIENT)
def test_bad_arguments_of_a_client(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name}\b"):
        KernelClient(**{name: value})


BAD_GATEWAY: list[tuple[str, Any, type[Exception]]] = [
    ("host", "", ValueError),
    ("host", 5, TypeError),
    ("port", -1, ValueError),
    ("port", 70000, ValueError),
    ("port", "8888", TypeError),
    ("port", False, TypeError),
    ("working_dir", 5, TypeError),
    ("working_dir", "/does/not/exist", ValueError),
    ("working_dir", __file__, ValueError),
    ("sandbox", "yes", TypeError),
    ("sandbox_config", "sandbox.json", ValueError),
    ("log_level", "LOUD", ValueError),
    ("log_level", 10, TypeError),
    ("log_to_stderr", "yes", TypeError),
    ("env", {"A": 1}, TypeError),
    ("env", {1: "A"}, TypeError),
    ("env", {"A=B": "C"}, ValueError),
    ("env", {"": "C"}, ValueError),
    ("env", {"A": "\0"}, ValueError),
    ("env", {"A": "\ud800"}, ValueError),
    ("env", ["A=B"], TypeError),
    ("env", "A=B", TypeError),
    ("auth_token", 5, TypeError),
    ("auth_token", "", ValueError),
    ("auth_token", "a b", ValueError),
    ("auth_token", "é", ValueError),
    ("auth_token", "a\x00b", ValueError),
    ("kernel_name", 5, TypeError),
    ("kernel_name", "", ValueError),
    ("journal_bytes", 5, ValueError),
    ("journal_bytes", 1e9, TypeError),
    ("memory_limit", 5, ValueError),
    ("memory_limit", "1G", TypeError),
    ("abandoned_timeout", 0, ValueError),
    ("abandoned_timeout", "1", TypeError),
    ("start_timeout", 0, ValueError),
    ("start_timeout", None, TypeError),
    ("stop_timeout", -1, ValueError),
    ("stop_timeout", float("nan"), ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_GATEWAY)
def test_bad_arguments_of_a_gateway(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name}\b"):
        KernelGateway(**{name: value})


BAD_EXECUTION: list[tuple[str, Any, type[Exception]]] = [
    ("code", 5, TypeError),
    ("code", None, TypeError),
    ("code", b"1", TypeError),
    ("timeout", 0, ValueError),
    ("timeout", -1, ValueError),
    ("timeout", float("nan"), ValueError),
    ("timeout", "1", TypeError),
    ("timeout", True, TypeError),
    ("env", {"A": 1}, TypeError),
    ("env", {"A=": "B"}, ValueError),
    ("env", {"A": "\ud800"}, ValueError),
    ("env", "A=B", TypeError),
    ("cwd", 5, TypeError),
    ("cwd", b"/", TypeError),
    ("cwd", "a\0b", ValueError),
    ("file_name", 5, TypeError),
    ("argv", "abc", TypeError),
    ("argv", 5, TypeError),
    ("argv", [1], TypeError),
    ("on_input", 5, TypeError),
    ("output_limit", 5, TypeError),
]


@pytest.mark.parametrize("method", ["run", "execute", "stream"])
@pytest.mark.asyncio
async def test_bad_arguments_of_an_execution(client: KernelClient, method: str) -> None:
    wrong = []
    for name, value, error in BAD_EXECUTION:
        arguments = {"code": "ran = 1", name: value}
        try:
            async with asyncio.timeout(HANG):
                if method == "run":
                    client.run(**arguments)
                elif method == "execute":
                    await client.execute(**arguments)
                else:
                    async for _ in client.stream(**arguments):
                        pass
        except error as caught:
            if not str(caught).startswith(name):
                wrong.append((name, value, repr(caught)))
        except Exception as caught:
            wrong.append((name, value, repr(caught)))
        else:
            wrong.append((name, value, "no error"))
    assert not wrong
    assert (await client.execute("'ran' in globals()")).text == "False"


@pytest.mark.asyncio
async def test_calls_that_never_ran_leave_no_descriptor(gateway: KernelGateway, tmp_path: Path) -> None:
    limit = OutputLimit(directory=tmp_path / "text")
    async with KernelClient(gateway.host, gateway.port, images_dir=tmp_path, output_limit=limit) as client:
        await client.execute("1")
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(ExecutionNotFoundError):
                async with client.attach("nonsense"):
                    pass
        await client.execute("import os, threading\nthreading.Timer(0.1, os._exit, [5]).start()")
        assert await eventually(lambda: link_of(client).is_dead)
        assert not (await death_of(client, "1")).during_execution
        await client.execute("1")
        assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("after", [-1, "0", 1.5])
@pytest.mark.asyncio
async def test_bad_arguments_of_an_attachment(client: KernelClient, after: Any) -> None:
    result = await client.execute("1")
    with pytest.raises((ValueError, TypeError), match=r"^after\b"):
        async with client.attach(result.execution_id, after):
            pass


@pytest.mark.parametrize(
    ("name", "value"), [("head", -1), ("tail", -1), ("head", 1.5), ("tail", "1"), ("directory", 5)]
)
def test_bad_arguments_of_an_output_limit(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name}\b"):
        OutputLimit(**{name: value})


@pytest.mark.asyncio
async def test_a_client_that_is_not_connected_says_so() -> None:
    client = KernelClient()
    with pytest.raises(RuntimeError, match="not connected"):
        await client.execute("1")
    with pytest.raises(RuntimeError, match="not connected"):
        await client.reset()
    with pytest.raises(RuntimeError, match="not connected"):
        _ = client.kernel_id
    await client.disconnect()


# ---- many at once ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def clients(gateway: KernelGateway, count: int) -> AsyncIterator[list[KernelClient]]:
    made = [KernelClient(gateway.host, gateway.port) for _ in range(count)]
    try:
        await asyncio.gather(*(client.connect() for client in made))
        yield made
    finally:
        await asyncio.gather(*(client.disconnect() for client in made))


@pytest.mark.asyncio
async def test_20_clients_with_100_calls_each_get_their_own_answers(gateway: KernelGateway) -> None:
    async def ask(number: int, client: KernelClient) -> None:
        await client.execute(f"me = {number}; calls = 0")
        for call in range(100):
            result = await client.execute(f"calls += 1\nprint(me, {call})\nme * 1000 + {call}, calls")
            assert result.stdout == f"{number} {call}\n"
            assert result.text == f"{number} {call}\n({number * 1000 + call}, {call + 1})"

    async with clients(gateway, 20) as made:
        await asyncio.gather(*(ask(number, client) for number, client in enumerate(made)))


@pytest.mark.asyncio
async def test_100_calls_at_once_on_one_client_get_their_own_answers(client: KernelClient) -> None:
    results = await asyncio.gather(*(client.execute(f"print({i}); {i} * 2") for i in range(100)))
    assert [result.text for result in results] == [f"{i}\n{i * 2}" for i in range(100)]


@pytest.mark.asyncio
async def test_a_flood_of_one_client_does_not_starve_another(gateway: KernelGateway) -> None:
    async with clients(gateway, 2) as (flooding, calm):
        await calm.execute("1")
        flood = asyncio.create_task(flooding.execute("for i in range(100_000): print('flood', i)"))
        answered = 0
        while not flood.done():
            async with asyncio.timeout(2 * MARGIN):
                await calm.execute("1 + 1")
            answered += 1
        assert (await flood).stdout.count("\n") == 100_000
        assert answered > 1


# ---- code that does not stop ----------------------------------------------------------------------------------

STUBBORN = {
    "swallows KeyboardInterrupt": """
import time
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
""",
    "swallows every exception": """
import time
while True:
    try:
        time.sleep(0.01)
    except BaseException:
        continue
    finally:
        continue
""",
    "ignores SIGINT": "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)",
    "blocks all signals": (
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\ntime.sleep(60)"
    ),
    "is stuck in C": "sum(range(10 ** 12))",
    "holds the interpreter lock": (
        "import ctypes, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nctypes.PyDLL(None).sleep(60)"
    ),
    "is stuck in C without the lock": (
        "import ctypes, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nctypes.CDLL(None).sleep(60)"
    ),
    "stopped itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "runs in an async loop": """
import asyncio
while True:
    try:
        await asyncio.sleep(60)
    except BaseException:
        pass
""",
}


@pytest.mark.parametrize("kind", STUBBORN)
@pytest.mark.asyncio
async def test_stubborn_code_is_ended_by_a_restart_and_the_error_says_so(gateway: KernelGateway, kind: str) -> None:
    async with KernelClient(gateway.host, gateway.port, interrupt_grace=1.0) as client:
        await client.execute("x = 1")
        with pytest.raises(ExecutionTimeoutError) as caught:
            async with asyncio.timeout(HANG):
                await client.execute("print('partial', flush=True)\n" + STUBBORN[kind], timeout=0.5)
        assert isinstance(caught.value, asyncio.TimeoutError)
        assert caught.value.state_preserved is False
        assert caught.value.result is not None
        assert caught.value.result.stdout == "partial\n"
        async with asyncio.timeout(HANG):
            assert (await client.execute("'x' in globals()")).text == "False"


@pytest.mark.asyncio
async def test_what_was_printed_and_not_sent_survives_the_restart_after_a_timeout(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port, interrupt_grace=0.2) as client:
        stopping = (
            "import os, signal, sys\nprint('a', end='')\nsys.stderr.write('b')\nos.kill(os.getpid(), signal.SIGSTOP)"
        )
        with pytest.raises(ExecutionTimeoutError) as caught:
            await client.execute(stopping, timeout=0.5)
        assert caught.value.result is not None
        assert (caught.value.result.stdout, caught.value.result.stderr) == ("a", "b")
        assert (await client.execute("print('next', end='')")).stdout == "next"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "import os; os.system('sleep 60')",
        "get_ipython().system('sleep 60')",
        "import re; re.match('(a+)+b', 'a' * 50)",
        "import asyncio; await asyncio.sleep(60)",
        "import threading; threading.Event().wait()",
        "import asyncio; await asyncio.gather(*(asyncio.sleep(60) for _ in range(3)))",
        "7 ** (10 ** 9)",
        "while True: print('flood' * 100)",
        "import sys\nwhile True: print('flood', file=sys.stderr, flush=True)",
        "import subprocess; subprocess.run('yes', stdout=None)",
    ],
)
@pytest.mark.asyncio
async def test_a_timeout_keeps_the_variables_of_code_that_can_be_interrupted(client: KernelClient, code: str) -> None:
    await client.execute("x = 1")
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute(code, timeout=0.5)
    assert caught.value.state_preserved
    assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_abandoned_code_that_ignores_its_interrupt_is_told_to_the_next_call(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port, interrupt_grace=1.0) as client:
        await client.execute("x = 1")
        async with client.run("print('on')\n" + STUBBORN["swallows KeyboardInterrupt"]) as execution:
            await anext(execution)
        error = await death_of(client, "print(x)", within=HANG)
        assert not error.during_execution
        assert error.exit.reason == "restarted"
        assert (await client.execute("'x' in globals()")).text == "False"


# ---- code that breaks the kernel's own machinery --------------------------------------------------------------

VANDALS = {
    "closes stdout": "import sys\nsys.stdout.close()",
    "closes both streams": "import sys\nsys.stdout.close(); sys.stderr.close()\nprint('still here')",
    "removes stdout": "import sys\nsys.stdout = sys.stderr = None",
    "deletes stdout": "import sys\ndel sys.stdout, sys.stderr",
    "puts nonsense there": "import sys\nsys.stdout = sys.stderr = 5",
    "puts a stream there that fails": """
import sys
class Bad:
    def write(self, text): raise RuntimeError
    def flush(self): raise SystemExit
sys.stdout = sys.stderr = Bad()
""",
    "forgets modules": (
        "import sys\nfor name in list(sys.modules):\n"
        "    if name.startswith(('ipykernel', 'zmq', 'IPython', 'ipybox', 'json', 'asyncio')): del sys.modules[name]"
    ),
    "forgets all modules": "import sys\nsys.modules.clear()",
    "breaks builtins": "import builtins\nbuiltins.print = builtins.len = None",
    "closes 0 to 2": "import os\nos.closerange(0, 3)",
    "closes 1 and opens a file there": "import os\nos.close(1)\nos.open('/dev/null', 1)\nprint('still here')",
    "closes everything": "import os\nos.closerange(0, 1000)",
    "closes everything from 3": "import os\nos.closerange(3, 1000)",
    "replaces handlers": (
        "import signal\nfor number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)"
    ),
    "sits in a directory that is gone": (
        "import os, tempfile\nd = tempfile.mkdtemp()\nos.chdir(d)\nos.rmdir(d)\nprint('still here')"
    ),
    "uses up all descriptors": (
        "import os, resource\n_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))\nheld = []\n"
        "try:\n    while True: held.append(os.open('/dev/null', 0))\nexcept OSError: pass\nprint('still here')"
    ),
    "forbids new files": (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\nprint('still here')"
    ),
    "stops the output thread": "get_ipython().kernel.iopub_thread.stop()",
    "closes the output socket": "get_ipython().kernel.iopub_thread.socket.close()",
    "closes the shell channel": "get_ipython().kernel.shell_stream.close()",
    "ends the ZMQ context": (
        "import gc, zmq, threading\n"
        "threading.Thread(target=lambda: [c.destroy(linger=0) for c in gc.get_objects() if isinstance(c, zmq.Context)]"
        ", daemon=True).start()\nimport time; time.sleep(0.5)"
    ),
    "stops the loop": "import asyncio\nasyncio.get_running_loop().stop()",
    "stops the application": "from ipykernel.kernelapp import IPKernelApp\nIPKernelApp.instance().io_loop.stop()",
    "cancels every task": (
        "import asyncio\nfor task in asyncio.all_tasks():\n    if task is not asyncio.current_task(): task.cancel()\n"
        "await asyncio.sleep(0)"
    ),
    "sends what is no message": (
        "get_ipython().kernel.iopub_thread.send_multipart([b'x', b'<IDS|MSG>', b'', b'{', b'}', b'[]', b'5'])"
    ),
    "sends messages with the wrong contents": """
kernel = get_ipython().kernel
for kind, content in [
    ("stream", {}), ("stream", {"name": 5, "text": 5}), ("stream", {"name": [], "text": {}}),
    ("display_data", {"data": [1]}), ("display_data", {"data": "x", "metadata": 5, "transient": "y"}),
    ("display_data", {"data": {"image/png": 5}}), ("display_data", {"data": {"text/plain": 5}}),
    ("update_display_data", {}), ("error", {"traceback": 5}), ("status", {"execution_state": 5}),
    ("ipybox_gap", {"lost": "many"}), ("clear_output", {}), ("unknown", {}),
]:
    kernel.send_response(kernel.iopub_socket, kind, content)
""",
    "speaks in the gateway's name": """
kernel = get_ipython().kernel
message = kernel.session.msg("status", {"execution_state": "dead"}, metadata={"ipybox": {"exit": 5}})
message["header"]["session"] = "ipybox-hub"
kernel.session.send(kernel.iopub_thread, message)
""",
    "raises what has no words": (
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError\n    __repr__ = __str__\nraise Mute"
    ),
    "shows what can't be shown": ("class Mute:\n    def __repr__(self): raise SystemExit\nMute()"),
    "nests deeply": "def f(): f()\nf()",
    "breaks the threads' lock": (
        "from ipybox.kernel_mgr.kernel_stdio import KernelStream\nimport threading\n"
        "t = threading.Thread(target=KernelStream.log.lock.acquire)\nt.start(); t.join()"
    ),
    "replaces exception hooks": "import sys, threading\nsys.excepthook = threading.excepthook = None\n1 / 0",
    "traces everything": "import sys\nsys.settrace(lambda *a: 1 / 0)\nprint('x')",
}


@pytest.mark.parametrize("kind", VANDALS)
@pytest.mark.asyncio
async def test_code_that_breaks_the_kernel_hangs_nobody(gateway: KernelGateway, kind: str) -> None:
    """It may end in any error of ours; a success must be one; and two calls later all is well again."""
    async with KernelClient(gateway.host, gateway.port, interrupt_grace=1.0) as client:
        first = await ended(client, VANDALS[kind], timeout=3)
        if first is None or isinstance(first, ExecutionError):
            # The kernel lives: it may be of no use any more, but it must not pretend.
            async with asyncio.timeout(HANG):
                try:
                    result = await client.execute("6 * 7", timeout=3)
                except IpyboxError:
                    pass
                else:
                    assert result.text == "42"
        async with asyncio.timeout(HANG):
            await client.reset()
        await still_works(client)


@pytest.mark.parametrize(
    "kind", ["closes both streams", "closes 1 and opens a file there", "sits in a directory that is gone"]
)
@pytest.mark.asyncio
async def test_output_survives_code_that_closes_things(client: KernelClient, kind: str) -> None:
    assert (await client.execute(VANDALS[kind])).stdout == "still here\n"
    assert (await client.execute("print('and here')")).stdout == "and here\n"


@pytest.mark.parametrize("kind", ["removes stdout", "deletes stdout", "puts nonsense there"])
@pytest.mark.asyncio
async def test_output_comes_back_in_the_next_cell(client: KernelClient, kind: str) -> None:
    await ended(client, VANDALS[kind])
    assert (await client.execute("print('back')")).stdout == "back\n"


@pytest.mark.asyncio
async def test_nonsense_on_the_wire_does_not_wedge_the_client(gateway: KernelGateway) -> None:
    """One message that nobody can read must cost that message, not the connection."""
    async with KernelClient(gateway.host, gateway.port, interrupt_grace=1.0) as client:
        await client.execute("x = 1")
        async with asyncio.timeout(HANG):
            result = await client.execute(VANDALS["sends what is no message"] + "\nprint('told')")
            assert result.stdout == "told\n"
            assert (await client.execute("x")).text == "1"


@pytest.mark.parametrize("cwd", ["/does/not/exist", __file__])
@pytest.mark.asyncio
async def test_a_working_directory_that_is_none_is_an_error_and_nothing_runs(client: KernelClient, cwd: str) -> None:
    with pytest.raises(ExecutionError):
        await client.execute("x = 1", cwd=cwd)
    assert (await client.execute("'x' in globals()")).text == "False"


def test_this_process_may_start_enough_processes() -> None:
    """What the tests above need; a clear message here beats a strange one there."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    assert soft in (-1, resource.RLIM_INFINITY) or soft > 500
    assert is_alive(psutil.Process(os.getpid()))
