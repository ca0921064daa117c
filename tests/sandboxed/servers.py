"""What the tests of lifetime, limits and allow-lists need of the host: servers, certificates, and processes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from tests.kernels.helpers import HANG, command_of, family, name_of

PAGE = "<h1>Example Domain</h1>"


# ---- policies -------------------------------------------------------------------------------------------------


def write_policy(directory: Path, name: str = "policy.json", **sections: Any) -> Path:
    """A policy file."""
    path = directory / name
    path.write_text(json.dumps(sections))
    return path


# ---- processes as the host sees them --------------------------------------------------------------------------


def supervisor_of(gateway: KernelGateway) -> psutil.Process:
    """The process that builds the walls."""
    (process,) = psutil.Process(gateway.pid).children()
    return process


def wall_of(gateway: KernelGateway, what: str) -> psutil.Process:
    """The outermost process of a wall: ``launcher`` or ``gateway_process``."""
    (process,) = (each for each in supervisor_of(gateway).children() if what in " ".join(command_of(each)))
    return process


def server_of(gateway: KernelGateway) -> psutil.Process:
    """The process that serves HTTP, behind its wall."""
    process = wall_of(gateway, "gateway_process")
    while children := process.children():
        (process,) = children
    return process


def inits(gateway: KernelGateway) -> list[psutil.Process]:
    """Pid 1 of each kernel."""
    return [process for process in family(gateway.pid) if name_of(process) == "ipybox-init"]


def host_mounts() -> str:
    """All mounts that this process sees."""
    return Path("/proc/self/mountinfo").read_text()


async def connected(gateway: KernelGateway, count: int, **options: Any) -> list[KernelClient]:
    """Clients with a kernel each, all started at once."""
    clients = [KernelClient(gateway.host, gateway.port, **options) for _ in range(count)]
    async with asyncio.timeout(2 * HANG):
        await asyncio.gather(*(client.connect() for client in clients))
    return clients


async def text_of(client: KernelClient, code: str, timeout: float | None = None, **options: Any) -> str:
    """What code prints; never hangs."""
    async with asyncio.timeout(2 * HANG):
        return (await client.execute(code, timeout, **options)).text or ""


# ---- servers --------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What reached a server."""

    requests: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    """A page for everything, and files below ``/files/``."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, seen: Seen, **kwargs: Any) -> None:
        self.seen = seen
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self.seen.requests.append(f"{self.headers.get('Host')} {self.path}")
        if self.path.startswith("/files/"):
            super().do_GET()
        elif self.path.startswith("/redirect/"):
            self._answer(302, "", {"Location": f"http://{self.path.removeprefix('/redirect/')}/"})
        else:
            self._answer(200, f"{PAGE} {self.path}\n")

    def _answer(self, status: int, text: str, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text)), "Content-Type": "text/html"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: Any, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        super().__init__(("127.0.0.1", 0), handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            try:
                super().finish_request(request, client_address)
            finally:
                request.close()
        except OSError:
            pass  # clients come and go as they like


@contextmanager
def http_server(files: Path, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, Seen]]:
    """A server on 127.0.0.1, by port, and what it saw."""
    seen = Seen()
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: seen.names.append(name)
    server = _Server(partial(_Handler, seen=seen, directory=str(files)), tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port, seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(HANG)


@contextmanager
def counting_server() -> Iterator[tuple[int, list[object]]]:
    """A TCP server that only counts who comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    visits: list[object] = []

    def serve() -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            visits.append(address)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], visits
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(HANG)


# ---- certificates ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests' own, and a server's certificate by it."""

    certificate: Path
    server: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.key)
        return context


def make_authority(directory: Path, names: list[str]) -> Authority:
    """Makes both with the ``openssl`` command."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    server, key, request = directory / "server.pem", directory / "server.key", directory / "server.csr"
    extensions = directory / "extensions"
    extensions.write_text(f"subjectAltName={','.join(f'DNS:{name}' for name in names)}\nbasicConstraints=CA:FALSE\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *curve, "-days", "30", "-subj", "/CN=test authority", "-keyout", ca_key, "-out", ca)
    _openssl("req", *curve, "-subj", f"/CN={names[0]}", "-keyout", key, "-out", request)
    signing = ("-CA", ca, "-CAkey", ca_key, "-set_serial", "1", "-days", "30", "-extfile", extensions)
    _openssl("x509", "-req", "-in", request, *signing, "-out", server)
    return Authority(ca, server, key)


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "RANDFILE": os.devnull}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
