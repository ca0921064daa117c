"""Any Jupyter client is at home here: Jupyter's conformance tests for kernels, through the gateway, by websocket."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jupyter_kernel_test
import pytest
from jupyter_kernel_test.msgspec_v5 import validate_message
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelManager

from ipybox.kernel_mgr.server import KernelGateway
from tests.kernels.helpers import HANG
from tests.kernels.jupyter_adaptor import STANDARD, WebsocketClient, joined_kernel, rest

pytestmark = pytest.mark.kernel

BINARY = bytes(range(256))
MIRROR = """
from comm import get_comm_manager

def opened(comm, message):
    @comm.on_msg
    def received(message):
        comm.send({"back": message["content"]["data"]}, buffers=[bytes(buffer) for buffer in message["buffers"]])

get_comm_manager().register_target("mirror", opened)
"""
"""A comm target in the kernel that sends back what it gets."""


@pytest.fixture(scope="class")
def served(
    request: pytest.FixtureRequest, gateway: KernelGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KernelGateway]:
    """The gateway of a class, which may want one with options of its own."""
    if not request.cls.options:
        yield gateway
        return
    own = KernelGateway(port=0, working_dir=tmp_path_factory.mktemp("work"), **request.cls.options)
    asyncio.run(own.start())
    try:
        assert own.start_method == request.cls.start_method
        yield own
    finally:
        asyncio.run(own.stop())


@pytest.fixture(scope="class")
def connection(request: pytest.FixtureRequest, served: KernelGateway) -> Iterator[None]:
    """A kernel for all tests of a class, and the class's connection to it."""
    gateway = served
    kernel = rest("POST", f"{gateway.url}/api/kernels")
    try:
        with joined_kernel(gateway.url, kernel["id"], request.cls.subprotocol) as client:
            request.cls.kc = client
            yield
    finally:
        rest("DELETE", f"{gateway.url}/api/kernels/{kernel['id']}")


class OverWebsocket:
    """The conformance tests' samples for IPython, their connection, and what they leave out."""

    subprotocol: str | None
    kc: WebsocketClient
    options: ClassVar[dict[str, Any]] = {}
    start_method = "fork"

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oops', file=sys.stderr)"
    completion_samples: ClassVar = [
        {"text": "zi", "matches": ["zip"]},
        {"text": "import textwr", "matches": ["textwrap"]},
        {"text": "no_such_name_at_all", "matches": []},
    ]
    complete_code_samples: ClassVar = ["1", "print('hello, world')", "def f(x):\n  return x * 2\n\n\n"]
    incomplete_code_samples: ClassVar = ["print('''hello", "def f(x):\n  x * 2", "[1,"]
    invalid_code_samples: ClassVar = ["import = 7q", "1 +* 2"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('wrong')"
    code_execute_result: ClassVar = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n * n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data: ClassVar = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>bold</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math(r'\\pi'))", "mime": "text/latex"},
        {"code": "display({'image/png': 'iVBORw0KGgo='}, raw=True)", "mime": "image/png"},
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")  # IPython calls the current session 0 in a "range"
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        """The fixture connects; Jupyter's own would start a kernel beside the gateway."""

    @classmethod
    def tearDownClass(cls) -> None:
        """The fixture closes."""

    def flush_channels(self) -> None:
        """Reads what is on its way, up to the answer to a question: nothing that was sent before comes after that."""
        question = self.kc.kernel_info()
        for channel, last in (("shell", "kernel_info_reply"), ("iopub", "status: idle")):
            while True:
                message = getattr(self.kc, f"{channel}_channel").get_msg()
                validate_message(message)
                kind = "status: idle" if self.is_idle(message) else message["msg_type"]
                if kind == last and message["parent_header"].get("msg_id") == question:
                    break

    @staticmethod
    def is_idle(message: dict[str, Any]) -> bool:
        return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")

    def output_of(self, request: str) -> list[dict[str, Any]]:
        """What a request puts out, until the kernel is idle again."""
        messages: list[dict[str, Any]] = []
        while True:
            message = self.kc.iopub_channel.get_msg()
            if message["parent_header"]["msg_id"] != request:
                continue  # what came on the control channel meanwhile has a status as well
            if self.is_idle(message):
                return messages
            messages.append(message)

    def reply_to(self, request: str, kind: str, channel: str = "shell") -> Any:
        """The content of a reply."""
        reply = getattr(self.kc, f"{channel}_channel").get_msg()
        validate_message(reply, kind, request)
        return reply["content"]

    def test_protocol_is_the_one_asked_for(self) -> None:
        assert self.kc.negotiated == self.subprotocol

    def test_interrupt_by_rest(self) -> None:
        self.check_interrupt(lambda: rest("POST", f"{self.kc.kernel_url}/interrupt"))

    def test_code_asks_and_client_answers(self) -> None:
        self.flush_channels()
        request = self.kc.execute("print(input('name? ').upper())", allow_stdin=True)
        question = self.kc.stdin_channel.get_msg()
        assert (question["msg_type"], question["parent_header"]["msg_id"]) == ("input_request", request)
        assert question["content"] == {"prompt": "name? ", "password": False}
        self.kc.input("ada")
        assert self.reply_to(request, "execute_reply")["status"] == "ok"
        texts = [m["content"]["text"] for m in self.output_of(request) if m["msg_type"] == "stream"]
        assert "".join(texts) == "ADA\n"

    def test_buffers_travel_both_ways(self) -> None:
        self.flush_channels()
        request = self.kc.execute(MIRROR)
        assert self.reply_to(request, "execute_reply")["status"] == "ok"
        self.output_of(request)
        opening = self.kc.session.msg("comm_open", {"comm_id": "1", "target_name": "mirror", "data": {}})
        self.kc.shell_channel.send(opening)
        self.output_of(opening["msg_id"])
        sent = self.kc.session.msg("comm_msg", {"comm_id": "1", "data": {"n": 1}})
        sent["buffers"] = [BINARY, b""]
        self.kc.shell_channel.send(sent)
        (back,) = [m for m in self.output_of(sent["msg_id"]) if m["msg_type"] == "comm_msg"]
        assert back["content"]["data"] == {"back": {"n": 1}}
        assert back["buffers"] == [BINARY, b""]

    def test_large_output_is_whole(self) -> None:
        self.flush_channels()
        request = self.kc.execute("for n in range(200_000): print(n)")
        assert self.reply_to(request, "execute_reply")["status"] == "ok"
        text = "".join(m["content"]["text"] for m in self.output_of(request) if m["msg_type"] == "stream")
        assert text == "".join(f"{n}\n" for n in range(200_000))

    def test_interrupt_by_message(self) -> None:
        message = self.kc.session.msg("interrupt_request", {})

        def interrupt() -> None:
            self.kc.control_channel.send(message)
            assert self.reply_to(message["msg_id"], "interrupt_reply", "control")["status"] == "ok"

        self.check_interrupt(interrupt)

    def check_interrupt(self, interrupt: Callable[[], Any]) -> None:
        self.flush_channels()
        request = self.kc.execute("print('running', flush=True)\nwhile True: pass")
        while self.kc.iopub_channel.get_msg()["msg_type"] != "stream":
            pass
        interrupt()
        reply = self.reply_to(request, "execute_reply")
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert "error" in [message["msg_type"] for message in self.output_of(request)]


@pytest.mark.usefixtures("connection")
class TestStandardProtocol(OverWebsocket, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """Binary messages, as JupyterLab sends them."""

    subprotocol = STANDARD


@pytest.mark.usefixtures("connection")
class TestLegacyProtocol(OverWebsocket, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """JSON messages, as everybody else does."""

    subprotocol = None


@pytest.mark.usefixtures("connection")
class TestExecutedKernel(OverWebsocket, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """A kernel that is started anew, and not forked as the ones above."""

    subprotocol = STANDARD
    options: ClassVar = {"fork": False}
    start_method = "exec"


@pytest.mark.sandbox
@pytest.mark.usefixtures("connection")
class TestSandboxedKernel(OverWebsocket, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """A forked kernel in a sandbox."""

    subprotocol = STANDARD
    options: ClassVar = {"sandbox": True}


@pytest.fixture
def kernel_name(gateway: KernelGateway) -> Iterator[str]:
    """The gateway's default kernel, with jupyter_server's gateway client pointed at the gateway."""
    GatewayClient.instance(url=gateway.url)
    try:
        yield rest("GET", f"{gateway.url}/api/kernelspecs")["default"]
    finally:
        GatewayClient.clear_instance()


@pytest.mark.asyncio
async def test_jupyter_server_runs_kernels_here(kernel_name: str) -> None:
    """A Jupyter server that hands its kernels to a gateway uses these classes."""
    manager = GatewayKernelManager()
    await manager.start_kernel(kernel_name=kernel_name)
    try:
        assert await manager.is_alive()
        client = manager.client()
        await client.start_channels()
        try:
            request = client.execute("print(6 * 7)")
            reply = await client.get_shell_msg(timeout=HANG)
            while reply["parent_header"]["msg_id"] != request:
                reply = await client.get_shell_msg(timeout=HANG)
            assert reply["content"]["status"] == "ok"
            message = await client.get_iopub_msg(timeout=HANG)
            while message["msg_type"] != "stream":
                message = await client.get_iopub_msg(timeout=HANG)
            assert message["content"]["text"] == "42\n"
        finally:
            client.stop_channels()
    finally:
        await manager.shutdown_kernel()
    assert await manager.refresh_model() is None
